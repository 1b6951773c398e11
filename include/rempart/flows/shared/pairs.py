"""Resolve a declared pair of sites: its buckets, classification, catalogue and direction."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rempart.coordination.lease import Lease
from rempart.errors import ConfigError, FailoverError, LeaseHeld
from rempart.flows.shared.platform import Platform
from rempart.replication.catalogue import Catalogue
from rempart.settings.config import Config
from rempart.settings.sections import ReplicationPair

logger = logging.getLogger(__name__)

BUCKETS = ("lake", "artifacts")
"""Logical names of the buckets that are the same at every site."""
PATIENCE = 900.0
"""Seconds that long operations wait for a pair's lease. Replication runs are short, or lose the lease by then."""


def physical_bucket(config: Config, logical: str) -> str:
    """Return the bucket's name, which is the same at every site."""
    return str(getattr(config.buckets, logical))


def catalogue(platform: Platform, source: str, target: str) -> Catalogue:
    """Return the verified objects at the target, by physical bucket."""
    return platform.continuity.catalogue(source, target)


def pair_of(config: Config, source: str, target: str) -> ReplicationPair:
    """Return the declared pair. Raises ConfigError."""
    for pair in config.replication:
        if (pair.source, pair.target) == (source, target):
            return pair
    declared = ", ".join(f"{pair.source} -> {pair.target}" for pair in config.replication) or "none"
    raise ConfigError(
        f"Replication pair {source} -> {target} is not declared (declared: {declared})",
        "Add it to `replication` in rempart.yaml.",
    )


def check_direction(platform: Platform, source: str) -> None:
    """Check that the source is the active site, so that older data never replaces newer data.

    Raises FailoverError.
    """
    active = platform.active()
    if active.site != source:
        raise FailoverError(
            f"Site '{source}' is not the active site; '{active.site}' is (generation {active.generation})",
            "Run `rempart failback` to copy the newer data back; then this pair replicates again. Nothing was copied.",
        )


def turn_of(source: str, target: str) -> str:
    return f"replicate {source} -> {target}"


def turn_of_points(site: str) -> str:
    """Return the lease held while restore-point objects are written or deleted at a site."""
    return f"restore points at {site}"


def holder() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def when_free(platform: Platform, source: str, target: str, patience: float) -> Iterator[Lease]:
    """Acquire the pair's lease; wait up to `patience` seconds for another run. Raises LeaseHeld."""
    with wait_for(platform, turn_of(source, target), patience) as lease:
        yield lease


@contextmanager
def wait_for(platform: Platform, turn: str, patience: float) -> Iterator[Lease]:
    """Acquire a lease; wait up to `patience` seconds for another run. Raises LeaseHeld."""
    until = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(platform.continuity.turn(turn, holder()))
                break
            except LeaseHeld as error:
                if time.monotonic() >= until:
                    raise
                logger.info("waiting for '%s': %s", turn, error.what)
                time.sleep(min(5, patience))
        yield lease
