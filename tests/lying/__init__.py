"""A lying S3 site for tests and proofs: a proxy in front of a real site that commits any fault of the catalogue.

    with lying_site(endpoint, "I8-get", client=client) as site:      # on from the start, for all keys
        ...                                                          # work through site.url
        site.switch_off()                                            # the site tells the truth again
        assert site.hits("I8-get")                                   # whether a faulty request was ever made

`site.switch_on(name, bucket=..., key=..., one_key=True)` chooses requests; `custom(lie, "GetObject")` makes a fault of
one test's own. S3's signatures cover the header Host, which passes as it came: clients sign for the proxy's address.
"""

from tests.lying.catalogue import FAULTS
from tests.lying.messages import Answer, Request, error
from tests.lying.server import Fault, LyingSite, Upstream, custom, lying_site

__all__ = ["FAULTS", "Answer", "Fault", "LyingSite", "Request", "Upstream", "custom", "error", "lying_site"]
