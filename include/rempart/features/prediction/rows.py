"""Make the features of given rows: by the SQL of the feature store in DuckDB, and from the online store by key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import sql

from rempart.features import tables
from rempart.features.parquet_store import loading, scratch
from rempart.features.plan import SQL_TYPES
from rempart.features.prediction.plan import FeaturePlan, StoredView
from rempart.features.training_set import with_ages
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

Lookup = Callable[[StoredView, "pa.Array"], "pa.Table"]
"""Returns the stored row of each of these entities that has one: columns `join_key` and the view's fields."""
_MEMORY = 256
"""MiB of DuckDB."""


def features(plan: FeaturePlan, rows: pa.Table, at: datetime, lookup: Lookup) -> pa.Table:
    """Return the features of rows, in their order, with the names and types of a training set.

    `rows`: columns of `plan.columns` with the types of `models.inputs`. `at` (UTC): time of the prediction, up to which
    the time since an entity's last row counts. `lookup` is called for each trailing view. Raises FeatureError.
    """
    import pyarrow as pa

    made = _from_rows(plan, rows)
    table = made.select(list(plan.row))
    for view in plan.stored:
        table = _joined(table, made[_key(view)], view, lookup)
    asked = plan.stored[0].table.asked_at(at) if plan.stored else at
    moment = pa.repeat(pa.scalar(asked, pa.timestamp("us", "UTC")), rows.num_rows)
    return with_ages(plan.pipeline, table.append_column("event_timestamp", moment))


def _key(view: StoredView) -> str:
    return f"key of {view.table.view}"


def moments(pipeline: ModelPipeline, rows: pa.Table) -> pa.Array:
    """Return the moment of each row's prediction (an instant), in order; null where a column of it is null.

    `rows`: the columns of `prediction.at`, among others. Raises FeatureError.
    """
    at, columns = pipeline.prediction.at, pipeline.moments[pipeline.prediction.at].columns
    table = _evaluated(pipeline, list(columns), [("moment", tables.instant(pipeline, at))], rows, "tell the moments")
    return table["moment"].combine_chunks()


def _from_rows(plan: FeaturePlan, rows: pa.Table) -> pa.Table:
    """Return what is made of the rows alone: features of row views, and the entity of each other view."""
    wanted = [*plan.row.items(), *((_key(view), view.key) for view in plan.stored)]
    return _evaluated(plan.pipeline, plan.columns, wanted, rows, "make the features")


def _evaluated(
    pipeline: ModelPipeline,
    columns: Sequence[str],
    wanted: Sequence[tuple[str, sql.Composable]],
    rows: pa.Table,
    what: str,
) -> pa.Table:
    """Return the wanted expressions (name, SQL) over columns of rows, in order."""
    query = sql.SQL("SELECT {} FROM (SELECT {} FROM received) r").format(
        sql.SQL(", ").join(sql.SQL("{} AS {}").format(made, tables.name(name)) for name, made in wanted),
        sql.SQL(", ").join(
            sql.SQL("{c}::{kind} AS {c}").format(c=tables.name(name), kind=sql.SQL(SQL_TYPES[column.type]))
            for name, column in ((name, pipeline.columns[name]) for name in columns)
        ),
    )
    doing = f"{what} of {rows.num_rows} rows of '{pipeline.name}'"
    with spool_folder() as spill:
        place = scratch.ScratchDatabase(spill, _MEMORY, kept=False)
        with scratch.created(place, doing) as connection:
            connection.register("received", rows)
            return connection.sql(loading.in_duckdb(query)).to_arrow_table()


def _joined(table: pa.Table, entities: pa.ChunkedArray, view: StoredView, lookup: Lookup) -> pa.Table:
    """Add the looked-up fields of each row's entity; null if the store has none."""
    import pyarrow.compute as pc

    keys = entities.combine_chunks()
    stored = lookup(view, keys.unique().drop_null())
    places = pc.index_in(keys, value_set=stored[view.table.join_key].combine_chunks())
    if places.null_count:
        logger.info(
            "%d of %d rows have no value in view '%s' of the online store: their group is unknown, or has no row "
            "that is new enough. They are predicted without it",
            places.null_count,
            len(keys),
            view.table.view,
        )
    for field in view.fields:
        table = table.append_column(f"{view.table.view}__{field.name}", stored[field.name].take(places))
    return table
