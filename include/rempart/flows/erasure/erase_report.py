"""What an erasure found and did, and how people are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rempart.flows.erasure.erase_objects import Scan


@dataclass(frozen=True)
class ErasureResult:
    """What was erased of a pipeline, or with `dry_run` would be.

    `found`: rows by place. `deleted`: versions of objects; `rewritten`: objects that have a successor; `locked`:
    versions that a lock keeps, and until when; `silent`: sites that still have to be cleaned, and why; `unread`: rows,
    by object, that no key could be told of; `left`: rows that a second look still found, where nothing locks them.
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

    @property
    def pending(self) -> bool:
        """Whether a later run has something to do."""
        return bool(self.locked or self.silent or self.left)


def places(scan: Scan) -> dict[str, int]:
    """Rows by what holds them and where."""
    names = {"delivery": "deliveries", "quarantine": "quarantine", "part": "snapshots", "training set": "training sets"}
    return {
        f"{names[kind]} at site '{site}' ({objects} objects and old versions)": rows
        for (site, kind), (objects, rows) in sorted(scan.rows().items())
        if rows
    }


def lines(result: ErasureResult) -> Iterator[str]:
    """What a run found and did, for people."""
    for place, rows in result.found.items():
        yield f"{rows:>6} rows  {place}"
    if not result.found:
        yield f"no row of '{result.pipeline}' was found"
    for name, why in sorted(result.silent.items()):
        yield f"PENDING: site '{name}' could not be searched or cleaned ({why})"
    if result.dry_run:
        yield (
            f"{result.subjects} rows of '{result.pipeline}' would be erased: objects are rewritten without them, and"
            " every version that holds one is deleted at every site; trailing aggregates are computed anew; models"
            " that learnt from them stay. Backups are not rewritten: a restore applies the erasure again."
        )
        yield "Nothing was changed. Say --yes to do it."
        return
    yield f"{result.rewritten} objects rewritten, {result.deleted} versions deleted"
    for where, until in sorted(result.locked.items()):
        yield f"PENDING: {where} is retained until {until:%Y-%m-%d %H:%M} UTC"
    if result.left:
        yield f"PENDING: {result.left} were found again when it was looked a second time: a task stored them meanwhile"
    if result.unread:
        most = ", ".join(f"{key} ({count})" for key, count in sorted(result.unread.items())[:5])
        yield f"{sum(result.unread.values())} refused rows show no key and were not searched; look yourself: {most}"
    if result.pending:
        yield "Run `rempart erase --again` later: it goes on with what is pending."
