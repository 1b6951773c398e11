"""Describe the findings and the result of an erasure for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rempart.flows.erasure.erase_objects import Scan


@dataclass(frozen=True)
class ErasureResult:
    """Result of an erasure for one pipeline, or its plan with `dry_run`.

    `found`: rows by place. `deleted`: versions of objects. `rewritten`: replaced objects. `locked`: versions under
    lock, and until when. `silent`: sites still to clean, and why. `unread`: rows without a readable key, by object.
    `left`: unlocked rows that a second search still found. `faults`: why a delivery could not be searched, by object.
    `derived`: deleted versions of objects that were derived from snapshots, by kind.
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
    derived: Mapping[str, int] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        """Return whether a later run has work left."""
        return bool(self.locked or self.silent or self.left or self.faults)


def places(scan: Scan) -> dict[str, int]:
    """Yield rows by kind of object and site."""
    names = {"delivery": "deliveries", "quarantine": "quarantine", "part": "snapshots", "training set": "training sets"}
    return {
        f"{names[kind]} at site '{site}' ({objects} objects and old versions)": rows
        for (site, kind), (objects, rows) in sorted(scan.rows().items())
        if rows
    }


def lines(result: ErasureResult) -> Iterator[str]:
    """Yield the result of a run as lines for people."""
    for place, rows in result.found.items():
        yield f"{rows:>6} rows  {place}"
    if not result.found:
        yield f"no row of '{result.pipeline}' was found"
    for name, why in sorted(result.silent.items()):
        yield f"PENDING: site '{name}' could not be searched or cleaned ({why})"
    for key, why in sorted(result.faults.items()):
        yield f"PENDING: {key} could not be searched ({why}); check it yourself, and delete it if it has such rows"
    if result.dry_run:
        yield (
            f"{result.subjects} rows of '{result.pipeline}' would be erased: objects are rewritten without them; "
            "every version that holds one is deleted at every site, and so are earlier versions of the open table and "
            "data profiles; trailing aggregates are recomputed; models "
            "trained on them stay. Backups are not rewritten: a restore applies the erasure again."
        )
        yield "Nothing was changed. Pass --yes to erase the rows."
        return
    yield f"{result.rewritten} objects rewritten, {result.deleted} versions deleted"
    if any(result.derived.values()):
        told = ", ".join(f"{count} versions of {kind}" for kind, count in result.derived.items() if count)
        yield f"derived from snapshots and deleted as well: {told}"
    for where, until in sorted(result.locked.items()):
        yield f"PENDING: {where} is retained until {until:%Y-%m-%d %H:%M} UTC"
    if result.left:
        yield f"PENDING: a second search found {result.left} rows that a task stored meanwhile"
    if result.unread:
        most = ", ".join(f"{key} ({count})" for key, count in sorted(result.unread.items())[:5])
        yield (
            f"{sum(result.unread.values())} refused rows have no readable key and were not searched; check them "
            f"yourself: {most}"
        )
    if result.pending:
        yield "Run `rempart pipeline erase --again` later to finish the pending work."
