"""Gather the facts for the pages from the configuration and the databases. No site and no server is contacted.

Each source is read separately. A failed source gives `Unknown` with the reason, and the others are shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeVar, get_args

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

LIMIT = 200
LIMITS: Mapping[Kind, int] = {
    "replication": 500,
    "restore-point": 1000,
    "hold": 500,
    "prune": 500,
    "decision": 1000,
    "placement": RECORDS,
    "snapshot": 1000,
    "deliveries": 300,
    "usage": 400,
    "materialization": 1000,
    "skew": 1000,
    "monitoring": 1000,
    "search": 50,
}
"""Limits of the kinds that need more records than LIMIT, or fewer: a search has hundreds of trials."""

NEWEST: Mapping[Kind, int] = {kind: LIMITS.get(kind, LIMIT) for kind in get_args(Kind)}
"""Limit of records of each kind of evidence, so that a round reads a limited amount. Each kind is read, so that a page
can show it."""

OF_ROWS: tuple[Kind, ...] = ("snapshot", "deliveries", "materialization", "skew", "monitoring", "retraining")
"""Kinds about rows that a reset of their pipeline deletes."""

FORGED = 100
"""Forged records that are counted at most."""


@dataclass(frozen=True)
class Unknown:
    """A source that gave nothing, and why."""

    why: str


@dataclass(frozen=True)
class CockpitFacts:
    """All facts at one moment. `evidence` is newest first, by kind; `head`: the hash of the newest record.

    `forged`: number of records without a valid signature at the end of the ledger, at most FORGED. `at_fault`:
    pipelines that cannot run although their files are valid.
    """

    at: datetime
    config: Config | Unknown
    active: Active | Unknown
    evidence: Mapping[Kind, tuple[Evidence, ...]] | Unknown
    pipelines: Mapping[str, Pipeline | PipelineError] | Unknown
    head: str = ""
    forged: int = 0
    at_fault: frozenset[str] | Unknown = frozenset()

    def of(self, kind: Kind) -> tuple[Evidence, ...]:
        """Return the records of a kind; empty if the ledger did not answer: callers that count check `evidence`
        first.
        """
        return () if isinstance(self.evidence, Unknown) else self.evidence.get(kind, ())

    def standing(self, kind: Kind) -> tuple[Evidence, ...]:
        """Return the records of a kind that still say what is there: those since the pipeline was reset or removed.

        A reset keeps models, so their records stand.
        """
        undone: dict[str, int] = {}
        for record in self.of("removal"):
            if record.body.get("what") == "remove" or kind in OF_ROWS:
                undone[record.subject] = max(record.seq, undone.get(record.subject, record.seq))
        return tuple(record for record in self.of(kind) if record.seq >= undone.get(record.subject, record.seq))

    def unknown(self) -> dict[str, str]:
        """Return the sources without an answer, and why."""
        sources = {
            "configuration": self.config,
            "active site": self.active,
            "ledger": self.evidence,
            "pipelines": self.pipelines if isinstance(self.pipelines, Unknown) else self.at_fault,
        }
        return {name: found.why for name, found in sources.items() if isinstance(found, Unknown)}


def gather(
    open_platform: Callable[[], Platform],
    clock: Callable[[], datetime],
    before: CockpitFacts | None = None,
    kinds: Mapping[Kind, int | None] = NEWEST,
) -> CockpitFacts:
    """Gather all sources once.

    A failed source raises no error. Evidence of `before` is reused while the chain is unchanged. `kinds`: the most
    records of each kind of evidence that are read, None for all; other kinds are left out.
    """
    platform = known("the platform", open_platform)
    if isinstance(platform, Unknown):
        return CockpitFacts(clock(), known("rempart.yaml", configuration.load), platform, platform, platform)
    at, found = clock(), known("the ledger", lambda: _evidence(platform.ledger, before, kinds))
    head, evidence, forged = ("", found, 0) if isinstance(found, Unknown) else found
    active = known("the active site", platform.active)
    pipelines = known("the pipelines", load_all)
    at_fault = known("the pipelines", lambda: _at_fault(pipelines, platform.config, at.date()))
    return CockpitFacts(at, platform.config, active, evidence, pipelines, head, forged, at_fault)


def _at_fault(pipelines: Mapping[str, Pipeline | PipelineError] | Unknown, config: Config, on: date) -> frozenset[str]:
    """Return the pipelines with a valid file that cannot run. Their DAG stands for the fault, and starts nothing."""
    from rempart.flows.training.check_pipeline import fault_of

    files = {} if isinstance(pipelines, Unknown) else pipelines
    return frozenset(
        name for name, found in files.items() if isinstance(found, Pipeline) and fault_of(found, config, on)
    )


def _evidence(
    ledger: Ledger, before: CockpitFacts | None, kinds: Mapping[Kind, int | None]
) -> tuple[str, Mapping[Kind, tuple[Evidence, ...]], int]:
    """Return the newest records of each kind.

    Thousands of records are read only after a new one arrived, because this is the slowest part.
    """
    newest = ledger.page(limit=1)
    head = newest[0].hash if newest else ""
    if before is not None and before.head == head and not isinstance(before.evidence, Unknown):
        return head, before.evidence, before.forged
    found = {kind: tuple(ledger.find(kind, limit=most)) for kind, most in kinds.items()}
    return head, found, len(ledger.forged(limit=FORGED))


def known(source: str, ask: Callable[[], T]) -> T | Unknown:
    """Return the value of a source, or the reason why it is unknown."""
    try:
        return ask()
    except RempartError as error:
        return Unknown(error.what)
    except Exception as error:
        # a library's message may hold more than a page should show: it goes to the log
        logger.exception("The cockpit could not read %s", source)
        return Unknown(f"{source}: {type(error).__name__} (see the API server's log)")
