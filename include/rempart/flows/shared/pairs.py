"""A pair of sites as it is declared: its buckets, how to treat them, what is known of it, and which way it goes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rempart.coordination.lease import Lease
from rempart.errors import ConfigError, FailoverError, LeaseHeld
from rempart.flows.shared.platform import Platform
from rempart.replication.catalogue import Catalogue
from rempart.settings.config import Config
from rempart.settings.sections import ReplicationPair

Say = Callable[[str], object]
BUCKETS = ("lake", "artifacts")
"""Logical names of what is the same at every site."""
PATIENCE = 900.0
"""How long those wait for a pair's turn who have more to do than this: its runs are short, or lose it by then."""


def physical_bucket(config: Config, logical: str) -> str:
    """The bucket's name at every site."""
    return str(getattr(config.buckets, logical))


def catalogue(platform: Platform, source: str, target: str) -> Catalogue:
    """What stands at the target, verified, by physical bucket."""
    return platform.continuity.catalogue(source, target)


def pair_of(config: Config, source: str, target: str) -> ReplicationPair:
    """The declared pair. Raises ConfigError."""
    for pair in config.replication:
        if (pair.source, pair.target) == (source, target):
            return pair
    declared = ", ".join(f"{pair.source} -> {pair.target}" for pair in config.replication) or "none"
    raise ConfigError(
        f"replication: the pair {source} -> {target} is not declared (declared: {declared})",
        "Add it to `replication` in rempart.yaml.",
    )


def check_direction(platform: Platform, source: str) -> None:
    """Raises FailoverError unless the source is the active site: what is older must not replace what is newer."""
    active = platform.active()
    if active.site != source:
        raise FailoverError(
            f"Site '{source}' is not the active site ('{active.site}' is, generation {active.generation})",
            "Nothing was copied. `rempart failback` brings what is newer back, and then this pair goes on.",
        )


def turn_of(source: str, target: str) -> str:
    return f"replicate {source} -> {target}"


def turn_of_points(site: str) -> str:
    """The turn of whoever writes or deletes what restore points need at a site."""
    return f"restore points at {site}"


def holder() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def when_free(
    platform: Platform, source: str, target: str, patience: float, say: Say = lambda line: None
) -> Iterator[Lease]:
    """The pair's turn, waited for that many seconds if another run has it. Raises LeaseHeld."""
    with wait_for(platform, turn_of(source, target), patience, say) as lease:
        yield lease


@contextmanager
def wait_for(platform: Platform, turn: str, patience: float, say: Say = lambda line: None) -> Iterator[Lease]:
    """A turn, waited for that many seconds if another run has it. Raises LeaseHeld."""
    until = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(platform.continuity.turn(turn, holder()))
                break
            except LeaseHeld as error:
                if time.monotonic() >= until:
                    raise
                say(f"waiting: {error.what}")
                time.sleep(min(5, patience))
        yield lease
