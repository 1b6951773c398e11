"""What is served at a moment equals what a training set shows of a row with this moment, for views of every kind."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.features import in_memory
from rempart.features.online_store import writing
from rempart.features.parquet_store import loading, scratch
from rempart.features.plan import view_tables
from rempart.features.prediction.lookup import select_shown
from rempart.features.prediction.plan import StoredView, plan
from rempart.features.prediction.rows import features
from rempart.features.used import sources
from rempart.settings.pipeline import ModelPipeline
from tests.derived_project import write_project
from tests.unit.features.aggregated import START, VALUES, Row, arrow, midnight, orders, same
from tests.unit.features.test_aggregates import TIMES, some_orders
from tests.used_project import READINGS, SALES, STATIONS, after, reading, sale, spec, station, table

OWN = {name: values[0] for name, values in VALUES.items()} | {"paid": 1.0, "shipped": None, "settled": None}
"""An order without values that an aggregate reads. It has its target, of which nothing tells when it is known."""
HOURS = st.integers(0, 9 * 24).map(lambda hours: timedelta(hours=hours))


def served(
    pipeline: ModelPipeline, rows: pa.Table, asked: pa.Table, loads: list[datetime], used: dict[str, pa.Table]
) -> Row:
    """The features of trailing and used views of `asked`, predicted at the last load, after loads of these rows."""
    others = [loading.UsedRows(of, used[name].to_reader(), "") for name, of in sources.sources(pipeline).items()]
    planned = plan(pipeline, [name for name in pipeline.model_inputs() if not name.startswith("own__")])
    with scratch.created(scratch.ScratchDatabase(Path(), 256, kept=False), "serve") as connection:
        loading.load(connection, pipeline, rows.to_reader(), None, used=others)
        for view in (stored.table for stored in planned.stored):
            connection.execute(f'CREATE TABLE "{view.online.name}" AS {newest(view, loads[0])}')
            for since, at in pairwise(loads):  # as `merge` writes entities that changed
                connection.execute(f'ALTER TABLE "{view.table}" ADD COLUMN IF NOT EXISTS loaded_at TIMESTAMPTZ')
                connection.execute(f"CREATE OR REPLACE TEMP TABLE incoming AS {newest(view, at, since)}")
                of = f'"{view.online.key}" IN (SELECT "{view.online.key}" FROM incoming)'
                connection.execute(f'DELETE FROM "{view.online.name}" WHERE {of}')
                connection.execute(f'INSERT INTO "{view.online.name}" FROM incoming')

        def lookup(view: StoredView, keys: pa.Array) -> pa.Table:
            query = select_shown(view, loads[-1]).as_string(None).replace("%s", "$1")
            return connection.execute(query, [keys.to_pylist()]).to_arrow_table()

        (found,) = features(planned, asked.select(planned.columns), loads[-1], lookup).to_pylist()
        return found


def newest(view: Any, at: datetime, since: datetime | None = None) -> str:
    return loading.in_duckdb(writing.newest(view, at, since))


def trained(pipeline: ModelPipeline, rows: pa.Table, key: int, used: dict[str, pa.Table]) -> Row:
    made = in_memory.build(pipeline, rows, None, used).table.to_pylist()
    return next(row for row in made if row[pipeline.key[0]] == key)


FEW = {name: [] for name in ("sum", "min", "max", "std", "distinct", "share")}
PIPELINES = [
    orders(**FEW, windows=["30m", "2d"]),
    orders(**FEW, at="day", windows=["2d"]),
    orders(**FEW, days=[1, 3]),
    orders(**FEW, at="day", days=[1, 3]),
    orders(**FEW, history=True, windows=["1h", "2d"]),
    orders(**FEW, at="day", history=True, days=[1, 3]),
]
"""Moments of instants and days, windows of both kinds, with and without versions of rows."""


@settings(max_examples=12, deadline=None)
@given(
    pipeline=st.sampled_from(PIPELINES),
    data=st.data(),
    at=TIMES | HOURS.map(lambda hours: START + hours),
    earlier=HOURS,
)
def test_a_trailing_view_is_served_as_a_training_row_of_that_moment_has_it(
    pipeline: ModelPipeline, data: st.DataObject, at: datetime, earlier: timedelta
) -> None:
    asked = OWN | {"order": 99, "ordered": at, "day": at.date(), "seen": START - timedelta(days=9), "shop": "a"}
    rows = [*data.draw(some_orders(pipeline)), asked | {"order": 98, "shop": "elsewhere"}]  # one is not open
    wanted = trained(pipeline, arrow([*rows, asked]), 99, {})
    made = served(pipeline, arrow(rows), arrow([asked]), [at - earlier, at], {})
    assert same(made, {name: wanted[name] for name in made})
    assert "past__days_since_last" in made


QUARTERS = st.integers(0, 40).map(lambda quarter: quarter / 4)
NAMES = st.sampled_from(["a", "b"])


@settings(max_examples=7, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moment=st.sampled_from(["timestamp", "date"]),
    window=st.sampled_from(["windows: [1d, 3d]", "days: [1, 3]"]),
    at=QUARTERS,
    earlier=QUARTERS,
    read=st.lists(st.tuples(QUARTERS, NAMES, st.integers(-20, 30).map(float)), max_size=10),
    changed=st.dictionaries(st.tuples(NAMES, QUARTERS), st.tuples(st.integers(0, 10), st.floats(0, 9)), max_size=8),
)
def test_a_used_view_is_served_as_a_training_row_of_that_moment_has_it(
    tmp_path: Path, moment: str, window: str, at: float, earlier: float, read: list[Any], changed: dict[Any, Any]
) -> None:
    """A prediction of a day sees at any hour what was known when the day began."""
    sales = SALES.replace("sold_at: {type: timestamp", f"sold_at: {{type: {moment}")
    readings = READINGS.replace("windows: [1d, 3d]", window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMPART_HOME", str(tmp_path))
        write_project(tmp_path, readings, STATIONS, sales, sql={})
        pipeline = spec("sales")
        used = {
            "readings": table("readings", [reading(number, *values) for number, values in enumerate(read)]),
            "stations": table("stations", [station(n, day, seen, h) for (n, seen), (day, h) in changed.items()]),
        }
        asked = sale(99, at)
        if moment == "date":
            asked["sold_at"] = asked["sold_at"].date()
        rows = table("sales", [asked])
        wanted = trained(pipeline, rows, 99, used)
        made = served(pipeline, rows, rows, [after(at - earlier), after(at)], used)
    assert made == {name: wanted[name] for name in made}
    assert {"weather__celsius_mean_3d", "place__height"} <= made.keys()


def test_values_of_the_same_day_are_not_served_and_those_of_the_day_before_are() -> None:
    """By the old rule of `days` the newest row was online, whatever its day."""
    pipeline = orders(**FEW, days=[3])
    rows = [
        OWN | {"seen": START, "order": n, "shop": "a", "ordered": START + timedelta(days=n), "day": None}
        for n in range(4)
    ]
    rows = [row | {"day": row["ordered"].date()} for row in rows]
    for day in range(5):
        at = midnight(START.date()) + timedelta(days=day, hours=23)
        made = served(pipeline, arrow(rows), arrow(rows[:1]), [at], {})
        assert made["past__rows_3d"] == (min(day, 3) or None)


def test_a_version_of_tomorrow_is_not_served_today() -> None:
    pipeline = orders(**FEW, history=True, windows=["1h"])
    own = OWN | {"shop": "a", "order": 1, "ordered": START, "day": START.date()}
    rows = [own | {"units": n, "seen": START + timedelta(days=n)} for n in range(3)]
    (view, _) = view_tables(pipeline)
    with scratch.created(scratch.ScratchDatabase(Path(), 256, kept=False), "serve") as connection:
        loading.load(connection, pipeline, arrow(rows).to_reader(), None)
        told = [
            connection.sql(newest(view, START + timedelta(days=day, hours=12))).fetchall()[0][1] for day in range(3)
        ]
    assert told == [0, 1, 2]
