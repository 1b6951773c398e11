"""Features on Spark: the statements that DuckDB runs give the same rows there."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pytest

from rempart.features import in_memory
from rempart.features.parquet_store import joining
from rempart.features.parquet_store.joining import JoinedView
from rempart.settings.pipeline import ModelPipeline
from rempart.spark.connection import SparkConnection
from tests.spark.features_on_spark import differences, frame, joined
from tests.unit.features.aggregated import DECIMALS, Row, arrow, orders, random_orders

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CASES = 40
"""Independent cases in one job: a job costs seconds, and its rows nothing."""
START = datetime(2026, 3, 1, tzinfo=UTC)
MOMENT = pa.timestamp("us", "UTC")
PIPELINES = [
    orders(windows=["30m", "6h", "2d"]),
    orders(at="day", history=True, decimals=True, days=[1, 3]),
]
"""Instants and days, windows of both kinds, with and without versions of rows, numbers and declared decimals.

A pipeline's statements are planned and run in half a minute, however few rows there are, so there are few pipelines.
"""


def many_orders(pipeline: ModelPipeline, seed: int) -> list[Row]:
    """The orders of many cases, whose shops and numbers are apart."""
    dice, made = random.Random(seed), list[Row]()  # noqa: S311 - test data
    for case in range(CASES):
        some = random_orders(dice, dice.choice([1, 2, 5, 9]), versions=pipeline.conflict_rule == "history")
        made += [
            row | {"order": 100 * case + row["order"], "shop": row["shop"] and f"{row['shop']}{case}"} for row in some
        ]
    return made


@pytest.mark.parametrize("pipeline", PIPELINES, ids=["windows", "days of versions in decimals"])
def test_each_aggregate_is_that_of_duckdb(spark: SparkSession, pipeline: ModelPipeline) -> None:
    decimals = DECIMALS if any(column.type == "decimal" for column in pipeline.columns.values()) else ()
    rows = arrow(many_orders(pipeline, 3), decimals)
    assert differences(joined(spark, pipeline, rows), in_memory.training_set(pipeline, rows)) == []


def test_the_join_is_that_of_duckdb(spark: SparkSession) -> None:
    """Ties, nulls on both sides, late rows, rows of nobody, several keys, limits of age, two rows for one moment."""
    dice, case = random.Random(5), pa.int64()  # noqa: S311 - test data
    keys = {"case": case, "house": pa.string(), "room": pa.int64()}

    def any_row(number: int) -> Row:
        return {
            "case": number,
            "house": dice.choice([None, "a", "b", ""]),
            "room": dice.choice([None, 1, 2]),
            "since": START + timedelta(hours=dice.randrange(7)),
            "created": dice.choice([None, START, START + timedelta(hours=1)]),
            "value": dice.choice([None, 0, 1, 2, 3]),
        }

    asked = [any_row(n) | {"since": dice.choice([None, any_row(n)["since"]])} for n in range(CASES) for _ in range(9)]
    tables = {
        "asked": pa.Table.from_pylist(asked, pa.schema([*keys.items(), ("since", MOMENT)])).rename_columns(
            [*keys, "at"]
        )
    }
    views: list[JoinedView] = []
    shapes = [
        (("case", "house"), 0, None),
        (("case", "room"), 7200, "created"),
        (("case", "house", "room"), 3600, None),
    ]
    for number, (by, ttl, created) in enumerate(shapes):
        rows = [any_row(n) for n in range(CASES) for _ in range(12)]
        if number == 0:  # one row for each moment
            rows = list({tuple(row[key] for key in (*by, "since")): row for row in rows}.values())
        schema = pa.schema([*keys.items(), ("since", MOMENT), ("created", MOMENT), ("value", pa.int64())])
        tables[f"stored_{number}"] = pa.Table.from_pylist(rows, schema)
        views.append(JoinedView(f"stored_{number}", by, {f"value {number}": "value"}, "since", ttl, created))
    with duckdb.connect() as connection, SparkConnection(spark) as on_spark:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
            on_spark.register(name, frame(spark, table))
        shaped = [(view, joining.uniqueness(connection, view)) for view in views]
        assert shaped == [(view, joining.uniqueness(on_spark, view)) for view in views]
        assert [unique for _, unique in shaped] == ["moment", "none", "none"]
        query = joining.joined("SELECT * FROM asked", tables["asked"].column_names, "at", shaped)
        wanted = Counter(tuple(row.values()) for row in connection.sql(query).to_arrow_table().to_pylist())
        found = Counter(
            tuple(row.values()) for batch in on_spark.sql(query).to_arrow_reader(1000) for row in batch.to_pylist()
        )
    assert found == wanted


def test_a_view_with_two_rows_for_one_moment_multiplies_rows_that_are_counted(spark: SparkSession) -> None:
    """What DuckDB's join shows to whoever counts is not hidden by the union that stands for it."""
    stored = pa.table({"k": [1, 1], "at": pa.array([START, START], MOMENT), "value": [1, 2]})
    asked = pa.table({"k": [1, 2], "at": pa.array([START, START], MOMENT)})
    with SparkConnection(spark) as connection:
        connection.register("stored", frame(spark, stored))
        connection.register("asked", frame(spark, asked))
        view = JoinedView("stored", ("k",), {"value": "value"}, "at")
        unique = joining.uniqueness(connection, view)
        query = joining.joined("SELECT * FROM asked", ["k", "at"], "at", [(view, unique)])
        assert unique == "none"
        assert Counter((row[0], row[2]) for row in connection.sql(query).fetchall()) == Counter(
            [(1, 1), (1, 2), (2, None)]
        )
