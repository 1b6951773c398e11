"""Probe sites, record the proven capabilities as evidence, and refuse to rely on unproven ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import get_args

from rempart.errors import CapabilityMissing, ConfigError, RempartError, SiteUnavailable
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.settings.sections import Classification
from rempart.sites.capabilities import VALID, CapabilityRecord, Purpose, from_json, missing, undecided
from rempart.sites.port import Site
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.places import decide_site

logger = logging.getLogger(__name__)


def probe(platform: Platform, site: Site) -> CapabilityRecord:
    """Probe a site. The record is evidence of kind `capabilities`. Raises SiteError."""
    record = site.probe(platform.config.buckets.doctor, platform.clock())
    platform.ledger.append("capabilities", site.name, record.as_json())
    site.rely_on(record)
    return record


def last_record(ledger: Ledger, site: Site) -> CapabilityRecord | None:
    """Return the newest record of a site at its current endpoint, if any. The site must still meet it."""
    for evidence in ledger.find("capabilities", site.name, limit=1):
        record = from_json(evidence.body)
        if record.endpoint == site.endpoint:
            site.rely_on(record)
            return record
    return None


def require(platform: Platform, site: Site, purpose: Purpose) -> CapabilityRecord:
    """Return a site's record if it allows a purpose. Probe a site without a valid record.

    Raises CapabilityMissing, SiteError.
    """
    record = last_record(platform.ledger, site)
    if record is None or platform.clock() - record.at > VALID:
        logger.info("probing site '%s': it has no valid record of its capabilities", site.name)
        record = probe(platform, site)
    elif undecided(record, purpose):
        logger.info("probing site '%s' again: it was busy when it was probed for %s", site.name, purpose)
        record = probe(platform, site)
    return _sufficient(site, record, purpose, platform.clock())


def on_record(ledger: Ledger, site: Site, purpose: Purpose, now: datetime) -> CapabilityRecord:
    """Return a site's record if it allows a purpose, without probing or recording. Raises CapabilityMissing."""
    return _sufficient(site, last_record(ledger, site), purpose, now)


def _sufficient(site: Site, record: CapabilityRecord | None, purpose: Purpose, now: datetime) -> CapabilityRecord:
    lacking = missing(record, purpose, now)
    if record is None or lacking:
        when = f" (probed on {record.at:%Y-%m-%d %H:%M} UTC)" if record else ""
        raise CapabilityMissing(
            f"Site '{site.name}' ({site.endpoint}) must not be used for {purpose}: {'; '.join(lacking)}{when}",
            f"Run `rempart site doctor {site.name}` and read its findings; ask the operator to correct them, or "
            "declare another site.",
        )
    return record


def probe_sites(platform: Platform, names: list[str]) -> dict[str, CapabilityRecord | RempartError]:
    """Probe the named sites, or all.

    A site that cannot be probed has its error. Raises ConfigError for an unknown name.
    """
    declared = platform.config.sites
    for name in names:
        if name not in declared:
            raise ConfigError(f"There is no site '{name}'", f"Use one of: {', '.join(declared)}.")
    records: dict[str, CapabilityRecord | RempartError] = {}
    for name in names or declared:
        logger.info("probing site '%s'", name)
        try:
            records[name] = probe(platform, platform.site(name, least_protected(platform, name)))
        except RempartError as error:
            records[name] = error
            logger.warning("site '%s' could not be probed: %s", name, error)
    return records


def least_protected(platform: Platform, name: str) -> Classification:
    """Return the lowest classification that the policy allows at a site: probes hold no data."""
    opened = name in platform.sites
    connection = None if opened else platform.connections(platform.config.sites[name].connection)
    endpoint = connection.extra.get("endpoint_url") if connection else None
    on = platform.clock().date()
    allowed = (
        level for level in ORDER if decide_site(platform.config, level, "data", name, on=on, endpoint=endpoint).allowed
    )
    return next(allowed, "public")


def exit_code(records: dict[str, CapabilityRecord | RempartError]) -> int:
    """Return 0 if every site can be used for every purpose, 2 if one could not be probed, else 1."""
    if any(isinstance(outcome, SiteUnavailable) for outcome in records.values()):
        return 2
    sound = all(
        isinstance(outcome, CapabilityRecord)
        and not any(missing(outcome, purpose, outcome.at) for purpose in get_args(Purpose))
        for outcome in records.values()
    )
    return 0 if sound else 1


def summary(records: dict[str, CapabilityRecord | RempartError]) -> Iterator[str]:
    """Yield figures and allowed purposes of each probed site."""
    for record in records.values():
        if isinstance(record, CapabilityRecord):
            yield f"site {record.site}: " + ", ".join(f"{name} {value:g}" for name, value in record.figures.items())
            yield from record.purposes()


def as_json(records: dict[str, CapabilityRecord | RempartError]) -> str:
    """Return one JSON document about every site."""
    sites = {
        name: outcome.as_json() | {"refused": {p: list(missing(outcome, p, outcome.at)) for p in get_args(Purpose)}}
        if isinstance(outcome, CapabilityRecord)
        else {"site": name, "error": outcome.what, "hint": outcome.hint}
        for name, outcome in records.items()
    }
    return json.dumps({"exit_code": exit_code(records), "sites": list(sites.values())}, indent=2, ensure_ascii=False)


def probe_all(platform: Platform) -> dict[str, list[str]]:
    """Probe every site. Raises CapabilityMissing with the unproven capabilities, or the only error of a site.

    A site that is unusable for a purpose fails the call after all sites were probed.
    """
    found = probe_sites(platform, [])
    for line in summary(found):
        logger.info("%s", line)
    failed = [outcome for outcome in found.values() if isinstance(outcome, RempartError)]
    if failed:
        raise failed[0]
    records = [outcome for outcome in found.values() if isinstance(outcome, CapabilityRecord)]
    refused = [
        f"{record.site}: not for {purpose} ({'; '.join(lacking)})"
        for record in records
        for purpose in get_args(Purpose)
        if (lacking := missing(record, purpose, record.at))
    ]
    if refused:
        raise CapabilityMissing(
            f"{len(refused)} uses of sites are refused:\n" + "\n".join(f"  {line}" for line in refused),
            "Read the findings above; ask the operator to correct them, or declare another site "
            "(docs/runbooks/site.md).",
        )
    return {
        record.site: [proof.capability for proof in record.proofs if proof.outcome != "proven"] for record in records
    }
