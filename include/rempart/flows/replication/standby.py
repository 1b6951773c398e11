"""What failover asks of replication: bring a site up to date, how far behind it is, and what was verified there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rempart.flows.doctor.doctor_site import require
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.pairs import BUCKETS, catalogue, physical_bucket
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence
from rempart.replication.plan import Replica
from rempart.sites.port import Site

PATIENCE = 75.0
"""Seconds to wait for a replication that goes on: the turn of one that was killed ends within 60."""


def require_proof(platform: Platform, sites: Iterable[Site], say: Callable[[str], object]) -> None:
    """What a replication asks of its sites. Raises CapabilityMissing, SiteError."""
    for site in sites:
        require(platform, site, "replication", say)


def bring_all(platform: Platform, source: str, target: str, say: Callable[[str], object]) -> None:
    """Bring every object of the shared buckets to the target; a replication that goes on is waited for.

    Raises SiteError naming what did not arrive, ReplicationError when too much is gone at the source, LeaseHeld.
    """
    bring(platform, source, target, BUCKETS, thorough=True, whenever=True, patience=PATIENCE, say=say)


def arrived(record: Evidence) -> bool:
    """Whether a replication on record left nothing behind."""
    body = record.body
    return not body["failures"] and not body["pending"] and body["verified"] == body["objects"]


def last_replication(platform: Platform, source: str, target: str) -> Evidence | None:
    """The newest replication on record, whose body is a ReplicationResult; also of one that left something behind."""
    return next(iter(platform.ledger.find("replication", f"{source}->{target}", limit=1)), None)


def verified(platform: Platform, source: str, target: str, name: str) -> Iterator[Replica]:
    """What a reader of a logical bucket at the target must find: each key's newest verified replica."""
    return catalogue(platform, source, target).current(physical_bucket(platform.config, name))
