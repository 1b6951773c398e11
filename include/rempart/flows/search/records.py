"""Read and write the evidence of searches: a record of kind `search` for each, and its rows as `search-rows`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from rempart.ledger.port import Evidence, Ledger

State = Literal["complete", "pruned", "failed"]
Ended = Literal["trials", "time", "budget", "unasked"]
"""Why a search asked for no further trial: all were made, its time was over, or its GPU hours were used.

`unasked`: a generation is missing, because the task that asks for its trials failed.
"""
Direction = Literal["minimize", "maximize"]
Param = bool | int | float | str


@dataclass(frozen=True)
class Trial:
    """One trial: a job with some parameters. `value`: its figure on the validation part, None if it failed.

    `generation`: trials of one generation were asked for together. `seconds`: run time of its job, 0 if unknown. `run`:
    its MLflow run, None if it failed. `place`: its pool, or `local`; empty if no pool took it.
    """

    number: int
    generation: int
    params: Mapping[str, Param]
    state: State
    value: float | None
    seconds: float
    job: str
    run: str | None
    place: str


@dataclass(frozen=True)
class Search:
    """One search. `space`: the ranges as in the pipeline file. `best`: number of the trial that was chosen.

    `fixed`: the trainer's parameters that were the same in each trial. `search`: its id; equal searches of equal rows
    have the same. `metric`: of the validation part. `importances`: share of each parameter in the differences between
    the trials; empty if too few trials tell it. `at`, `seq`: of the record in the ledger.
    """

    pipeline: str
    search: str
    dataset_sha256: str
    trainer: str
    space: Mapping[str, Mapping[str, Any]]
    metric: str
    direction: Direction
    seed: int
    pruner: str
    fixed: Mapping[str, Param]
    trials: tuple[Trial, ...]
    best: int
    importances: Mapping[str, float] = field(default_factory=dict)
    ended: Ended = "trials"
    at: datetime | None = None
    seq: int = 0

    def best_trial(self) -> Trial:
        return next(trial for trial in self.trials if trial.number == self.best)

    def body(self) -> dict[str, Any]:
        """Return the record's body."""
        told = asdict(self)
        for name in ("pipeline", "at", "seq"):
            del told[name]
        return {**told, "trials": list(told["trials"])}


def write(ledger: Ledger, search: Search) -> Evidence | None:
    """Write evidence of a search. Return None if the newest record of this search says the same."""
    body = search.body()
    for record in ledger.find("search", search.pipeline):
        if record.body["search"] == search.search:
            if {name: record.body.get(name) for name in body} == body:
                return None
            break
    return ledger.append("search", search.pipeline, body)


def write_rows(ledger: Ledger, pipeline: str, search: str, rows: Mapping[str, Any]) -> None:
    """Write evidence of the rows of a search that begins, once for equal rows."""
    if not are_its_rows(ledger, pipeline, search, rows):
        ledger.append("search-rows", pipeline, {"search": search, **rows})


def are_its_rows(ledger: Ledger, pipeline: str, search: str, rows: Mapping[str, Any]) -> bool:
    """Return whether a search began with these rows. Raises LedgerError, DatabaseUnavailable."""
    begun = (record.body for record in ledger.find("search-rows", pipeline))
    wanted = {"search": search, **rows}
    return any({name: body.get(name) for name in wanted} == wanted for body in begun)


def chosen_params(ledger: Ledger, pipeline: str, search: str) -> Mapping[str, Param] | None:
    """Return the parameters that the newest record of a search tells as the best; None without one."""
    found = (each for each in searches(ledger, pipeline) if each.search == search)
    return next((each.best_trial().params for each in found), None)


def searches(ledger: Ledger, pipeline: str | None = None) -> list[Search]:
    """Return the searches of a pipeline, or of all, newest first. Raises LedgerError, DatabaseUnavailable."""
    return [search_of(record) for record in ledger.find("search", pipeline)]


def search_of(record: Evidence) -> Search:
    """Return the search of a record of kind `search`."""
    told = dict(record.body)
    trials = tuple(Trial(**trial) for trial in told.pop("trials"))
    return Search(pipeline=record.subject, trials=trials, at=record.at, seq=record.seq, **_known(told))


def _known(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body's own keys: the ledger adds who wrote a record."""
    return {name: value for name, value in told.items() if name in Search.__dataclass_fields__}
