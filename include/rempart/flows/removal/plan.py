"""Plan a reset or removal of a pipeline: which data go, which deliveries wait again, what stays, and what forbids it.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from rempart.counts import counted, size
from rempart.flows.shared.removals import What

Part = Literal[
    "snapshots", "quarantine", "outcomes", "source", "profiles", "extracted", "raw", "training", "landing",
    "predictions", "scored", "predictions-log", "jobs", "spark",
]  # fmt: skip

_DATA: tuple[Part, ...] = ("spark", "snapshots", "quarantine", "outcomes", "source", "profiles")
DELETED: Mapping[What, tuple[Part, ...]] = {
    "reset": ("predictions", *_DATA, "extracted"),
    "remove": ("predictions", "scored", *_DATA, "raw", "training", "jobs", "predictions-log", "landing"),
}
"""Parts in the order of their deletion: what names other objects goes before them. A source that is read again from its
first row on leaves no extracted delivery; of a pipeline to which files are delivered, each waiting file stays."""
WORDS: Mapping[Part, str] = {
    "snapshots": "snapshots with their Delta log",
    "quarantine": "quarantine",
    "outcomes": "outcomes of deliveries",
    "source": "cursor and state of the source",
    "profiles": "data profiles",
    "spark": "what Spark jobs left",
    "extracted": "extracted deliveries that wait in the landing bucket",
    "raw": "deliveries as received",
    "training": "training sets",
    "jobs": "files of training jobs",
    "predictions-log": "log of predictions",
    "landing": "deliveries that wait in the landing bucket",
    "predictions": "predictions of its rows",
    "scored": "predictions of its model for rows of another pipeline",
}


@dataclass(frozen=True)
class Objects:
    """Object versions of one part at one site."""

    site: str
    part: Part
    prefix: str
    versions: int
    bytes: int


@dataclass(frozen=True)
class PutBack:
    """A delivery that is put back: its key, SHA-256 as stored, and the key under which it waits again."""

    key: str
    sha256: str
    to: str
    bytes: int


@dataclass(frozen=True)
class PipelineContents:
    """What a pipeline has, and what happens to it now.

    `silent`: sites that did not answer, with the reason. `lost` deliveries were accepted (`lost_rows`) and are no
    longer stored. `runs`: DAG runs that have not ended; None if Airflow did not answer. `readers`: pipelines that take
    this one as an input. `points_until`: the day until which restore points may hold the data.
    """

    pipeline: str
    what: What
    active: str
    objects: tuple[Objects, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    extracted: bool = False
    deliveries: tuple[PutBack, ...] = ()
    lost: int = 0
    lost_rows: int = 0
    snapshot: str | None = None
    rows: int = 0
    feature_tables: tuple[str, ...] = ()
    model_versions: int = 0
    champion: str | None = None
    experiment: bool = False
    runs: tuple[str, ...] | None = ()
    erasure: str | None = None
    readers: tuple[str, ...] = ()
    file: str = ""
    began: int | None = None
    points_until: date | None = None


@dataclass(frozen=True)
class RemovalPlan:
    """The plan, as lists of sentences. It is executed only if `refusals` is empty.

    `accepted_loss`: rows that cannot come back are accepted.
    """

    pipeline: str
    what: What
    deletes: tuple[str, ...]
    puts_back: tuple[str, ...]
    moves: tuple[str, ...]
    keeps: tuple[str, ...]
    refusals: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Return the plan as text."""
        yield f"{self.what} pipeline '{self.pipeline}'"
        for title, sentences in (
            ("deleted, at every site and in every version", self.deletes),
            ("put back into the landing bucket", self.puts_back),
            ("moved", self.moves),
            ("kept", self.keeps),
            ("NOT POSSIBLE now", self.refusals),
        ):
            if sentences:
                yield f"{title}:"
                yield from (f"  {sentence}" for sentence in sentences)


def plan(facts: PipelineContents, *, accept_loss: bool = False) -> RemovalPlan:
    """Return the plan for these facts."""
    return RemovalPlan(
        facts.pipeline,
        facts.what,
        tuple(_deletes(facts)),
        tuple(_puts_back(facts)),
        tuple(_moves(facts)),
        tuple(_keeps(facts)),
        tuple(_refusals(facts, accept_loss)),
    )


def _deletes(facts: PipelineContents) -> Iterator[str]:
    for part in DELETED[facts.what]:
        found = [entry for entry in facts.objects if entry.part == part and entry.versions]
        if found:
            where = ", ".join(f"{entry.versions} at {entry.site}" for entry in found)
            yield f"{WORDS[part]} ({found[0].prefix}): {where}; {size(sum(entry.bytes for entry in found))}"
    if facts.snapshot:
        yield f"the current snapshot {facts.snapshot[:12]} ({counted(facts.rows, 'row')}) is among them"
    if facts.feature_tables:
        yield f"Feast project '{facts.pipeline}' and its tables: {', '.join(facts.feature_tables)}"
    if facts.what == "remove":
        if facts.model_versions:
            champion = f", the champion (version {facts.champion}) among them" if facts.champion else ""
            yield f"registered model '{facts.pipeline}' of MLflow: {counted(facts.model_versions, 'version')}{champion}"
        if facts.experiment:
            yield (
                f"experiment '{facts.pipeline}' of MLflow: renamed and marked as deleted. Its files stay until you "
                "run `mlflow gc`"
            )


def _puts_back(facts: PipelineContents) -> Iterator[str]:
    if facts.what == "remove":
        return
    if facts.deliveries:
        total = size(sum(delivery.bytes for delivery in facts.deliveries))
        deliveries = counted(len(facts.deliveries), "delivery", "deliveries")
        yield f"{deliveries} ({total}), in their order: the next run judges them again"
    if facts.extracted:
        yield "nothing of the source: the next run extracts all of it again, from the first row on"
    if facts.lost:
        lost, rows = counted(facts.lost, "delivery", "deliveries"), counted(facts.lost_rows, "accepted row")
        yield f"NOT {lost} with {rows}: their retention has ended"


def _moves(facts: PipelineContents) -> Iterator[str]:
    if facts.what == "remove" and facts.file:
        yield f"{facts.file} to include/pipelines/removed/: later erasures in restored data need key and schema"


def _keeps(facts: PipelineContents) -> Iterator[str]:
    yield "every record of the ledger; what is done here is a new record"
    yield "recorded erasures: erased rows stay refused"
    if facts.points_until:
        yield (
            f"restore points, and locks on them, up to {facts.points_until:%Y-%m-%d}: a restore brings the data back, "
            "and the same command deletes it again"
        )
    if facts.what == "reset":
        champion = f", champion version {facts.champion}" if facts.champion else ""
        yield f"the pipeline file, deliveries as received, training sets, models{champion}, MLflow's experiment"
    else:
        yield "Airflow's history of the pipeline's runs; its DAGs go once Airflow has read the folder again"


def _refusals(facts: PipelineContents, accept_loss: bool) -> Iterator[str]:
    for site, why in facts.silent.items():
        yield f"site '{site}' did not answer, so its copies would be left: {why}"
    if facts.runs is None:
        yield "Airflow did not answer, so a run may be in progress. Start it with `rempart up`"
    for run in facts.runs or ():
        yield f"a run has not ended: {run}. Wait for its end, or end it in Airflow"
    if facts.erasure:
        yield f"{facts.erasure}. Complete it first: `rempart pipeline erase --again`"
    if facts.what == "remove" and facts.readers:
        yield f"its snapshots are read by {', '.join(facts.readers)}. Remove or change these first"
    if facts.lost and not accept_loss:
        yield (
            f"{facts.lost_rows} accepted rows would be lost, unless the source still has them: their deliveries are "
            "not put back. Pass --accept-loss to go on without them"
        )
