"""Measure the online store beside stock Feast and a bare COPY on one PostgreSQL; training sets: bench/training_sets.py.

make bench BENCH=features                          # 100,000 entities x 20 features
make bench BENCH=features ARGS="1000000 1"         # entities, then rounds
make bench BENCH=features ARGS="1000000 1 alone"   # without stock Feast
make bench BENCH=features ARGS="offline 1000000"   # loads of the offline store, see bench/offline_load.py
make bench BENCH=features ARGS="training 1000000"  # training sets of so many rows

The bench starts a PostgreSQL of its own. Each way brings the same rows from the offline store into the online store;
its clock starts after all imports and stops when the values of an entity are read. Stock Feast runs once: `materialize`
with Feast's own PostgreSQL online store. The bare COPY gets its bytes from memory, and writes them into a table with a
primary key. Then one entity in a hundred changes. Reads use connections that are open. Without stock Feast, its figures
are missing.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql

from bench import training_sets
from bench.report import Row, write
from rempart.features import offline, online, quick_feast, repository, tables
from rempart.features.databases import FeatureDatabases, session
from rempart.features.online_store import generations, writing
from rempart.features.plan import view_tables
from rempart.settings.pipeline import ModelPipeline
from tests.integration.own_servers import own_servers
from tests.unit.features.stays import stays

KINDS = {"number": 8, "integer": 6, "string": 4, "boolean": 2}
COLUMNS = [f"{kind}_{place}" for kind, places in KINDS.items() for place in range(places)]
AT = datetime(2030, 1, 1, tzinfo=UTC)
ENTITIES_READ = {1: 2000, 10: 1000, 100: 300}
"""How often so many entities are read."""


def entities_pipeline() -> ModelPipeline:
    """A pipeline with one row view of 20 features."""
    schema: dict[str, Any] = {
        "stay": {"type": "integer", "known": "booking"},
        "lead": {"type": "integer", "known": "booking"},
        "arrival": {"type": "date", "known": "booking"},
        "price": {"type": "number", "known": "booking"},
    }
    schema |= {column: {"type": column.partition("_")[0], "known": "booking"} for column in COLUMNS}
    return stays(
        "bench",
        schema=schema,
        features={"entity": {"kind": "row", "at": "booking", "columns": COLUMNS}},
        prediction={"target": "price", "task": "regression", "at": "booking"},
        gate={"metric": "mae", "limit": 25.0, "baseline_by": ["string_0"]},
    )


def rows(entities: int, changed: int = 0) -> pa.Table:
    """Random rows, always the same; in the first `changed` every feature has another value."""
    dice = np.random.default_rng(7)
    made: dict[str, Any] = {
        "stay": np.arange(entities),
        "lead": dice.integers(0, 300, entities),
        "arrival": np.datetime64("2025-01-01") + dice.integers(0, 300, entities),
        "price": dice.uniform(0, 1000, entities),
    }
    other = np.arange(entities) < changed
    for column in COLUMNS:
        kind = column.partition("_")[0]
        if kind == "number":
            made[column] = dice.uniform(0, 1000, entities) + other
        elif kind == "integer":
            made[column] = dice.integers(0, 1_000_000, entities) + other
        elif kind == "string":
            made[column] = np.char.add("value ", (dice.integers(0, 5000, entities) + other).astype(str))
        else:
            made[column] = (dice.integers(0, 2, entities) > 0) ^ other
    return pa.table(made)


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def empty(databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    """Take the pipeline out of the online store, and forget that Feast knows it."""
    with session(databases.online, "empty") as opened:
        generations.drop(opened, generations.tables_of(opened, pipeline.name))
    with session(databases.offline, "empty") as opened:
        opened.execute("UPDATE feature_views SET watermark = NULL WHERE pipeline = %s", (pipeline.name,))
        opened.execute("UPDATE feature_loads SET registered = NULL WHERE pipeline = %s", (pipeline.name,))


def ours(databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    online.materialize(databases, pipeline, AT)
    with online.reader(databases, pipeline, "entity") as opened:
        (answer,) = opened.read([{"stay": 0}])
    assert answer["number_0"] is not None


def stock(databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    with repository.feature_store(databases, pipeline, "postgres") as store:
        repository.apply(store, pipeline)
        store.materialize(datetime(2020, 1, 1, tzinfo=UTC), AT)
        asked = store.get_online_features(["entity:number_0"], [{"stay": 0}]).to_dict()
        assert asked["number_0"] != [None]


def read_bytes(databases: FeatureDatabases, pipeline: ModelPipeline) -> bytes:
    (view,) = view_tables(pipeline)
    query = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(writing.newest(view, AT))
    with session(databases.offline, "read") as opened, opened.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(copy)


def bare(databases: FeatureDatabases, pipeline: ModelPipeline, body: bytes) -> None:
    (view,) = view_tables(pipeline)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(tables.name(column), sql.SQL(kind)) for column, kind in view.online.columns
    )
    key = tables.name(view.join_key)
    with session(databases.online, "copy") as opened:
        opened.execute("DROP TABLE IF EXISTS bare")
        opened.execute(sql.SQL("CREATE TABLE bare ({}, PRIMARY KEY ({}))").format(columns, key))
        with opened.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT binary)") as copy:
            for start in range(0, len(body), writing.BLOCK):
                copy.write(body[start : start + writing.BLOCK])
    with session(databases.online, "read") as opened:
        assert opened.execute("SELECT number_0 FROM bare WHERE stay = 0").fetchone()


def quantiles(read: Callable[[list[dict[str, int]]], object], entities: int, asked: int) -> tuple[float, float]:
    """Return median and 99th percentile in milliseconds of reads of `asked` random entities."""
    dice = random.Random(11)  # noqa: S311 - test data
    took = []
    for number in range(ENTITIES_READ[asked] + 20):
        keys = [{"stay": dice.randrange(entities)} for _ in range(asked)]
        one_read = seconds(partial(read, keys))
        if number >= 20:
            took.append(1000 * one_read)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


def reads(databases: FeatureDatabases, pipeline: ModelPipeline, entities: int, *, alone: bool) -> list[Row]:
    features = [f"entity:{column}" for column in COLUMNS]
    found: list[Row] = []
    with (
        repository.feature_store(databases, pipeline, "postgres") as stock_store,
        repository.feature_store(databases, pipeline) as our_store,
        online.reader(databases, pipeline, "entity") as reader,
    ):
        ways: dict[str, Callable[[list[dict[str, int]]], object]] = {
            "direct": reader.read,
            "feast": lambda keys: our_store.get_online_features(features, keys).to_dict(),
        }
        if not alone:
            ways["stock"] = lambda keys: stock_store.get_online_features(features, keys).to_dict()
        for asked in ENTITIES_READ:
            told = {way: quantiles(read, entities, asked) for way, read in ways.items()}
            for place, what in enumerate(("median", "99th percentile")):
                for way, name in (("direct", "without Feast"), ("feast", "through Feast")):
                    case = f"{asked} entities read {name}, {what}"
                    mine, other = (round(told[side][place], 3) for side in (way, "feast" if alone else "stock"))
                    found.append(Row(case, "ms", mine, other, "through Feast" if alone else "stock Feast", "lower"))
    return found


def main(given: Sequence[str]) -> None:
    if given and given[0] == "training":
        training_sets.main(given[1:])
        return
    if given and given[0] == "offline":
        from bench import offline_load

        offline_load.main(given[1:])
        return
    entities = int(given[0]) if given else 100_000
    rounds = int(given[1]) if len(given) > 1 else 3
    alone = "alone" in given[2:]
    quick_feast.load()
    pipeline, size = entities_pipeline(), f"{entities:,} entities x {len(COLUMNS)} features"
    with tempfile.TemporaryDirectory() as folder, own_servers(Path(folder) / "var") as servers:
        of = (servers.connections(f"pg_feast_{part}") for part in ("registry", "offline", "online"))
        databases = FeatureDatabases(*of)
        loaded = seconds(lambda: offline.load(databases, pipeline, rows(entities).to_reader(50_000), "s1", AT))
        body = read_bytes(databases, pipeline)
        took: dict[str, list[float]] = {"ours": [], "bare": [], "again": [], "loaded": [], "changed": []}
        stock_took = [] if alone else [seconds(lambda: stock(databases, pipeline))]
        for number in range(rounds):
            empty(databases, pipeline)
            took["ours"].append(seconds(lambda: ours(databases, pipeline)))
            took["bare"].append(seconds(lambda: bare(databases, pipeline, body)))
            took["again"].append(seconds(lambda: ours(databases, pipeline)))
            fewer = rows(entities, 0 if number % 2 else entities // 100)
            at = AT + timedelta(hours=number + 1)
            deliver = partial(offline.load, databases, pipeline, fewer.to_reader(50_000), f"s{number + 2}", at)
            took["loaded"].append(seconds(deliver))
            took["changed"].append(seconds(lambda: ours(databases, pipeline)))
        read = reads(databases, pipeline, entities, alone=alone)
    medians = {way: round(statistics.median(times), 3) for way, times in took.items()}
    full = medians["ours"]
    lower: Any = "lower"
    write(
        "features",
        [
            *(Row(size, "s", full, round(took_once, 1), "stock Feast, once", lower) for took_once in stock_took),
            Row(size, "s", full, medians["bare"], "a bare binary COPY from memory", lower),
            Row(f"the same, {entities // 100:,} of them changed", "s", medians["changed"], full, "all of them", lower),
            Row("the same, nothing changed", "s", medians["again"], full, "all of them", lower),
            *read,
        ],
        offline_load_seconds=round(loaded, 1),
        rounds={way: [round(second, 3) for second in times] for way, times in took.items()},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
