"""Refused rows of a delivery: in Arrow tables, made Python objects only while somebody iterates over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from rempart.ingestion.reading import LINE, RAW, RefusedRow

if TYPE_CHECKING:
    import pyarrow as pa

REASONS = "_reasons"
AT_A_TIME = 5_000
"""Rows whose text is in memory at the same time."""
_SMALL = 256 << 10
"""Bytes of a delivery's rows that stay in memory."""
JOINED = "; "
"""Stands between the reasons of one row where they are one text."""


class Refused(Protocol):
    """Refused rows of a delivery, which may be more than fit into memory."""

    def __len__(self) -> int: ...
    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in order of their lines, some at a time, in the columns of `schema`."""


def schema() -> pa.Schema:
    """Return the columns of a table of refused rows."""
    import pyarrow as pa

    return pa.schema([(LINE, pa.int64()), (REASONS, pa.list_(pa.string())), (RAW, pa.string())])


def table_of(rows: Iterable[RefusedRow]) -> pa.Table:
    """Return rows as a table, a batch of objects at a time."""
    import pyarrow as pa

    waiting, batches = iter(rows), []
    while some := list(islice(waiting, AT_A_TIME)):
        columns = [[row.line for row in some], [row.reasons for row in some], [row.raw for row in some]]
        batches.append(pa.record_batch([*map(pa.array, columns, schema().types)], schema=schema()))
    return pa.Table.from_batches(batches, schema())


def each(tables: Iterable[pa.Table]) -> Iterator[RefusedRow]:
    """Yield the rows of tables as objects."""
    for table in tables:
        for batch in table.to_batches(AT_A_TIME):
            for row in batch.to_pylist():
                yield RefusedRow(row[LINE], tuple(row[REASONS]), row[RAW] or "")


def by_reason(refused: Refused) -> dict[str, int]:
    """Count refused rows by reason; a row with two reasons counts under both."""
    import pyarrow.compute as pc

    reasons: dict[str, int] = {}
    for table in refused.tables():
        for found in pc.value_counts(pc.list_flatten(table[REASONS])).to_pylist():
            reasons[found["values"]] = reasons.get(found["values"], 0) + found["counts"]
    return dict(sorted(reasons.items()))


def write(tables: Iterable[pa.Table], file: Path) -> None:
    """Write refused rows to a Parquet file, some at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=AT_A_TIME)


@dataclass(frozen=True)
class RefusedFile:
    """Refused rows in a Parquet file on this disk that `write` made."""

    file: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def tables(self) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as source:
            for batch in source.iter_batches(AT_A_TIME):
                yield pa.Table.from_batches([batch])

    def __iter__(self) -> Iterator[RefusedRow]:
        return each(self.tables())


def mapped(file: Path) -> RefusedRows:
    """Return the rows that `RefusedRows.save` wrote. They are in memory only while somebody reads them."""
    import pyarrow as pa

    return RefusedRows(pa.ipc.open_file(pa.memory_map(str(file))).read_all())


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

    def save(self, file: Path) -> None:
        """Write the rows to a file. Rows that are mapped from an older file of this name keep it."""
        import pyarrow as pa

        file.unlink(missing_ok=True)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, self.table.schema) as writer:
            writer.write_table(self.table)

    def spilled(self, file: Path) -> RefusedRows:
        """Return the rows; many of them from this file, so that those of many deliveries fit into memory."""
        if self.table.nbytes <= _SMALL:
            return self
        self.save(file)
        return mapped(file)

    @property
    def text_bytes(self) -> int:
        """Return the size of the rows' text."""
        import pyarrow.compute as pc

        return int(pc.sum(pc.binary_length(self.table[RAW])).as_py() or 0)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def tables(self) -> Iterator[pa.Table]:
        if self.table.num_rows:
            yield self.table

    def __iter__(self) -> Iterator[RefusedRow]:
        return each(self.tables())

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
