"""Read the rows to learn from: a matrix of numbers, filled piece by piece, and no more columns than a job needs.

Beside the Parquet bytes and the matrix only one piece of CHUNK rows is in memory: a table of the whole training set,
with its texts and categories, would take several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.models import metrics
from rempart.models.encoding import Feature, encode, matrix_columns
from rempart.training.job import Origins, Split

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 1 << 16
"""Rows that are decoded at a time."""


@dataclass(frozen=True)
class Read:
    """The columns that split the rows, the matrix float32 [n, k], and the target float64 [n], in the file's order."""

    table: pa.Table
    inputs: Any
    target: Any


def needed(validation: Split | None, backtest: Origins | None) -> tuple[str, ...]:
    """Return the columns by which an order splits its rows."""
    names: list[str | None] = []
    if validation is not None:
        names += [validation.column, *validation.by, validation.stratify, validation.known_at]
    if backtest is not None:
        names += [backtest.column, backtest.known_at]
    return tuple(dict.fromkeys(name for name in names if name))


def read(body: bytes, features: Sequence[Feature], target: Feature, keep: Sequence[str]) -> Read:
    """Return rows of Parquet bytes; `keep`: columns of the table. Raises TrainingError as `encode` does."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(body))
    rows = file.metadata.num_rows
    inputs = np.empty((rows, len(matrix_columns(features))), np.float32)
    learnt = np.empty(rows, np.float64)
    columns = [name for name in file.schema_arrow.names if name == target.name or name in {f.name for f in features}]
    kept = [name for name in file.schema_arrow.names if name in keep]
    at = 0
    for batch in file.iter_batches(batch_size=CHUNK, columns=columns):
        piece = pa.Table.from_batches([batch])
        inputs[at : at + len(batch)] = encode(features, piece)
        learnt[at : at + len(batch)] = metrics.target_values(target, piece)
        at += len(batch)
    return Read(file.read(columns=kept), inputs, learnt)
