"""Leases of flows: their names, their holders, and how long a run waits for them."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from rempart.coordination.lease import Lease
from rempart.errors import LeaseHeld
from rempart.replication.continuity import Continuity

logger = logging.getLogger(__name__)

PATIENCE = 900.0
"""Seconds that long operations wait for a pair's lease. Replication runs are short, or lose the lease by then."""


TOLD_SECONDS = 60.0
"""Seconds between two lines in the log of a run that waits."""


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
def alone(continuity: Continuity, job_id: str, longest: timedelta) -> Iterator[Lease]:
    """Acquire the lease of a job. While an equal order runs, wait as long as it may take (`longest`), plus `PATIENCE`.

    The job's result is then at the site, and is used again. The log says at once who runs the job. Raises LeaseHeld.
    """
    told = "its log has the progress, and this run uses its result"
    with wait_for(continuity, job_lease(job_id), longest.total_seconds() + PATIENCE, told) as lease:
        yield lease


@contextmanager
def wait_for(continuity: Continuity, name: str, patience: float, told: str = "") -> Iterator[Lease]:
    """Acquire a lease; wait up to `patience` seconds for another run. Raises LeaseHeld.

    The log names the holder at once, and then every `TOLD_SECONDS`. `told`: what is added there.
    """
    until, tell = time.monotonic() + patience, -math.inf
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(continuity.hold_lease(name, holder()))
                break
            except LeaseHeld as error:
                if (now := time.monotonic()) >= until:
                    raise
                if now >= tell:
                    tell = now + TOLD_SECONDS
                    logger.info("waiting for '%s': %s%s", name, error.what, f"; {told}" if told else "")
                time.sleep(min(5, patience))
        yield lease
