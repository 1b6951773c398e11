"""Refused rows of a delivery: in an Arrow table, made Python objects only while somebody iterates over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, overload

from rempart.ingestion.reading import LINE, RAW, RefusedRow

if TYPE_CHECKING:
    import pyarrow as pa

REASONS = "_reasons"
_AT_A_TIME = 5_000


def schema() -> pa.Schema:
    """Return the columns of a table of refused rows."""
    import pyarrow as pa

    return pa.schema([(LINE, pa.int64()), (REASONS, pa.list_(pa.string())), (RAW, pa.string())])


def table_of(rows: Iterable[RefusedRow]) -> pa.Table:
    """Return rows as a table, a batch of objects at a time."""
    import pyarrow as pa

    waiting, batches = iter(rows), []
    while some := list(islice(waiting, _AT_A_TIME)):
        columns = [[row.line for row in some], [row.reasons for row in some], [row.raw for row in some]]
        batches.append(pa.record_batch([*map(pa.array, columns, schema().types)], schema=schema()))
    return pa.Table.from_batches(batches, schema())


@dataclass(frozen=True, eq=False)
class RefusedRows(Sequence[RefusedRow]):
    """Refused rows in order of their lines."""

    table: pa.Table

    @staticmethod
    def of(rows: Iterable[RefusedRow]) -> RefusedRows:
        return RefusedRows(table_of(rows)).sorted()

    def plus(self, rows: Iterable[RefusedRow]) -> RefusedRows:
        """Return these rows and others, in order of lines."""
        import pyarrow as pa

        more = table_of(rows)
        return RefusedRows(pa.concat_tables([self.table, more])).sorted() if more.num_rows else self

    def sorted(self) -> RefusedRows:
        return RefusedRows(self.table.sort_by(LINE))

    @property
    def text_bytes(self) -> int:
        """Return the size of the rows' text."""
        import pyarrow.compute as pc

        return int(pc.sum(pc.binary_length(self.table[RAW])).as_py() or 0)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[RefusedRow]:
        for batch in self.table.to_batches(_AT_A_TIME):
            for row in batch.to_pylist():
                yield RefusedRow(row[LINE], tuple(row[REASONS]), row[RAW] or "")

    @overload
    def __getitem__(self, index: int) -> RefusedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[RefusedRow]: ...
    def __getitem__(self, index: int | slice) -> RefusedRow | list[RefusedRow]:
        if isinstance(index, slice):
            return list(RefusedRows(self.table.take(list(range(len(self))[index]))))
        return next(iter(RefusedRows(self.table.slice(range(len(self))[index], 1))))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # equal to lists, which have none either
