"""Judge the keys of rows by a pipeline's `on_conflict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.ingestion.engine import keys
from rempart.ingestion.engine.keys import KeyVerdict, Repeated
from rempart.ingestion.engine.versions import newest
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import duckdb


def judge(
    connection: duckdb.DuckDBPyConnection,
    staged: Sequence[Path],
    known: Sequence[Path],
    pipeline: Pipeline,
    *,
    late: bool,
) -> KeyVerdict:
    """Judge the keys of the staged deliveries, in their order, against known rows; create the view `keys.ACCEPTED`.

    `known`: Parquet files with one row per key. `late`: some known rows may have come after the staged ones.
    """
    columns = list(pipeline.columns)
    if pipeline.conflict_rule == "newest":
        return newest.judge(connection, staged, known, columns, pipeline.key, pipeline.version_column, late=late)
    keys.judge(connection, staged, known, columns, pipeline.key)
    return KeyVerdict(keys.not_accepted(connection))


def refused(connection: duckdb.DuckDBPyConnection, pipeline: Pipeline) -> Iterator[Repeated]:
    """Yield the refused rows, in order; after `judge`."""
    columns = list(pipeline.columns)
    if pipeline.conflict_rule == "newest":
        return keys.read(connection, newest.repeated(columns))
    return keys.read(connection, keys.repeated_sql(columns, pipeline.key))


def without_replaced(
    connection: duckdb.DuckDBPyConnection, verdict: KeyVerdict, pipeline: Pipeline, folder: Path
) -> dict[Path, Path]:
    """Write files of the known rows that stay, for each file of which some are replaced; after `judge`."""
    schema = arrow_schema(snapshot_columns(pipeline))
    kept = {file: folder / f"kept-{i:06d}" for i, file in enumerate(verdict.displaced)}
    for file, out in kept.items():
        newest.without_replaced(connection, file, schema, pipeline.key, out)
    return kept
