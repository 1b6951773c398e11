"""Rows that Spark derives from other pipelines' snapshots make the delivery and the snapshot of DuckDB."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from rempart.errors import IngestError
from rempart.flows.distributed import derive, ingest
from rempart.flows.distributed import world as driver
from rempart.flows.ingestion import extract as extraction
from rempart.flows.ingestion import ingest as ingestion
from rempart.flows.shared.platform import Platform
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.spark.connection import SparkConnection
from rempart.spark.order import SparkOrder, SparkResult
from tests.derived_project import NOW, TRIPS, WEATHER, WET, World, write_project
from tests.spark.features_on_spark import frame
from tests.spark.shared_site import Manager, SharedSite
from tests.unit.ingestion.conftest import no_connection
from tests.unit.spark.test_exact import COLUMNS, SAME, judged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SQL = """
WITH wet AS (SELECT hour, rain FROM weather WHERE rain >= 0.5)
SELECT w.hour, w.rain, max(t.km) * 2 AS km, CAST(sum(t.trip) + count(DISTINCT t.rider) AS BIGINT) AS trips
FROM wet AS w LEFT JOIN trips AS t ON date_trunc('hour', t.started) = w.hour
GROUP BY w.hour, w.rain HAVING count(t.trip) > 0
"""
HOURS = [f"2026-01-{day:02}T{hour:02}:00:00Z" for day in (1, 2) for hour in range(0, 24, 3)]


def rows_of(dice: random.Random) -> dict[str, pa.Table]:
    """Few values, so that rows meet: nulls, both zeros, ties, hours that differ by a microsecond."""

    def value(of: str) -> Any:
        begin = datetime(2025, 12, 31, 23, 59, 59, 999_999, UTC) + timedelta(
            microseconds=dice.choice([0, 1, 3_600_000_001])
        )
        drawn = {
            "integer": dice.choice([0, 1, 2, -3, 2**53 + 1]),
            "timestamp": begin,
            "date": begin.date() + timedelta(days=dice.choice([0, 1, 31])),
            "string": dice.choice(["a", "b", "é", "", "A"]),
            "number": dice.choice([0.0, -0.0, 0.5, 0.1, 3.7, 1e300]),
            "decimal(12,2)": Decimal(dice.choice([0, 1, -250, 9_999_999_999])).scaleb(-2),
            "boolean": dice.choice([True, False]),
            "array(string)": ["x"],
        }
        return drawn[of] if dice.random() > 0.1 else None

    found = {}
    for name, columns in COLUMNS.items():
        schema = arrow_schema({column: SnapshotColumn(of, True) for column, of in columns.items()})
        rows = [{column: value(of) for column, of in columns.items()} for _ in range(60)]
        found[name] = pa.Table.from_pylist(rows, schema)
    return found


def test_each_listed_query_gives_the_rows_of_duckdb(spark: SparkSession) -> None:
    tables = rows_of(random.Random(7))  # noqa: S311 - test data
    with duckdb.connect() as connection, SparkConnection(spark) as on_spark:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
            on_spark.register(name, frame(spark, table))
        for query in SAME:
            batches = list(on_spark.sql(judged(query)).to_arrow_reader(1000))
            wanted = connection.sql(query).to_arrow_table()
            assert sum(batch.num_rows for batch in batches) == wanted.num_rows, query
            if batches:  # a NOT IN of a list with a null has no row
                wanted = wanted.cast(batches[0].schema)
                assert shown(pa.Table.from_batches(batches)) == shown(wanted), query


def shown(table: pa.Table) -> list[str]:
    """Rows in an order; as in a snapshot's identity, -0 is 0."""
    rows = [[each + 0.0 if isinstance(each, float) else each for each in row.values()] for row in table.to_pylist()]
    return sorted(map(repr, rows))


@pytest.fixture
def sites() -> Iterator[Any]:
    key = secrets.token_bytes(16)
    with Manager(authkey=key) as started:

        def make() -> SharedSite:
            site = SharedSite(started.address, key)
            for bucket in ("landing", "lake"):
                site.ensure_bucket(bucket, versioned=True)
            return site

        yield make


def world_of(site: Any) -> World:
    """A platform with both inputs ingested."""
    config = configuration.load()
    made = World(
        Platform(config, no_connection, lambda: NOW, {config.active_site: site}, MemoryLedger(), MemoryContinuity())
    )
    made.deliver("weather", "w", [f"{hour},{n % 4 / 2}" for n, hour in enumerate(HOURS)])
    made.deliver("trips", "t", [f"{n},{HOURS[n % 7]},rider {n % 3},{n / 4}" for n in range(30)])
    return made


def test_derived_rows_are_those_of_duckdb(
    spark: SparkSession, sites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, TRIPS, WEATHER, WET, sql={"wet_trips": SQL})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    here, site = world_of(sites()), sites()
    there, jobs = world_of(site), list[str]()

    def run_job(order: SparkOrder) -> SparkResult:
        jobs.append(order.do)
        work = tmp_path / secrets.token_hex(4)
        work.mkdir()
        given = SparkOrder.model_validate_json(order.to_json())
        around = driver.World(site, work, lambda stage, **facts: None)  # type: ignore[arg-type]
        made = {"derive": derive.run, "ingest": ingest.run}[order.do](given, spark, around, site)  # type: ignore[arg-type]
        return SparkResult(
            order_id=order.order_id, status="succeeded", made=made.made, facts=made.facts, decision="0" * 64
        )

    on_spark = there.pipeline("wet_trips").model_copy(update={"engine": "spark"})
    for each in (here, there):
        each.derive()  # with DuckDB: the delivery of Spark stands for the whole
        each.deliver("weather", "more", ["2026-01-03T00:00:00Z,2", f"{HOURS[0]},2"])
        each.deliver("trips", "more", ["40,2026-01-03T00:00:00Z,rider 9,3"])
    here.derive()
    extraction.extract(there.platform, on_spark, run_job=run_job)
    ingestion.ingest(there.platform, on_spark, run_job=run_job)
    ours, theirs = here.snapshot(), there.snapshot()
    assert ours and theirs and ours.rows > 3
    assert (ours.id, ours.derived_from) == (theirs.id, theirs.derived_from)
    assert [each["sha256"] for each in ours.deliveries] == [each["sha256"] for each in theirs.deliveries]
    assert jobs == ["derive", "ingest"]
    assert not list(site.list("lake", "spark/"))
    assert extraction.extract(there.platform, on_spark, run_job=run_job).deliveries == 0 and len(jobs) == 2

    (tmp_path / "include/sql/wet_trips.sql").write_text(SQL.replace("max(t.km)", "sum(t.km)"))
    with pytest.raises(IngestError, match="SUM of floats"):
        extraction.extract(there.platform, on_spark, run_job=run_job)
    assert len(jobs) == 2
