"""Describe how ready a site is as a failover target: its last replication, and its verified replicas."""

from __future__ import annotations

from collections.abc import Iterator

from rempart.ledger.port import Evidence, Ledger
from rempart.replication.continuity import Continuity
from rempart.replication.plan import Replica

PATIENCE = 75.0
"""Seconds to wait for a running replication. The lease of a killed run ends within 60 seconds."""


def arrived(record: Evidence) -> bool:
    """Return whether a recorded replication left nothing pending."""
    body = record.body
    return not body["failures"] and not body["pending"] and body["verified"] == body["objects"]


def last_replication(ledger: Ledger, source: str, target: str) -> Evidence | None:
    """Return the newest recorded replication, complete or not. Its body is a ReplicationResult."""
    return next(iter(ledger.find("replication", f"{source}->{target}", limit=1)), None)


def verified(continuity: Continuity, source: str, target: str, bucket: str) -> Iterator[Replica]:
    """Return the newest verified replica of each key in a bucket at the target."""
    return continuity.catalogue(source, target).current(bucket)
