"""Build a training set in this process, without a server: DuckDB runs the SQL of the offline store.

The features are those of the feature store, to the rounding of a sum: PostgreSQL sums exact decimals, DuckDB decimals
of nine places. A test holds both to the same rows.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from rempart.errors import FeatureError
from rempart.features import labels as label_rows
from rempart.features import tables
from rempart.features.label_feed import LabelsUsed
from rempart.features.labels import Received
from rempart.features.plan import ViewTable, labels_table, rows_table, view_tables
from rempart.features.training_set import TrainingSet, no_example, stored_kinds, with_ages
from rempart.features.views import select_view
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from psycopg import sql

_POSTGRESQL = """
    CREATE MACRO make_interval(days := 0, hours := 0, mins := 0, secs := 0) AS
        to_days(days::integer) + to_hours(hours) + to_minutes(mins) + to_seconds(secs);
    CREATE MACRO numeric_mul(a, b) AS a::DOUBLE * b::DOUBLE;
    CREATE MACRO to_char(moment, form) AS strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ');
"""
"""Functions of PostgreSQL that the offline store's SQL calls, and DuckDB lacks."""


def training_set(pipeline: ModelPipeline, table: pa.Table, *, memory: str = "512MB") -> pa.Table:
    """Return the training set of accepted rows, as `training_set.point_in_time` does for a snapshot.

    Raises FeatureError if a row has no moment, or if a view has two rows for one moment.
    """
    return build(pipeline, table, None, memory=memory).table


def build(pipeline: ModelPipeline, table: pa.Table, labels: Received | None, *, memory: str = "512MB") -> TrainingSet:
    """Return the training set of accepted rows and labels. Raises the errors of `training_set`, and LabelsMissing."""
    import duckdb

    views = view_tables(pipeline)
    with (
        tempfile.TemporaryDirectory(prefix="rempart-") as spill,
        duckdb.connect(
            ":memory:", config={"memory_limit": memory, "threads": 2, "temp_directory": spill}
        ) as connection,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_POSTGRESQL)
        connection.execute("SET enable_external_access = false")
        _load(connection, pipeline, table)
        for view in views:
            selected = _sql(select_view(pipeline, view))
            columns = ", ".join(f'"{name}"' for name, _ in tables.view_columns(view))
            connection.execute(f'CREATE TABLE "{view.table}" AS SELECT * FROM ({selected}) v ({columns})')  # noqa: S608 - names of a checked file
        used = _load_labels(connection, pipeline, labels) if labels else None
        joined = connection.sql(_joined(pipeline, views)).to_arrow_table()
    keys = table.select(pipeline.key).group_by(pipeline.key).aggregate([]).num_rows
    expected = used.rows.labelled if used else keys
    if joined.num_rows != expected:
        raise FeatureError(
            f"build the training set of '{pipeline.name}': {expected} rows became {joined.num_rows}",
            "Look for a view with two rows for one moment.",
        )
    import pyarrow as pa

    wanted = stored_kinds(pipeline)
    stored = joined.select(list(wanted)).cast(pa.schema(wanted.items()))
    return TrainingSet(with_ages(pipeline, stored), "", used)


def _load_labels(connection: duckdb.DuckDBPyConnection, pipeline: ModelPipeline, labels: Received) -> LabelsUsed:
    """Create the table of the labels and return how many rows have one. Raises LabelsMissing."""
    columns = label_rows.columns(pipeline, labels.feed)
    typed = ", ".join(
        f'"{name}"::{kind} AS "{name}"' for name, kind in label_rows.received_columns(pipeline, labels.feed)
    )
    connection.register("delivered_labels", label_rows.renamed(pipeline, labels))
    connection.execute(f'CREATE TABLE "{label_rows.RECEIVED}" AS SELECT {typed} FROM delivered_labels')  # noqa: S608 - names of a checked file
    stored = ", ".join(f'"{name}" {kind}' for name, kind in columns)
    connection.execute(f'CREATE TABLE "{labels_table(pipeline)}" ({stored})')
    connection.execute(f'INSERT INTO "{labels_table(pipeline)}" {_sql(label_rows.select(pipeline, labels))}')
    counts = label_rows.counts(*connection.execute(_sql(label_rows.select_counts(pipeline))).fetchall())
    used = LabelsUsed(labels.feed.source.name, labels.snapshot or "", counts)
    if not counts.labelled:
        raise no_example(pipeline, used)
    return used


def _load(connection: duckdb.DuckDBPyConnection, pipeline: ModelPipeline, table: pa.Table) -> None:
    """Create the table of the rows, with the moment of the prediction."""
    rows = rows_table(pipeline)
    columns = [name for name, _ in tables.rows_columns(pipeline) if name != "event_timestamp"]
    typed = ", ".join(f'"{c}"::{kind} AS "{c}"' for c, kind in tables.rows_columns(pipeline) if c != "event_timestamp")
    moment = _sql(tables.instant(pipeline, pipeline.prediction.at))
    received = table.select(columns)
    connection.register("received", received)
    connection.execute(f'CREATE TABLE "{rows}" AS SELECT {typed} FROM received')  # noqa: S608 - names of a checked file
    connection.execute(f'ALTER TABLE "{rows}" ADD COLUMN event_timestamp timestamptz')
    connection.execute(f'UPDATE "{rows}" SET event_timestamp = {moment}')  # noqa: S608
    found = connection.execute(f'SELECT count(*) FROM "{rows}" WHERE event_timestamp IS NULL').fetchone()  # noqa: S608
    if found and found[0]:
        raise FeatureError(
            f"build the training set of '{pipeline.name}': {found[0]} rows are without a moment",
            "Declare the columns of `key` and `moments` as not nullable, so that such rows go to quarantine.",
        )


def _joined(pipeline: ModelPipeline, views: tuple[ViewTable, ...]) -> str:
    """Return the query that joins to each row the newest row of each view at or before its moment."""
    inputs = set(pipeline.model_inputs())
    keys = ", ".join(f'{_sql(tables.join_key(pipeline, view))} AS "entity {i}"' for i, view in enumerate(views))
    selected, joins = ["r.*"], []
    for i, view in enumerate(views):
        young = f"v{i}.event_timestamp >= r.event_timestamp - to_days({view.ttl_days})" if view.ttl_days else "true"
        selected += [
            f'CASE WHEN {young} THEN v{i}."{field.name}" END AS "{view.view}__{field.name}"'
            for field in view.fields
            if f"{view.view}__{view.feature(field.name)}" in inputs
        ]
        joins.append(
            f'ASOF LEFT JOIN "{view.table}" v{i} ON r."entity {i}" = v{i}."{view.join_key}"'
            f" AND r.event_timestamp >= v{i}.event_timestamp"
        )
    order = ", ".join(f'r."{column}"' for column in pipeline.key)
    rows = f"(SELECT *, {keys} FROM {_sql(label_rows.examples(pipeline))} examples) r"  # noqa: S608 - names of a checked file
    return f"SELECT {', '.join(selected)} FROM {rows} {' '.join(joins)} ORDER BY {order}"  # noqa: S608


def _sql(query: sql.Composable) -> str:
    """Return a query of the offline store for DuckDB, whose `numeric` has three places."""
    return query.as_string(None).replace("::numeric", "::DECIMAL(38, 9)")
