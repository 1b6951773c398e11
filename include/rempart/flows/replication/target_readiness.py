"""Prepare a site as a failover target: copy changes, measure the lag, list verified replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rempart.flows.doctor.doctor_site import require
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.ledger.port import Evidence
from rempart.replication.plan import Replica
from rempart.sites.port import Site

PATIENCE = 75.0
"""Seconds to wait for a running replication. The lease of a killed run ends within 60 seconds."""


def require_proof(platform: Platform, sites: Iterable[Site]) -> None:
    """Check that both sites are proven capable of replication. Raises CapabilityMissing, SiteError."""
    for site in sites:
        require(platform, site, "replication")


def bring_all(platform: Platform, source: str, target: str) -> None:
    """Copy every object of the shared buckets to the target, after any running replication.

    Raises SiteError with the objects that did not arrive, ReplicationError if too much is gone at the source,
    LeaseHeld.
    """
    bring(platform, source, target, BUCKETS, thorough=True, whenever=True, patience=PATIENCE)


def arrived(record: Evidence) -> bool:
    """Return whether a recorded replication left nothing pending."""
    body = record.body
    return not body["failures"] and not body["pending"] and body["verified"] == body["objects"]


def last_replication(platform: Platform, source: str, target: str) -> Evidence | None:
    """Return the newest recorded replication, complete or not. Its body is a ReplicationResult."""
    return next(iter(platform.ledger.find("replication", f"{source}->{target}", limit=1)), None)


def verified(platform: Platform, source: str, target: str, name: str) -> Iterator[Replica]:
    """Return the newest verified replica of each key in a logical bucket at the target."""
    return platform.continuity.catalogue(source, target).current(physical_bucket(platform.config, name))
