"""Expressions over features of several views: one DuckDB query over the joined rows, whatever engine joined them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from rempart.features import tables
from rempart.features.expressions import rendering
from rempart.features.plan import SQL_TYPES
from rempart.settings.expressions.across import ACROSS
from rempart.settings.expressions.checking import Typed
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa


def feature(name: str) -> str:
    """Return the name of the training set's column of an expression."""
    return f"{ACROSS}__{name}"


def select(pipeline: ModelPipeline, tree: Typed) -> sql.Composed:
    """Return the SQL of an expression over the columns of joined rows."""
    made = rendering.select(pipeline, pipeline.prediction.at, tree)
    return sql.SQL("({})::{}").format(made, sql.SQL(SQL_TYPES[tree.type]))


def with_expressions(pipeline: ModelPipeline, table: pa.Table) -> pa.Table:
    """Return joined rows with the pipeline's `expressions` as further columns `expressions__NAME`, in its order.

    `table` has the features `view__feature` that they name, with the types of the training set, in any number of rows.
    """
    if not pipeline.expressions:
        return table
    import duckdb

    made = pipeline.across()
    query = ", ".join(
        f"{select(pipeline, tree).as_string(None)} AS {tables.name(name).as_string(None)}"
        for name, tree in made.items()
    )
    read = dict.fromkeys(name for tree in made.values() for name in rendering.columns(tree))
    with duckdb.connect(":memory:", config={"threads": 2}) as connection:
        connection.register("joined", table.select(list(read)))
        computed = connection.sql(f"SELECT {query} FROM joined").to_arrow_table()  # noqa: S608 - SQL of a checked tree
    for name in made:
        table = table.append_column(feature(name), computed[name])
    return table
