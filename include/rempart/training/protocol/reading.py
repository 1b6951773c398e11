"""Read the rows to learn from: a matrix of numbers, filled piece by piece, and no more columns than a job needs.

Beside the Parquet bytes and the matrix only one piece of CHUNK rows is in memory: a table of the whole training set,
with its texts and categories, would take several times as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.models import metrics
from rempart.models.encoding import Feature, encode_into, matrix_columns
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
    inputs = np.empty((file.metadata.num_rows, len(matrix_columns(features))), np.float32)
    learnt = np.empty(len(inputs), np.float64)
    at = 0
    for piece in pieces(body, features, target):
        encode_into(inputs[at : at + piece.num_rows], features, piece)
        learnt[at : at + piece.num_rows] = metrics.target_values(target, piece)
        at += piece.num_rows
    return Read(file.read(columns=[name for name in file.schema_arrow.names if name in keep]), inputs, learnt)


def pieces(body: bytes, features: Sequence[Feature], target: Feature) -> Iterator[pa.Table]:
    """Yield the rows of Parquet bytes, with the columns to learn from. A thread decodes the next piece meanwhile."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    categories = [feature.name for feature in features if feature.type == "category"]
    file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=categories)
    wanted = {target.name, *(feature.name for feature in features)}
    batches = file.iter_batches(CHUNK, columns=[name for name in file.schema_arrow.names if name in wanted])
    with ThreadPoolExecutor(1, "decode") as thread:
        waiting = thread.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(next, batches, None)
            yield pa.Table.from_batches([batch])
