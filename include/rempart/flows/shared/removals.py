"""Evidence of pipelines that were reset or removed, and the checks that keep other runs from committing meanwhile.

A removal has the states `began`, `deleting` (deliveries were put back; data go now) and `ended`. The records before it
stay in the ledger: they say what was, and a removal says that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from rempart.errors import PipelineError
from rempart.ledger.port import Evidence, Ledger

What = Literal["reset", "remove"]
State = Literal["began", "deleting", "ended"]


@dataclass(frozen=True)
class Removal:
    """The newest record of a reset or removal of a pipeline."""

    id: str
    what: What
    state: State
    seq: int
    body: Any


def newest(ledger: Ledger, pipeline: str) -> Removal | None:
    """Return the newest record of a reset or removal, or None. Raises LedgerError, DatabaseUnavailable."""
    for record in ledger.find("removal", pipeline, limit=1):
        body = record.body
        return Removal(str(body["id"]), cast(What, body["what"]), cast(State, body["state"]), record.seq, body)
    return None


def unfinished(ledger: Ledger, pipeline: str) -> Removal | None:
    """Return the reset or removal that was interrupted, or None."""
    found = newest(ledger, pipeline)
    return found if found and found.state != "ended" else None


def check_open(ledger: Ledger, pipeline: str) -> int:
    """Return the number of the newest removal's record, 0 if there is none, for `check_same`.

    Raises PipelineError while one is not complete.
    """
    found = newest(ledger, pipeline)
    if found and found.state != "ended":
        raise PipelineError(
            f"Pipeline '{pipeline}' is being changed: a {found.what} began (evidence {found.seq}) and has not ended",
            f"Complete it: `rempart pipeline {found.what} {pipeline} --yes`. Nothing was changed by this run.",
        )
    return found.seq if found else 0


def check_same(ledger: Ledger, pipeline: str, before: int) -> None:
    """Check that nobody reset or removed the pipeline since `before`. Call it inside `Platform.committing`.

    Raises PipelineError.
    """
    found = newest(ledger, pipeline)
    if (found.seq if found else 0) != before:
        raise PipelineError(
            f"Pipeline '{pipeline}' was reset or removed while this ran: nothing was committed",
            f"Run `rempart pipeline run {pipeline}`, if the pipeline still exists.",
        )


def check_trained(ledger: Ledger, pipeline: str, snapshot: str) -> None:
    """Check that a model may join those of the pipeline: none was removed since its snapshot was made.

    Call it inside `Platform.committing`. Raises PipelineError.
    """
    check_open(ledger, pipeline)
    removed = removal_of(ledger, pipeline)
    if removed is None:
        return
    made = since(ledger.find("snapshot", pipeline), removed)
    if all(snapshot not in (record.body.get("snapshot"), record.body.get("replaced")) for record in made):
        raise PipelineError(
            f"Pipeline '{pipeline}' was removed after snapshot {snapshot} was made: its model was not registered",
            f"Run `rempart pipeline run {pipeline}`, if there is a new pipeline of that name.",
        )


def emptied_since(ledger: Ledger, pipeline: str, seq: int) -> bool:
    """Return whether a reset or removal after a record deleted the pipeline's snapshots."""
    found = newest(ledger, pipeline)
    return found is not None and found.seq > seq


def last_removed(ledger: Ledger) -> dict[str, int]:
    """Return the number of the newest record of each pipeline that was removed, models included."""
    seqs: dict[str, int] = {}
    for record in ledger.find("removal"):
        if record.body.get("what") == "remove":
            seqs[record.subject] = max(record.seq, seqs.get(record.subject, record.seq))
    return seqs


def since(records: Iterable[Evidence], removed: int | None) -> list[Evidence]:
    """Return the records after a removal; all of them without one. Pure."""
    return [record for record in records if removed is None or record.seq > removed]


def removal_of(ledger: Ledger, name: str) -> int | None:
    """Return the number of the newest record that a pipeline's models were removed, or None."""
    return next((r.seq for r in ledger.each("removal", name) if r.body.get("what") == "remove"), None)


def time_of_removal(ledger: Ledger, name: str) -> datetime | None:
    """Return when a pipeline of this name was removed last, models included, or None."""
    return next((r.at for r in ledger.each("removal", name) if r.body.get("what") == "remove"), None)
