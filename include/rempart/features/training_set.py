"""The point-in-time training set: for each row, the features as they were known at the moment of its prediction."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import offline, repository, tables
from rempart.features.databases import FeatureDatabases, session
from rempart.features.plan import rows_table, view_tables
from rempart.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa


def plain_columns(pipeline: Pipeline) -> list[str]:
    """Columns of the snapshot that stand beside the features: key, target, holdout and the baseline's."""
    baseline = [column.split(".", 1)[0] for column in pipeline.gate.baseline_by]
    return list(dict.fromkeys([*pipeline.key, pipeline.prediction.target, pipeline.holdout.column, *baseline]))


def point_in_time(databases: FeatureDatabases, pipeline: Pipeline) -> pa.Table:
    """One row per row of the loaded snapshot, sorted by key: the key, `event_timestamp` (the moment of the prediction,
    UTC), `plain_columns`, then every `pipeline.model_inputs()` column.

    Feast joins each view's newest row at or before that moment. Raises FeatureError when rows were lost or multiplied,
    or nothing was loaded; DatabaseUnavailable.
    """
    import pyarrow as pa

    offline.loaded_snapshot(databases, pipeline)
    arrow = {
        "bigint": pa.int64(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", "UTC"),
    }
    views = view_tables(pipeline)
    plain = plain_columns(pipeline)
    features = [(view.view, field) for view in views for field in view.fields]
    columns = dict(tables.rows_columns(pipeline))
    with session(databases.offline, f"prepare the training set of '{pipeline.name}'") as opened:
        query = _entity_query(pipeline, plain).as_string(opened)
        rows = tables.name(rows_table(pipeline))
        counted = opened.execute(sql.SQL("SELECT count(*) FROM {}").format(rows)).fetchone()
    expected = int(counted[0]) if counted else 0
    inputs = pipeline.model_inputs()
    wanted = [f"{view}:{field.name}" for view, field in features if f"{view}__{field.name}" in inputs]
    with repository.feature_store(databases, pipeline) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pandas only supports SQLAlchemy")
        joined = store.get_historical_features(entity_df=query, features=wanted, full_feature_names=True).to_arrow()
    if joined.num_rows != expected:
        raise FeatureError(
            f"The point-in-time join of '{pipeline.name}' made {joined.num_rows} rows of {expected}",
            "Do not train on it. Run the materialization again; if it stays so, a view has two rows for one moment.",
        )
    kinds: dict[str, Any] = {column: arrow[columns[column]] for column in [*pipeline.key, "event_timestamp", *plain]}
    kinds |= {f"{view}__{field.name}": arrow[field.type] for view, field in features}
    ordered = [*dict.fromkeys([*pipeline.key, "event_timestamp", *plain]), *inputs]
    cast = {name: _cast(joined.column(name), kinds[name]) for name in ordered}
    return pa.table(cast).sort_by([(key, "ascending") for key in pipeline.key])


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    import pyarrow as pa

    # Feast gives timestamps without their zone; they are UTC
    if pa.types.is_timestamp(kind) and column.type.tz is None:
        return column.cast(pa.timestamp("us")).cast(kind)
    return column.cast(kind)


def _entity_query(pipeline: Pipeline, plain: list[str]) -> sql.Composed:
    """The entity rows: the plain columns, the moment, and the join key of each view."""
    keys = {view.join_key: tables.join_key(view) for view in view_tables(pipeline)}
    selected = [
        *(sql.SQL("{} AS {}").format(key, tables.name(column)) for column, key in keys.items()),
        *(tables.name(column) for column in [*dict.fromkeys([*pipeline.key, *plain])] if column not in keys),
        tables.name("event_timestamp"),
    ]
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(selected), tables.name(rows_table(pipeline)))
