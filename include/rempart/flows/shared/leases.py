"""Leases of flows: their names, their holders, and how long a run waits for them."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rempart.coordination.lease import Lease
from rempart.errors import LeaseHeld
from rempart.replication.continuity import Continuity

logger = logging.getLogger(__name__)

PATIENCE = 900.0
"""Seconds that long operations wait for a pair's lease. Replication runs are short, or lose the lease by then."""


def pair_lease(source: str, target: str) -> str:
    return f"replicate {source} -> {target}"


def points_lease(site: str) -> str:
    """Return the lease held while restore-point objects are written or deleted at a site."""
    return f"restore points at {site}"


def job_lease(job_id: str) -> str:
    """Return the lease held while a job runs and its objects are read: equal orders share one place at their site."""
    return f"job {job_id}"


def holder() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def when_free(continuity: Continuity, source: str, target: str, patience: float) -> Iterator[Lease]:
    """Acquire the pair's lease; wait up to `patience` seconds for another run. Raises LeaseHeld."""
    with wait_for(continuity, pair_lease(source, target), patience) as lease:
        yield lease


@contextmanager
def wait_for(continuity: Continuity, name: str, patience: float) -> Iterator[Lease]:
    """Acquire a lease; wait up to `patience` seconds for another run. Raises LeaseHeld."""
    until = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(continuity.hold_lease(name, holder()))
                break
            except LeaseHeld as error:
                if time.monotonic() >= until:
                    raise
                logger.info("waiting for '%s': %s", name, error.what)
                time.sleep(min(5, patience))
        yield lease
