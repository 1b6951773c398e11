"""Describe the findings and the result of an erasure for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rempart.counts import counted
from rempart.flows.erasure.erase_objects import Scan
from rempart.ingestion.erasing import Kind, original
from rempart.serving import hour_files


@dataclass(frozen=True)
class DescendantResult:
    """What an erasure did in a pipeline that is derived from the erased one, or that uses views of it (`uses`).

    `deleted`: versions of objects. `withdrawn`: it has no snapshot until its next run. `locked`: versions under lock,
    and until when. `pending`: what is left to do, and why. `emptied`: entries of its prediction log without inputs and
    features now.
    """

    pipeline: str
    deleted: int = 0
    withdrawn: bool = False
    locked: Mapping[str, datetime] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)
    uses: bool = False
    emptied: int = 0

    def lines(self) -> Iterator[str]:
        """Yield the result as lines for people."""
        state = (
            f"it has no snapshot until ingest_{self.pipeline} runs" if self.withdrawn else "its rows are derived again"
        )
        if self.uses:
            yield (
                f"pipeline '{self.pipeline}' uses its feature views: they are loaded again; "
                f"{counted(self.deleted, 'version')} of training sets replaced by ones without their values"
            )
        else:
            yield f"derived pipeline '{self.pipeline}': {counted(self.deleted, 'older version')} deleted; {state}"
        if self.emptied:
            emptied = counted(self.emptied, "entry", "entries")
            yield f"prediction log of '{self.pipeline}': {emptied} without inputs and features now"
        for name, why in sorted(self.pending.items()):
            yield f"PENDING: {name} ({why})"
        for where, until in sorted(self.locked.items()):
            yield f"PENDING: {where} is retained until {until:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class ErasureResult:
    """Result of an erasure for one pipeline, or its plan with `dry_run`.

    `found`: rows by place. `deleted`: versions of objects. `rewritten`: replaced objects. `locked`: versions under
    lock, and until when. `silent`: sites still to clean, and why. `unread`: rows, and entries of the prediction log,
    without a readable key, by object. `left`: unlocked rows that a second search still found. `faults`: why a delivery
    could not be searched, by object. `descendants`: pipelines that are derived from it, in which older versions are
    deleted, or that use its feature views. `derived`: deleted versions of objects that were derived from snapshots, by
    kind.
    """

    pipeline: str
    dry_run: bool
    subjects: int
    found: Mapping[str, int]
    deleted: int = 0
    rewritten: int = 0
    locked: Mapping[str, datetime] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    left: int = 0
    faults: Mapping[str, str] = field(default_factory=dict)
    descendants: Sequence[DescendantResult] = ()
    derived: Mapping[str, int] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        """Return whether a later run has work left."""
        below = any(done.pending or done.locked for done in self.descendants)
        return bool(self.locked or self.silent or self.left or self.faults or below)


def places(scan: Scan) -> dict[str, int]:
    """Yield rows by kind of object and site."""
    names: dict[Kind, str] = {
        "delivery": "deliveries",
        "quarantine": "quarantine",
        "part": "snapshots",
        "training set": "training sets",
        "prediction": "predictions",
        "prediction log": "prediction log",
    }
    return {
        f"{names[kind]} at site '{site}' ({counted(objects, 'object')} and old versions)": rows
        for (site, kind), (objects, rows) in sorted(scan.rows().items())
        if rows
    }


def _unsearched(unread: Mapping[str, int]) -> Iterator[str]:
    """Yield what names nobody, so that no search finds a person in it."""
    logged = {key: count for key, count in unread.items() if original(key).startswith(hour_files.ROOT)}
    refused = {key: count for key, count in unread.items() if key not in logged}
    if refused:
        yield (
            f"{sum(refused.values())} refused rows have no readable key and were not searched; check them yourself: "
            f"{_most(refused)}"
        )
    if logged:
        yield (
            f"{counted(sum(logged.values()), 'entry', 'entries')} of the prediction log without a key of a row: not "
            "searched, because the client did not send it. Such entries go after serving.log.keep_days: "
            f"{_most(logged)}"
        )


def _most(unread: Mapping[str, int]) -> str:
    return ", ".join(f"{key} ({count})" for key, count in sorted(unread.items())[:5])


def lines(result: ErasureResult) -> Iterator[str]:
    """Yield the result of a run as lines for people."""
    for place, rows in result.found.items():
        yield f"{rows:>6} {'row ' if rows == 1 else 'rows'}  {place}"
    if not result.found:
        yield f"no row of '{result.pipeline}' was found"
    for name, why in sorted(result.silent.items()):
        yield f"PENDING: site '{name}' could not be searched or cleaned ({why})"
    for key, why in sorted(result.faults.items()):
        yield f"PENDING: {key} could not be searched ({why}); check it yourself, and delete it if it has such rows"
    yield from _unsearched(result.unread)
    if result.dry_run:
        yield (
            f"{counted(result.subjects, 'row')} of '{result.pipeline}' would be erased: objects are rewritten without "
            "them; every version that holds one is deleted at every site, and so are earlier versions of the open "
            "table and data profiles; trailing aggregates are recomputed; models trained on them stay. Backups are not "
            "rewritten: a restore applies the erasure again."
        )
        if derived := [done.pipeline for done in result.descendants if not done.uses]:
            yield (
                f"Derived from it: {', '.join(derived)}. Their rows would be derived again, and all their older "
                "versions deleted."
            )
        if users := [done.pipeline for done in result.descendants if done.uses]:
            yield (
                f"Its feature views are used by: {', '.join(users)}. They would be loaded again there, and training "
                "sets lose their values."
            )
        yield "Nothing was changed. Pass --yes to erase the rows."
        return
    yield f"{counted(result.rewritten, 'object')} rewritten, {counted(result.deleted, 'version')} deleted"
    if any(result.derived.values()):
        told = ", ".join(f"{counted(count, 'version')} of {kind}" for kind, count in result.derived.items() if count)
        yield f"derived from snapshots and deleted as well: {told}"
    for where, until in sorted(result.locked.items()):
        yield f"PENDING: {where} is retained until {until:%Y-%m-%d %H:%M} UTC"
    if result.left:
        yield f"PENDING: a second search found {counted(result.left, 'row')} that a task stored meanwhile"
    for done in result.descendants:
        yield from done.lines()
    if result.pending:
        yield "Run `rempart pipeline erase --again` later to finish the pending work."
