"""What the pages tell of, gathered from the configuration and the databases: the cockpit asks no site and no server.

Each source is asked by itself. One that fails gives `Unknown` with the reason, and the others are shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from rempart.coordination.active import Active
from rempart.errors import PipelineError, RempartError
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.settings import config as configuration
from rempart.settings.config import Config
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.training.waiting import RECORDS

T = TypeVar("T")
logger = logging.getLogger(__name__)

NEWEST: Mapping[Kind, int] = {
    "replication": 500,
    "restore-point": 1000,
    "drill": 200,
    "hold": 500,
    "prune": 500,
    "denial": 200,
    "egress-denial": 200,
    "decision": 1000,
    "placement": RECORDS,
    "promotion": 200,
    "rollback": 200,
    "refusal": 200,
    "candidate": 200,
    "snapshot": 1000,
    "deliveries": 300,
    "look": 200,
    "acceptance": 200,
    "capabilities": 50,
    "usage": 400,
}
"""Of which kinds of evidence the pages tell, and how many records of each at most: so one round is a bounded read."""

FORGED = 100
"""Forged records that are counted at most."""


@dataclass(frozen=True)
class Unknown:
    """A source that gave nothing, and why."""

    why: str


@dataclass(frozen=True)
class Facts:
    """All that was found at one moment. `evidence` is newest first, by kind; `head`: the hash of the newest of all.

    `forged`: how many records at the end of the ledger its key did not sign, at most FORGED.
    """

    at: datetime
    config: Config | Unknown
    active: Active | Unknown
    evidence: Mapping[Kind, tuple[Evidence, ...]] | Unknown
    pipelines: Mapping[str, Pipeline | PipelineError] | Unknown
    head: str = ""
    forged: int = 0

    def of(self, kind: Kind) -> tuple[Evidence, ...]:
        """The records of a kind; none, if the ledger did not answer: who counts them asks `evidence` first."""
        return () if isinstance(self.evidence, Unknown) else self.evidence.get(kind, ())

    def unknown(self) -> dict[str, str]:
        """Which sources gave nothing, and why."""
        sources = {
            "configuration": self.config,
            "active site": self.active,
            "ledger": self.evidence,
            "pipelines": self.pipelines,
        }
        return {name: found.why for name, found in sources.items() if isinstance(found, Unknown)}


def gather(open_platform: Callable[[], Platform], clock: Callable[[], datetime], before: Facts | None = None) -> Facts:
    """One round over all sources; never raises for one of them. Evidence of `before` stands while the chain does."""
    platform = known("the platform", open_platform)
    if isinstance(platform, Unknown):
        return Facts(clock(), known("rempart.yaml", configuration.load), platform, platform, platform)
    at, found = clock(), known("the ledger", lambda: _evidence(platform.ledger, before))
    head, evidence, forged = ("", found, 0) if isinstance(found, Unknown) else found
    active = known("the active site", platform.active)
    return Facts(at, platform.config, active, evidence, known("the pipelines", load_all), head, forged)


def _evidence(ledger: Ledger, before: Facts | None) -> tuple[str, Mapping[Kind, tuple[Evidence, ...]], int]:
    """The newest records of each kind. Thousands are read only when one came: that takes longer than all else here."""
    newest = ledger.page(limit=1)
    head = newest[0].hash if newest else ""
    if before is not None and before.head == head and not isinstance(before.evidence, Unknown):
        return head, before.evidence, before.forged
    found = {kind: tuple(ledger.find(kind, limit=most)) for kind, most in NEWEST.items()}
    return head, found, len(ledger.forged(limit=FORGED))


def known(source: str, ask: Callable[[], T]) -> T | Unknown:
    """What a source gave, or why it gave nothing."""
    try:
        return ask()
    except RempartError as error:
        return Unknown(error.what)
    except Exception as error:
        # what a library says may hold more than a page should show: the log has it
        logger.exception("The cockpit could not read %s", source)
        return Unknown(f"{source}: {type(error).__name__} (the API server's log says more)")
