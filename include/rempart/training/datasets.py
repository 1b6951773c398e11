"""The frozen training set of a candidate: rows to learn from, and held-out rows, each a Parquet object of its own.

A job gets the first, and no right to read the second: what it learned is measured by the platform.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import TrainingError

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP = 1 << 20
"""Rows of a row group of a frozen training set."""


@dataclass(frozen=True)
class TrainingRows:
    """A training set in its two parts."""

    learn: pa.Table
    held_out: pa.Table


def key(pipeline: str, sha256: str) -> str:
    """Return the object key of rows to learn from, by their SHA-256."""
    return f"training/{pipeline}/{sha256}.parquet"


def held_out_key(pipeline: str, sha256: str) -> str:
    """Return the object key of held-out rows: in a folder of their own, which a policy can deny to jobs."""
    return f"training/{pipeline}/held-out/{sha256}.parquet"


def split(table: pa.Table, column: str, start: Any) -> TrainingRows:
    """Return the rows before `start` in a column without nulls, and the others, in their order.

    Raises TrainingError if there would be none on one side.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    dates = table.column(column)
    return parted(table, pc.greater_equal(dates, pa.scalar(start, dates.type)), f"The holdout from {start}")


def parted(table: pa.Table, held: Any, what: str) -> TrainingRows:
    """Return the rows outside a mask, and those in it. Raises TrainingError if there would be none on one side."""
    import pyarrow.compute as pc

    rows = TrainingRows(table.filter(pc.invert(held)), table.filter(held))
    if not rows.learn.num_rows or not rows.held_out.num_rows:
        raise TrainingError(
            f"{what} leaves {counted(rows.learn.num_rows, 'training row')} and "
            f"{counted(rows.held_out.num_rows, 'held-out row')}",
            "Set `holdout` in the pipeline file so that both have rows.",
        )
    return rows


def encoded(table: pa.Table) -> bytes:
    """Return a table as Parquet bytes: equal tables, equal bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        for offset in range(0, table.num_rows, _GROUP):  # a copy of the whole table would double its memory
            writer.write_table(table.slice(offset, _GROUP).combine_chunks(), row_group_size=_GROUP)
    return buffer.getvalue()


def decoded(body: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of Parquet bytes, or only some of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(body), columns=columns)
