"""Judge the keys of rows by a pipeline's `on_conflict`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rempart.engine_connection import EngineConnection
from rempart.ingestion.engine import keys
from rempart.ingestion.engine.keys import KeyVerdict, Relations, Repeated
from rempart.ingestion.engine.versions import newest
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.settings.pipeline import Pipeline


def judge(
    connection: EngineConnection,
    staged: Relations,
    known: str | None,
    pipeline: Pipeline,
    *,
    late: bool,
) -> KeyVerdict:
    """Judge the keys of the staged deliveries, in their order, against known rows; create the view `keys.ACCEPTED`.

    `known`: the relation (SQL) of known rows, one per key, with the column `keys.FILE`. `late`: some of them may have
    come after the staged ones.
    """
    columns = list(pipeline.columns)
    if pipeline.conflict_rule == "newest":
        return newest.judge(connection, staged, known, columns, pipeline.key, pipeline.version_column, late=late)
    if keys.judge(connection, staged, known, columns, pipeline.row_key):
        return KeyVerdict({})
    others = keys.not_accepted(connection)
    if pipeline.conflict_rule == "refuse":
        return KeyVerdict(others)
    conflicts = keys.counted(connection, _conflicts(pipeline))
    equal = {position: rows - conflicts.get(position, (0, 0))[0] for position, (rows, _) in others.items()}
    return KeyVerdict(conflicts, repeated={position: rows for position, rows in equal.items() if rows})


def refused(connection: EngineConnection, pipeline: Pipeline) -> Iterator[Repeated]:
    """Yield the refused rows, in order; after `judge`."""
    columns = list(pipeline.columns)
    if pipeline.conflict_rule == "newest":
        return keys.read(connection, newest.repeated(columns))
    if pipeline.conflict_rule == "history":
        return keys.read(connection, f"{_conflicts(pipeline)} ORDER BY _row")
    return keys.read(connection, keys.repeated_sql(columns, pipeline.row_key))


def _conflicts(pipeline: Pipeline) -> str:
    """Return the query of rows whose key and version another row has, with other values."""
    every = keys.repeated_sql(list(pipeline.columns), pipeline.row_key)
    return f"SELECT * FROM ({every}) WHERE NOT _same"  # noqa: S608 - our own names


def without_replaced(
    connection: EngineConnection, verdict: KeyVerdict, pipeline: Pipeline, folder: Path
) -> dict[Path, Path]:
    """Write files of the known rows that stay, for each file of which some are replaced; after `judge`."""
    schema = arrow_schema(snapshot_columns(pipeline))
    kept = {Path(file): folder / f"kept-{i:06d}" for i, file in enumerate(verdict.displaced)}
    for file, out in kept.items():
        newest.without_replaced(connection, file, schema, pipeline.key, out)
    return kept
