"""Training sets on Spark, and whether they are those of DuckDB."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rempart.features import training_set
from rempart.features.labels import Received
from rempart.features.parquet_store import joining, loading, training_sets
from rempart.features.parquet_store.loading import UsedRows
from rempart.features.used import sources
from rempart.flows.distributed.training_set import query
from rempart.settings.pipeline import ModelPipeline
from rempart.spark.connection import SparkConnection
from rempart.spark.sites import spark_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def frame(session: SparkSession, rows: pa.Table) -> DataFrame:
    """The rows as executors give those of a snapshot."""
    return session.createDataFrame(rows, spark_schema(rows.schema))


def joined(
    session: SparkSession,
    pipeline: ModelPipeline,
    rows: pa.Table,
    labels: Received | None = None,
    used: Mapping[str, pa.Table] | None = None,
) -> pa.Table:
    """The training set of accepted rows, as `in_memory.build` makes it with DuckDB."""
    others = [
        UsedRows(source, frame(session, (used or {})[name]), "") for name, source in sources.sources(pipeline).items()
    ]
    with SparkConnection(session) as connection:
        loading.load(connection, pipeline, frame(session, rows), labels, used=others)
        made = connection.sql(query(connection, pipeline, joining.of_pipeline(pipeline)))
        stored = pa.schema(training_set.stored_kinds(pipeline).items())
        batches = [training_sets.finished(pipeline, batch, stored) for batch in made.to_arrow_reader(10_000)]
    whole = pa.schema(training_set.kinds(pipeline).items())
    return pa.concat_tables([whole.empty_table(), *batches])


def differences(left: pa.Table, right: pa.Table) -> list[Any]:
    """What differs between two tables: floats by more than 1e-9 of their size, all else by anything."""
    if left.schema != right.schema or left.num_rows != right.num_rows:
        return [left.schema, right.schema, left.num_rows, right.num_rows]
    found: list[Any] = []
    for name in left.column_names:
        if left[name].combine_chunks().equals(right[name].combine_chunks()):
            continue
        values = zip(left[name].to_pylist(), right[name].to_pylist(), strict=True)
        found += [(name, number, a, b) for number, (a, b) in enumerate(values) if not _same(a, b)]
    return found


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and left == right
