"""Carry the policy's permission in a job's spec: a job in a pool has no rempart.yaml. Pure.

Whoever starts an attempt asks the policy and writes the answer into the spec (`permit`). The job opens a site only if
that answer allows it (`decide`).
"""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from urllib.parse import urlsplit

from rempart import canonical_json
from rempart.errors import TrainingError
from rempart.settings.config import Config
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision, Reason, endpoint_hosts, is_host_of, verdict
from rempart.training.job import JobSpec, Permission

LONGEST = timedelta(days=7)
"""A spec may wait this long for its pod; later the policy must be asked again."""
_ASK_AGAIN = "Run the training again: each attempt gets a new permission of the policy."


def decisions(config: Config, spec: JobSpec, *, on: date) -> tuple[Decision, ...]:
    """Return the policy's answer about each site of a job, on a day."""
    names = sorted({spec.dataset.site.name, spec.output.site.name})
    return tuple(decide_site(config, spec.classification, "data", name, on=on) for name in names)


def permit(config: Config, spec: JobSpec, *, on: date) -> JobSpec:
    """Return the spec with the policy's permission of that day, for one attempt. Raises PlacementDenied."""
    found = decisions(config, spec, on=on)
    for decision in found:
        if not decision.allowed:
            raise decision.refusal()
    until = on
    while until < on + LONGEST:
        later = until + timedelta(days=1)
        if not all(decision.allowed for decision in decisions(config, spec, on=later)):
            break
        until = later
    hosts = {name: _hosts(config, name) for name in sorted({spec.dataset.site.name, spec.output.site.name})}
    body = canonical_json.encode([decision.as_json() for decision in found])
    permission = Permission(hosts=hosts, until=until, decision=hashlib.sha256(body).hexdigest())
    return spec.model_copy(update={"permission": permission})


def permission_of(spec: JobSpec) -> Permission:
    """Return the permission in a spec. Raises TrainingError without one."""
    if spec.permission is None:
        raise TrainingError(f"run job {spec.job_id}: its spec has no permission of the policy", _ASK_AGAIN)
    return spec.permission


def decide(spec: JobSpec, site: str, endpoint: str | None, *, on: date) -> Decision:
    """Check whether the spec allows a job's data at this endpoint (a URL) of a site. Raises TrainingError."""
    permission = permission_of(spec)
    hosts, host = permission.hosts.get(site, ()), (urlsplit(endpoint or "").hostname or "")
    known = any(is_host_of(host, allowed) for allowed in hosts)
    fact = f"'{host}' is {'' if known else 'not '}a host that the job's spec allows: {', '.join(hosts) or 'none'}"
    remedy = f"Correct the endpoint of the connection of site {site}, or the operator's endpoints in rempart.yaml."
    dated = Reason(
        on <= permission.until,
        "permission.until",
        f"the permission is for jobs that start until {permission.until}, and today is {on}",
        _ASK_AGAIN,
    )
    reasons = (Reason(known, "permission.hosts", fact, remedy), dated)
    return verdict(spec.classification, "data", f"site '{site}'", reasons)


def _hosts(config: Config, name: str) -> tuple[str, ...]:
    site = config.sites[name]
    return endpoint_hosts(config.operators[site.operator].services[site.service], site.region)
