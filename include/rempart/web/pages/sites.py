"""The page `sites`: the proven capabilities of each site, and the lag of its replicas."""

from __future__ import annotations

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models import sites


def read_sites() -> sites.Sites:
    """Return each site's proven capabilities, and each pair's lag over time."""
    return sites.sites(sources.newest(), sources.now())


PAGE = Page("sites", 20, {"en": "Sites", "fr": "Sites"}, "read", read_sites)
