"""Loads of the offline store for `bench.features`: the first one, and one of what a delivery changed.

make bench BENCH=features ARGS="offline 1000000"      # rows, then rounds

The rows of 24 months, in partitions of a month, have a row view of 20 features. Once more they also have a trailing
view of 10,000 groups in windows of 7 and 90 days. The first load has all rows but the newest hundredth; then this
hundredth is delivered, nothing is delivered, and one row of a year ago is corrected. The clock of each load
starts with its rows in memory: reading parts from a site, and checking them, comes on top. At the end the bench
compares all tables with those of a first load of the same rows.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from bench.features import AT, COLUMNS, entities_pipeline, rows, seconds
from bench.report import Row, write
from rempart.features import offline, tables
from rempart.features.databases import FeatureDatabases, session
from rempart.features.offline_load.basis import Changes
from rempart.features.plan import rows_table, view_tables
from rempart.ingestion import snapshots
from rempart.settings.pipeline import ModelPipeline
from tests.integration.own_servers import own_servers
from tests.unit.features.stays import stays

DAYS, GROUPS, BATCH = 730, 10_000, 50_000
CASES = {"row view": False, "row view and windows": True}
DELIVERED = ("1 % newest in time", "nothing", "one row of a year ago corrected")


def pipeline_of(name: str, *, windows: bool) -> ModelPipeline:
    """The pipeline of `bench.features`, with a house for each stay, and perhaps the trailing view of houses."""
    plain = entities_pipeline().model_dump(by_alias=True, exclude_unset=True)
    schema = plain["schema"] | {"house": {"type": "integer", "known": "booking"}}
    trend = {"kind": "trailing", "at": "booking", "by": ["house"], "windows": ["7d", "90d"], "mean": [COLUMNS[0]]}
    features = plain["features"] | ({"trend": trend} if windows else {})
    kept = {section: plain[section] for section in ("prediction", "gate")}
    return stays(name, schema=schema, features=features, **kept)


def stays_of(count: int) -> pa.Table:
    """Stays in order of time, booked up to three days before."""
    dice, table = np.random.default_rng(3), rows(count)
    arrival = np.datetime64("2025-01-01") + np.arange(count) * DAYS // count
    made = {"lead": dice.integers(0, 4, count), "arrival": arrival, "house": dice.integers(0, GROUPS, count)}
    for name, values in made.items():
        table = table.drop_columns([name] if name in table.column_names else []).append_column(name, pa.array(values))
    return table


class Loads:
    """Loads of one pipeline, each by what differs from the one before."""

    def __init__(self, databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
        self.databases, self.pipeline = databases, pipeline
        self.months: dict[str, pa.Table] = {}
        self.number = 0

    def seconds(self, table: pa.Table) -> float:
        months = snapshots.partitions(table, self.pipeline.partition_by)
        names = tuple(name for name in {*months, *self.months} if months.get(name) != self.months.get(name))
        some = pa.concat_tables([table.schema.empty_table(), *(months[name] for name in names if name in months)])
        before, self.number, self.months = self.number, self.number + 1, months
        changes = Changes(f"s{before}", names, some.to_reader(BATCH))
        at, name = AT + timedelta(hours=self.number), f"s{self.number}"
        whole = table.to_reader(BATCH)
        return seconds(lambda: offline.load(self.databases, self.pipeline, whole, name, at, changes=changes))


def delivered(table: pa.Table) -> list[pa.Table]:
    """The rows of the first load, and of those after it, as in DELIVERED."""
    count = table.num_rows
    place, old = count // 2, table["number_0"].to_numpy().copy()
    old[place] += 1
    corrected = table.set_column(table.column_names.index("number_0"), "number_0", pa.array(old))
    return [table.slice(0, count - count // 100), table, table, corrected]


def assert_same(databases: FeatureDatabases, left: ModelPipeline, right: ModelPipeline) -> None:
    """Compare the tables of two pipelines."""
    pairs = [(rows_table(left), rows_table(right), tables.rows_columns(left))]
    for mine, other in zip(view_tables(left), view_tables(right), strict=True):
        pairs.append((mine.table, other.table, tables.view_columns(mine)))
    with session(databases.offline, "compare") as opened:
        for first, second, columns in pairs:
            names = tables.names(name for name, _ in columns)
            query = sql.SQL("SELECT count(*) FROM (SELECT {c} FROM {} EXCEPT ALL SELECT {c} FROM {}) d")
            for found in (first, second), (second, first):
                differing = opened.execute(query.format(*map(tables.name, found), c=names)).fetchone()
                assert differing == (0,), (found, differing)


def main(given: Sequence[str]) -> None:
    count, rounds = int(given[0]) if given else 1_000_000, int(given[1]) if len(given) > 1 else 1
    states = delivered(stays_of(count))
    took: dict[str, list[list[float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder, own_servers(Path(folder) / "var") as servers:
        databases = FeatureDatabases(
            *(servers.connections(f"pg_feast_{part}") for part in ("registry", "offline", "online"))
        )
        for number in range(rounds):
            for place, (case, windows) in enumerate(CASES.items()):
                pipeline, anew = (pipeline_of(f"{name}{number}_{place}", windows=windows) for name in ("part", "anew"))
                loads = Loads(databases, pipeline)
                took[case].append([loads.seconds(state) for state in states])
                Loads(databases, anew).seconds(states[-1])
                assert_same(databases, pipeline, anew)
    found = []
    lower: Any = "lower"
    for case, runs in took.items():
        first, *later = (round(statistics.median(times), 3) for times in zip(*runs, strict=True))
        for what, median in zip(DELIVERED, later, strict=True):
            found.append(Row(f"{count:,} rows, {case}: {what}", "s", median, first, "the first load", lower))
    write(
        "offline_load",
        found,
        rounds={case: [[round(second, 3) for second in run] for run in runs] for case, runs in took.items()},
    )
