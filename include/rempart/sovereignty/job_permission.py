"""Carry the policy's permission to a job that runs without rempart.yaml. Pure.

Whoever starts an attempt asks the policy and writes the answer into the order (`permitted`). The job opens a site only
if that answer allows it (`decide`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date, timedelta
from urllib.parse import urlsplit

from pydantic import Field

from rempart import canonical_json
from rempart.settings.config import Config
from rempart.settings.schema import Strict
from rempart.settings.sections import Classification
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision, Reason, endpoint_hosts, is_host_of, verdict

SHA256 = r"^[0-9a-f]{64}$"
LONGEST = timedelta(days=7)
"""An order may wait this long for its pod; later the policy must be asked again."""
ASK_AGAIN = "Run the job again: each attempt gets a new permission of the policy."


class JobSite(Strict):
    """A site as a job reaches it: the connection's name, never its secrets."""

    name: str
    connection: str
    region: str

    @classmethod
    def of(cls, config: Config, name: str) -> JobSite:
        """Return a site of rempart.yaml as a job reaches it."""
        site = config.sites[name]
        return cls(name=name, connection=site.connection, region=site.region)


class Permission(Strict):
    """The policy's permission for one attempt of a job.

    `hosts`: by site, its allowed hosts. `until`: the last day on which the job may open them. `decision`: SHA-256 of
    the policy's decisions about these sites, which identifies their evidence.
    """

    hosts: dict[str, tuple[str, ...]] = Field(min_length=1)
    until: date
    decision: str = Field(pattern=SHA256)


def decisions(
    config: Config, classification: Classification, sites: Iterable[str], *, on: date
) -> tuple[Decision, ...]:
    """Return the policy's answer about data of a classification at each of these sites, on a day."""
    return tuple(decide_site(config, classification, "data", name, on=on) for name in sorted(set(sites)))


def permitted(config: Config, classification: Classification, sites: Iterable[str], *, on: date) -> Permission:
    """Return the policy's permission of that day, for one attempt of a job. Raises PlacementDenied."""
    names = sorted(set(sites))
    found = decisions(config, classification, names, on=on)
    for decision in found:
        if not decision.allowed:
            raise decision.refusal()
    until = on
    while until < on + LONGEST:
        later = until + timedelta(days=1)
        if not all(decision.allowed for decision in decisions(config, classification, names, on=later)):
            break
        until = later
    body = canonical_json.encode([decision.as_json() for decision in found])
    hosts = {name: _hosts(config, name) for name in names}
    return Permission(hosts=hosts, until=until, decision=hashlib.sha256(body).hexdigest())


def decide(
    permission: Permission, classification: Classification, site: str, endpoint: str | None, *, on: date
) -> Decision:
    """Check whether a permission allows a job's data at this endpoint (a URL) of a site."""
    hosts, host = permission.hosts.get(site, ()), (urlsplit(endpoint or "").hostname or "")
    known = any(is_host_of(host, allowed) for allowed in hosts)
    fact = f"'{host}' is {'' if known else 'not '}a host that the job's spec allows: {', '.join(hosts) or 'none'}"
    remedy = f"Correct the endpoint of the connection of site {site}, or the operator's endpoints in rempart.yaml."
    dated = Reason(
        on <= permission.until,
        "permission.until",
        f"the permission is for jobs that start until {permission.until}, and today is {on}",
        ASK_AGAIN,
    )
    return verdict(classification, "data", f"site '{site}'", (Reason(known, "permission.hosts", fact, remedy), dated))


def _hosts(config: Config, name: str) -> tuple[str, ...]:
    site = config.sites[name]
    return endpoint_hosts(config.operators[site.operator].services[site.service], site.region)
