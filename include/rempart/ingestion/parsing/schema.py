"""Types of the rows of a snapshot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SnapshotColumn:
    """A column as it was typed, and whether it may be null.

    `type` is the pipeline's type with its sizes: `decimal(12,2)`, `array(number)`.
    """

    type: str
    nullable: bool


def arrow_schema(columns: Mapping[str, SnapshotColumn]) -> pa.Schema:
    """Return the Arrow types of a snapshot's columns."""
    import pyarrow as pa

    types = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "category": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", "UTC"),
        "array(number)": pa.list_(pa.float64()),
        "array(string)": pa.list_(pa.string()),
    }

    def of(declared: str) -> pa.DataType:
        if sizes := re.fullmatch(r"decimal\((\d+),(\d+)\)", declared):
            return pa.decimal128(int(sizes[1]), int(sizes[2]))
        return types[declared]

    return pa.schema([pa.field(name, of(column.type), column.nullable) for name, column in columns.items()])


def snapshot_columns(pipeline: Pipeline) -> dict[str, SnapshotColumn]:
    """Return the columns of a pipeline's snapshot; key and partition columns are never null."""
    needed = {*pipeline.key, pipeline.partition_by}
    return {
        name: SnapshotColumn(column.full_type, column.nullable and name not in needed)
        for name, column in pipeline.columns.items()
    }
