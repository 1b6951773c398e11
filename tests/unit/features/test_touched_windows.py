"""What changed rows can reach: a view that is made anew from there on is the view that is made anew as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.features import tables
from rempart.features.offline_load import replacing
from rempart.features.offline_load import view_tables as load_views
from rempart.features.parquet_store import loading, scratch
from rempart.features.plan import ViewTable, rows_table, view_tables
from rempart.features.views import select_touched, select_view
from rempart.settings.pipeline import ModelPipeline
from tests.unit.features.aggregated import Row, arrow
from tests.unit.features.test_aggregates import DRAWN, PIPELINES, some_orders

Stored = list[tuple[Any, ...]]


def keyed(rows: Iterable[Row], pipeline: ModelPipeline) -> dict[Any, Row]:
    return {tuple(row[column] for column in pipeline.row_key): row for row in rows}


@st.composite
def deliveries(draw: st.DrawFn, pipeline: ModelPipeline) -> tuple[list[Row], list[Row]]:
    """Rows before and after a delivery: most stay, some go, some are corrected, some come."""
    before = keyed(draw(some_orders(pipeline)), pipeline)
    after = dict(before)
    for key in draw(st.lists(st.sampled_from(sorted(before)), max_size=2, unique=True)):
        if draw(st.booleans()):
            del after[key]
        else:
            name = draw(st.sampled_from(sorted(DRAWN)))
            after[key] = before[key] | {name: draw(DRAWN[name]), "shop": draw(st.sampled_from([None, "a", "b"]))}
    if draw(st.booleans()):
        after |= keyed(draw(some_orders(pipeline, 100))[:2], pipeline)
    return list(before.values()), list(after.values())


def load(connection: duckdb.DuckDBPyConnection, pipeline: ModelPipeline, rows: list[Row], name: str) -> None:
    """Make a table of rows with the columns of the stored ones."""
    stored = rows_table(pipeline)
    loading._load_rows(connection, pipeline, arrow(rows).to_reader())
    if name != stored:
        connection.execute(f'ALTER TABLE "{stored}" RENAME TO "{name}"')


def content(connection: duckdb.DuckDBPyConnection, query: str, where: str = "true") -> Stored:
    found = connection.execute(f"SELECT * FROM ({query}) v WHERE {where}").fetchall()
    return sorted(found, key=repr)


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from(PIPELINES))
def test_only_what_a_changed_row_can_reach_is_made_anew(data: st.DataObject, pipeline: ModelPipeline) -> None:
    before, after = data.draw(deliveries(pipeline))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(scratch._POSTGRESQL)
        load(connection, pipeline, before, rows_table(pipeline))
        for view in view_tables(pipeline):
            connection.execute(f'CREATE TABLE "{view.table}" AS {made(pipeline, view)}')
        connection.execute(f'DROP TABLE "{rows_table(pipeline)}"')
        load(connection, pipeline, [row for row in before if row not in after], replacing.FORMER)
        load(connection, pipeline, [row for row in after if row not in before], replacing.DIFFERING)
        load(connection, pipeline, after, rows_table(pipeline))
        for view in view_tables(pipeline):
            changed = select_touched(pipeline, view, load_views.changed_rows(pipeline))
            query = loading.in_duckdb(changed)
            connection.execute(f"CREATE OR REPLACE TABLE touched AS SELECT * FROM ({query}) t WHERE entity IS NOT NULL")
            reached = "EXISTS (FROM touched t WHERE t.entity = v.shop AND v.event_timestamp >= t.since)"
            if view.view == "own":
                reached = 'EXISTS (FROM touched t WHERE t.entity = v."order")'
            kept = content(connection, f'FROM "{view.table}"', f"NOT {reached}")
            anew = content(connection, made(pipeline, view, is_part=True))
            assert content(connection, made(pipeline, view)) == sorted([*kept, *anew], key=repr)


def made(pipeline: ModelPipeline, view: ViewTable, *, is_part: bool = False) -> str:
    """The query of a view's rows with the names of its columns."""
    names = ", ".join(f'"{name}"' for name, _ in tables.view_columns(view))
    query = loading.in_duckdb(select_view(pipeline, view, tables.name("touched") if is_part else None))
    return f"SELECT * FROM ({query}) made ({names})"
