"""Look the newest features of entities up in the online store, as columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import tables
from rempart.features.databases import FeatureDatabases, session
from rempart.features.online_store import writing
from rempart.features.prediction.plan import StoredView
from rempart.features.training_set import arrow_type, copied, read_csv
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa


def select_shown(pipeline: ModelPipeline, view: StoredView, at: datetime) -> sql.Composed:
    """Return the query of the stored rows that a training set would show at `at`. Its parameter is an array of keys."""
    if pipeline.moments[pipeline.prediction.at].is_day(pipeline.columns):  # a training set asks at the day's begin
        at = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = view.table.ttl_days
    oldest = sql.SQL("true") if days is None else sql.SQL("event_timestamp >= {}").format(at - timedelta(days=days))
    stored = writing.select(view.table.online, view.fields)
    return sql.SQL("SELECT * FROM ({}) AS stored WHERE {}").format(stored, oldest)


def online_rows(
    databases: FeatureDatabases, pipeline: ModelPipeline, view: StoredView, keys: pa.Array, at: datetime
) -> pa.Table:
    """Return the stored row of each of these entities that has one: key, the view's fields, and the event time.

    A row that is older at `at` than the view shows in a training set is left out. Raises FeatureError,
    DatabaseUnavailable.
    """
    table = view.table
    declared = {table.join_key: table.join_type, **{field.name: field.type for field in view.fields}}
    types = {name: arrow_type(kind) for name, kind in (declared | {"event_timestamp": "timestamptz"}).items()}
    query = sql.SQL("COPY (SELECT {} FROM ({}) AS found) TO STDOUT (FORMAT csv, HEADER)").format(
        sql.SQL(", ").join(sql.SQL(copied(kind)).format(tables.name(name)) for name, kind in types.items()),
        select_shown(pipeline, view, at),
    )
    doing = f"read view '{table.view}' of '{pipeline.name}'"
    with session(databases.online, doing, autocommit=True) as opened:
        try:
            with opened.cursor() as cursor, cursor.copy(query, (keys.to_pylist(),)) as blocks:
                return read_csv(blocks, types)
        except psycopg.errors.UndefinedTable:
            raise FeatureError(
                f"{doing}: the online store has no table with its columns", f"Run materialize_features_{pipeline.name}."
            ) from None
