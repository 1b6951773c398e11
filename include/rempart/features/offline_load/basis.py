"""Decide whether a load builds on the one before it, or reads and makes everything anew. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE_LOAD_EVERY = timedelta(days=7)
"""Time after which all rows are read and all views made, although no table is known to have changed."""
FIRST = "nothing was loaded before"


@dataclass(frozen=True)
class Changes:
    """The partitions in which a snapshot differs from another one, and their rows.

    `since`: id of the other snapshot, None if its partitions are unknown. `partitions`: names of those that differ,
    also if no row of them is left. `rows`: all rows of these partitions, read only if the load builds on `since`.
    `left_out`: hash of the erasures whose rows are left out; "" for none.
    """

    since: str | None
    partitions: tuple[str, ...]
    rows: pa.RecordBatchReader
    left_out: str = ""


@dataclass(frozen=True)
class LastLoad:
    """The load before: its snapshot and time, and the definition by which it read the rows.

    `read_by` is None once another program wrote to a table. `whole_at`: the last load that read and made everything.
    """

    snapshot: str
    at: datetime
    read_by: str | None
    left_out: str | None
    whole_at: datetime | None


@dataclass(frozen=True)
class Basis:
    """What a load builds on.

    `all_made`: why all views are made anew; "" if the views of the load before are kept where no row changed.
    `all_read`: why all rows of the snapshot are read, although it is told what changed; "" if only that is read.
    """

    all_made: str
    all_read: str

    def told(self, anew: Sequence[str]) -> str:
        """Return the note of a load that read all rows, or made the views `anew` as a whole; "" for the first load."""
        sentences = [f"All rows were read: {self.all_read}."] if self.all_read else []
        if anew and not self.all_made:
            sentences.append(f"Made anew, since the definition or the table is another one: {', '.join(anew)}.")
        return "" if self.all_made == FIRST else " ".join(sentences)


def basis(last: LastLoad | None, read_by: str, changes: Changes | None, now: datetime, *, is_watched: bool) -> Basis:
    """Return what a load builds on. `read_by`: hash of the present definition.

    `is_watched`: a write to the table of rows would have been noticed since the load before. A whole load of a time
    that is yet to come was dated by a wrong clock, and counts as never done.
    """
    why = ""
    if last is None:
        why = FIRST
    elif last.read_by is not None and last.read_by != read_by:
        why = "the definition of the rows, or Rempart's version, is another one"
    elif last.read_by is None or not is_watched:
        why = "another program wrote to the tables, or a comparison found a difference"
    elif last.whole_at is None or not timedelta(0) <= now - last.whole_at < WHOLE_LOAD_EVERY:
        why = f"that was not done for {WHOLE_LOAD_EVERY.days} days"
    if why or last is None:
        return Basis(why, why)
    if changes is None:  # whoever loads gave all rows
        return Basis("", "")
    if changes.since != last.snapshot:
        return Basis("", f"snapshot {last.snapshot}, which is loaded, cannot be compared")
    if (changes.left_out or None) != (last.left_out or None):
        return Basis("", "rows were erased")
    return Basis("", "")
