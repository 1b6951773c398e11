"""Hold the refused rows of one delivery as places and reasons. Their text stays in the file."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from rempart.ingestion.reading import RefusedRow, Rows

if TYPE_CHECKING:
    import pyarrow as pa

Reasons = tuple[str, ...]


@dataclass(frozen=True)
class RefusedRows(Sequence[RefusedRow]):
    """Refused rows in order of their lines; each `RefusedRow` is made when it is asked for.

    `before`: rows that are no part of `rows`, in order. `indexes`: positions in `rows`, ascending; `reasons`: why, by
    position in `indexes`.
    """

    before: Sequence[RefusedRow]
    rows: Rows
    indexes: Sequence[int]
    reasons: Sequence[Reasons]

    @staticmethod
    def of(rows: Rows, against: Mapping[int, Reasons]) -> RefusedRows:
        """Return rows refused while reading, and those with a reason against them by their index."""
        import numpy as np

        indexes: Any = np.sort(np.fromiter(against, np.int64, len(against)))
        return RefusedRows(rows.refused, rows, indexes, [against[i] for i in indexes.tolist()])

    def with_all_others(self, reason: str) -> RefusedRows:
        """Return all rows of the delivery, the others refused for this reason."""
        reasons: list[Reasons] = [(reason,)] * self.rows.count
        for index, why in zip(self.indexes, self.reasons, strict=True):
            reasons[index] = why
        return RefusedRows(self.before, self.rows, range(self.rows.count), reasons)

    def __len__(self) -> int:
        return len(self.before) + len(self.reasons)

    def __iter__(self) -> Iterator[RefusedRow]:
        here = (
            RefusedRow(line, why, raw)
            for (_, line, raw), why in zip(self.rows.places(self.indexes), self.reasons, strict=True)
        )
        return heapq.merge(self.before, here, key=lambda row: row.line) if len(self.before) else here

    @overload
    def __getitem__(self, index: int) -> RefusedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[RefusedRow]: ...
    def __getitem__(self, index: int | slice) -> RefusedRow | list[RefusedRow]:
        return list(self)[index]


def refused_when_read(table: pa.Table) -> RefusedRows:
    """Return rows that the reader refused: `LINE`, the reason and `RAW`."""
    reasons = [(why,) for why in table["reason"].to_pylist()]
    alike = list(shared(dict(enumerate(reasons))).values())
    return RefusedRows((), Rows(table), range(len(alike)), alike)


def shared(against: Mapping[int, Sequence[str]]) -> dict[int, Reasons]:
    """Return equal reasons as one tuple for all rows that have them."""
    known: dict[Reasons, Reasons] = {}
    return {row: known.setdefault(reasons, reasons) for row, reasons in ((r, tuple(why)) for r, why in against.items())}
