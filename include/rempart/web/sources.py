"""Provide the routes with their data: the cached facts, and the ledger itself for a page of it."""

from __future__ import annotations

from datetime import UTC, datetime

from rempart.errors import ObjectMissing
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.orchestration import runtime
from rempart.web import facts
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import evidence, points
from rempart.web.refreshing_cache import RefreshingCache

LASTS = 15.0
"""Seconds for which facts are kept: so often at most, each API server process reads the databases for the pages."""
RECENT = 60.0
"""Age in seconds above which a page waits for new facts, within the patience of `RefreshingCache`."""
FIRST = 20.0
"""Seconds for which the first page waits for the first facts, because a page without facts is useless."""
JUST_NOW = 2.0
"""Maximum age in seconds of the facts on a run's page, so that a run that has just ended shows its records."""


def now() -> datetime:
    return datetime.now(UTC)


def platform() -> Platform:
    """Return the platform with Airflow's connections."""
    return runtime.platform()


def _gather() -> CockpitFacts:
    return facts.gather(platform, now, _facts.last)


_facts: RefreshingCache[CockpitFacts] = RefreshingCache(_gather, LASTS, first_patience=FIRST)


def newest(within: float = RECENT) -> CockpitFacts:
    """Return the newest facts, from the last `within` seconds if they arrive in time; before the first, unknown
    facts.
    """
    found = _facts.get(within)
    waiting = Unknown("The first facts are being read. Reload this page in some seconds.")
    return found or CockpitFacts(now(), waiting, waiting, waiting, waiting)


def point(name: str) -> points.Explained:
    """Return a restore point.

    If it is missing, facts are gathered again, because the link of a run that has just written it leads here. Raises
    ObjectMissing.
    """
    for within in (RECENT, JUST_NOW):
        if found := points.explain(newest(within), name, now()):
            return found
    raise ObjectMissing(f"No restore point {name} is on record", "Choose a point from the page of restore points.")


def ledger() -> Ledger:
    """Return the ledger, opened for reading."""
    return platform().ledger


def page(kind: str | None, subject: str | None, before: int | None) -> evidence.EvidencePage:
    """Return a page of the ledger. Raises DatabaseUnavailable, LedgerError."""
    found = ledger().page(before=before, kind=kind, subject=subject, limit=evidence.PAGE + 1)
    return evidence.page(found, kind=kind, subject=subject, before=before)


def record(seq: int) -> evidence.Examined:
    """Return one record with findings about its position. Raises ObjectMissing, DatabaseUnavailable, LedgerError."""
    opened = ledger()
    found = opened.page(before=seq + 1, limit=2)
    if not found or found[0].seq != seq:
        raise ObjectMissing(f"The ledger has no record {seq}", "Choose a record from the page of evidence.")
    return evidence.examined(found[0], found[1] if len(found) > 1 else None, opened.find("key"))
