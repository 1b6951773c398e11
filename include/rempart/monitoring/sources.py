"""Where the rows come from that a champion is watched on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rempart.monitoring.freshness import NewestTimes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ObservedRows:
    """Rows with the features that the champion reads, as they were at each row's moment.

    `table`: the columns of a training set. The target may be null: it is not known yet. `snapshot`: where they are
    from, for the record. `newest`: also of rows that are not in the table, because they have no label yet.
    """

    table: pa.Table
    snapshot: str
    newest: NewestTimes


class RowSource(Protocol):
    """Rows to watch: those of the feature store, later those that were scored and those that a scorer answered."""

    @property
    def name(self) -> str:
        """Return what the record of a verdict calls the source."""

    def read(self) -> ObservedRows:
        """Return all rows that can be watched. Raises the errors of its store."""
