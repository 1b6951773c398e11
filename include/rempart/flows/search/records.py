"""Read the evidence of searches for parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from rempart.ledger.port import Evidence, Ledger

ALL = 100_000
TrialState = Literal["complete", "pruned", "failed"]
Ended = Literal["trials", "time", "budget"]


@dataclass(frozen=True)
class Trial:
    """One job of a search. `value`: its metric on the validation part, in the target's unit; None if it has none.

    `number` counts the trials of a search; those of one `generation` run side by side.
    `params`: those that the search chose. `run`: MLflow's run; `place`: the GPU pool that ran it, or `local`.
    """

    number: int
    generation: int
    params: Mapping[str, Any]
    state: TrialState
    value: float | None
    seconds: float
    job: str
    run: str | None
    place: str


@dataclass(frozen=True)
class Search:
    """An ended search, as record `seq` of the ledger has it.

    `space`: the ranges of the pipeline file. `best`: number of the chosen trial, None if no trial was complete.
    `importances`: share of each parameter in the differences of the values; they add up to 1, or are empty.
    """

    seq: int
    at: datetime
    pipeline: str
    search: str
    dataset_sha256: str
    trainer: str
    space: Mapping[str, Any]
    metric: str
    direction: Literal["minimize", "maximize"]
    seed: int
    pruner: str
    trials: tuple[Trial, ...]
    best: int | None
    importances: Mapping[str, float]
    ended: Ended

    @property
    def chosen(self) -> Trial | None:
        """Return the best trial."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    def count(self, state: TrialState) -> int:
        """Return the number of trials that ended so."""
        return sum(trial.state == state for trial in self.trials)


def searches(ledger: Ledger, pipeline: str) -> list[Search]:
    """Return the searches of a pipeline, newest first. Raises LedgerError, DatabaseUnavailable."""
    return [search_of(record) for record in ledger.find("search", pipeline, limit=ALL)]


def search_of(record: Evidence) -> Search:
    """Return the search of a record of kind `search`."""
    body = record.body
    return Search(
        seq=record.seq,
        at=record.at,
        pipeline=record.subject,
        search=str(body["search"]),
        dataset_sha256=str(body["dataset_sha256"]),
        trainer=str(body["trainer"]),
        space=body["space"],
        metric=str(body["metric"]),
        direction=body["direction"],
        seed=int(body["seed"]),
        pruner=str(body["pruner"]),
        trials=tuple(sorted(map(_trial, body["trials"]), key=lambda trial: trial.number)),
        best=body["best"],
        importances=body["importances"],
        ended=body["ended"],
    )


def _trial(told: Mapping[str, Any]) -> Trial:
    return Trial(**{field.name: told[field.name] for field in fields(Trial)})
