"""The rules for keys on Spark: the statements that DuckDB runs, and the rows that it accepts, refuses and replaces."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.engine_connection import EngineConnection
from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.keys import ACCEPTED, FILE
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.engine.versions import rule
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import parsed
from rempart.spark.connection import SparkConnection

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ORDERS = """
name: orders
classification: internal
source: {prefix: orders/}
key: [case, name]
moments: {ordered: {column: day}}
partition_by: day
schema:
  case: {type: integer, known: ordered}
  name: {type: string, known: ordered}
  day: {type: date, known: ordered}
  price: {type: number, known: ordered, nullable: true}
  amount: {type: decimal, known: ordered, precision: 12, scale: 2, nullable: true}
  version: {type: integer, known: ordered}
max_quarantined: 1
"""
RULES = {
    "refuse": {},
    "newest": {"on_conflict": "newest"},
    "newest by version": {"on_conflict": "newest", "version_by": "version"},
    "history": {"on_conflict": "history", "version_by": "day"},
}
CASES = 60
"""Cases that are judged together: their keys differ, so each is judged as if it were alone."""
Row = tuple[str, int, float | None, int | None, int]


def drawn(draw: Random) -> list[tuple[list[Row], list[list[Row]]]]:
    """For each case the known rows, and the rows of some deliveries: few values, so that keys meet."""

    def rows(most: int) -> list[Row]:
        return [
            (
                draw.choice(["a", "é", "A", "a b", "ab"]),
                draw.randint(0, 3),
                draw.choice([None, 0.5, -0.0, 0.0, 1e300]),
                draw.choice([None, 0, 125, -1]),
                draw.randint(1, 3),
            )
            for _ in range(draw.randint(0, most))
        ]

    return [(rows(5), [rows(6) for _ in range(draw.randint(1, 3))]) for _ in range(CASES)]


def pipeline_of(conflict: str) -> Pipeline:
    return parsed(yaml.safe_load(ORDERS) | RULES[conflict])


def table(rows: Sequence[tuple[int, Row]], first: int = 1) -> pa.Table:
    cases, values = [c for c, _ in rows], [r for _, r in rows]
    return pa.table(
        {
            "case": pa.array(cases, pa.int64()),
            "name": pa.array([r[0] for r in values], pa.string()),
            "day": pa.array([r[1] for r in values], pa.int32()).cast(pa.date32()),
            "price": pa.array([r[2] for r in values], pa.float64()),
            "amount": pa.array(
                [r[3] if r[3] is None else Decimal(r[3]).scaleb(-2) for r in values], pa.decimal128(12, 2)
            ),
            "version": pa.array([r[4] for r in values], pa.int64()),
            LINE: pa.array(range(first, first + len(rows)), pa.int64()),
            RAW: pa.array([f"{c},{r[0]}" for c, r in rows], pa.string()),
        }
    )


def judged(
    connection: EngineConnection, staged: dict[int, str], known: str | None, pipeline: Pipeline, late: bool
) -> Any:
    verdict = rule.judge(connection, staged, known, pipeline, late=late)
    names = ", ".join(f'"{name}"' for name in pipeline.columns)
    accepted = connection.execute(f"SELECT {names} FROM {ACCEPTED}").fetchall()
    return (
        dict(verdict.refused),
        dict(verdict.replaced),
        dict(verdict.repeated),
        [Path(name).name for name in verdict.displaced],
        sorted(map(repr, accepted)),
        list(rule.refused(connection, pipeline)) if verdict.refused else [],
    )


@pytest.mark.parametrize(
    ("conflict", "late"),
    [("refuse", False), ("newest", False), ("newest", True), ("newest by version", True), ("history", False)],
)
def test_both_engines_judge_keys_alike(spark: SparkSession, conflict: str, late: bool) -> None:
    cases = drawn(Random(f"{conflict} {late}"))  # noqa: S311 - cases of a test
    pipeline = pipeline_of(conflict)
    history = conflict == "history"
    before: dict[Any, tuple[int, Row]] = {}
    for number, (known, _) in enumerate(cases):
        for r in known:
            before.setdefault((number, r[0], r[1] if history else 0), (number, r))
    deliveries = [
        [(number, r) for number, (_, came) in enumerate(cases) if len(came) > i for r in came[i]] for i in range(3)
    ]
    staged = [table(rows) for rows in deliveries]
    halves = [list(before.values())[::2], list(before.values())[1::2]]
    parts = [table(rows).drop_columns([LINE, RAW]) for rows in halves]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, rows in enumerate(staged):
            pq.write_table(rows, folder / f"staged-{i}")
        for i, rows in enumerate(parts):
            pq.write_table(rows, folder / f"known-{i}")
        files = {i: parquet([folder / f"staged-{i}"]) for i, rows in enumerate(staged) if rows.num_rows}
        known = parquet([folder / f"known-{i}" for i in range(2)], named=FILE) if before else None
        with opened(Resources(200 << 20, 1, folder / "spill"), [folder]) as duckdb:
            ours = judged(duckdb, files, known, pipeline, late)
    with SparkConnection(spark) as connection:
        for i, rows in enumerate(staged):
            connection.register(f"staged_{i}", spark.createDataFrame(rows))
        named = [rows.append_column(FILE, pa.repeat(f"known-{i}", rows.num_rows)) for i, rows in enumerate(parts)]
        connection.register("known", spark.createDataFrame(pa.concat_tables(named)))
        views = {i: f"staged_{i}" for i in files}
        theirs = judged(connection, views, "known" if before else None, pipeline, late)
    assert theirs == ours
