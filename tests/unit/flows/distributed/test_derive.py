"""Rows that a job derived become the delivery that DuckDB makes; a query that Spark does otherwise orders no job."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.backup.points.erasures import pseudonym
from rempart.errors import IngestError, IntegrityError, SparkError
from rempart.flows.distributed import derive
from rempart.flows.distributed.derive import Parameters
from rempart.flows.ingestion.extract import extract
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.config import project_root
from rempart.settings.pipelines import named
from rempart.spark.order import MadeObject, SparkOrder, SparkResult
from tests.derived_project import NOW, TRIPS, WEATHER, WET, World, changed, write_project
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import no_connection
from tests.unit.ingestion.job_by_duckdb import sha256_of

SQL = """
SELECT w.hour, w.rain, max(t.km) AS km, count(*) AS trips
FROM trips AS t JOIN weather AS w ON w.hour = date_trunc('hour', t.started) GROUP BY w.hour, w.rain
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    write_project(tmp_path, TRIPS, WEATHER, changed(WET, engine="spark"), sql={"wet_trips": SQL})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))

    def world() -> World:
        site, config = MemorySite("primary"), configuration.load()
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        sites: Any = {config.active_site: site}
        made = World(Platform(config, no_connection, lambda: NOW, sites, MemoryLedger(), MemoryContinuity()))
        made.deliver("weather", "w", [f"2026-01-01T0{n}:00:00Z,{n}" for n in range(5)])
        made.deliver("trips", "t", [f"{n},2026-01-01T0{n % 5}:30:00Z,rider {n},{n / 4}" for n in range(20)])
        return made

    return world


class Work:
    """Does a job's work with DuckDB: rows in two objects, in no order."""

    def __init__(self, world: World) -> None:
        self.site, self.orders = world.home, list[SparkOrder]()

    def __call__(self, order: SparkOrder) -> SparkResult:
        self.orders.append(order)
        given = Parameters.of(order.parameters)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for name, form in given.forms.items():
                parts = []
                for each in order.of_role(name):
                    rows = pq.read_table(io.BytesIO(self.site.read(each.bucket, each.key, sha256=each.sha256)))
                    gone = form.gone.get(each.sha256, ())
                    parts.append(rows.take([place for place in range(rows.num_rows) if place not in gone]))
                connection.register(name, pa.concat_tables(parts))
            columns = {name: SnapshotColumn(of, True) for name, of in given.columns.items()}
            found = connection.sql(given.query).to_arrow_table().cast(arrow_schema(columns))
        made = tuple(self._stored(order, part) for part in (found.slice(1), found.slice(0, 1)))
        return SparkResult(order_id=order.order_id, status="succeeded", made=made, decision="0" * 64)

    def _stored(self, order: SparkOrder, rows: pa.Table) -> MadeObject:
        sink = io.BytesIO()
        pq.write_table(rows, sink)
        body = sink.getvalue()
        key = order.key(f"{sha256_of(body)}.parquet")
        self.site.write("lake", key, body)
        return MadeObject(role=derive.ROWS, key=key, sha256=sha256_of(body), bytes=len(body), rows=rows.num_rows)


def landed(world: World) -> list[tuple[str, bytes]]:
    return [(info.key, world.home.read("landing", info.key)) for info in world.home.list("landing")]


def test_derived_rows_are_the_delivery_of_this_machine_to_the_byte(make: Callable[[], World]) -> None:
    here, there = make(), make()
    pipeline, work = there.pipeline("wet_trips"), Work(there)
    assert extract(there.platform, pipeline, run_job=work).deliveries == 1
    extract(here.platform, pipeline.model_copy(update={"engine": "duckdb"}))
    assert landed(there) == landed(here) != []
    assert not list(there.home.versions("lake", "spark/"))
    assert extract(there.platform, pipeline, run_job=work).deliveries == 0 and len(work.orders) == 1


def test_what_a_killed_derivation_left_is_gone_after_the_next_run(make: Callable[[], World]) -> None:
    world = make()
    pipeline, work = world.pipeline("wet_trips"), Work(world)
    killed, training = (f"spark/wet_trips/{do}/0123456789abcdef/rows.parquet" for do in ("derive", "training_set"))
    for expected in (1, 0):  # one run derives rows, and one finds that they wait
        for key in (killed, training):
            world.home.write("lake", key, b"rows")
        assert extract(world.platform, pipeline, run_job=work).deliveries == expected
        assert {info.key for info in world.home.versions("lake", "spark/")} == {training}


def test_rows_of_erased_people_are_left_out_by_their_positions(
    make: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(), make()
    who = frozenset({pseudonym(b"key", "trips", [19])})
    found = Erased("trips", frozenset({"e"}), ((b"key", who),))
    monkeypatch.setattr(erasures, "erased", lambda _, name, __: found if name == "trips" else None)
    pipeline, work = there.pipeline("wet_trips"), Work(there)
    extract(there.platform, pipeline, run_job=work)
    extract(here.platform, pipeline.model_copy(update={"engine": "duckdb"}))
    assert landed(there) == landed(here)
    assert sum(map(len, Parameters.of(work.orders[0].parameters).forms["trips"].gone.values())) == 1


@pytest.mark.parametrize("lie", [{"rows": 99}, {"sha256": "0" * 64}])
def test_an_object_that_is_not_as_the_job_says_makes_no_delivery(
    make: Callable[[], World], lie: dict[str, Any]
) -> None:
    world = make()
    work = Work(world)

    def altered(order: SparkOrder) -> SparkResult:
        result = work(order)
        first, *others = result.made
        return result.model_copy(update={"made": (first.model_copy(update=lie), *others)})

    with pytest.raises(IntegrityError):
        extract(world.platform, world.pipeline("wet_trips"), run_job=altered)
    assert not landed(world) and not list(world.home.versions("lake", "spark/"))


def test_a_query_that_spark_would_not_do_to_the_last_bit_orders_no_job(
    make: Callable[[], World], tmp_path: Path
) -> None:
    world = make()
    (tmp_path / "include/sql/wet_trips.sql").write_text(SQL.replace("max(t.km)", "sum(t.km)"))
    work, pipeline = Work(world), world.pipeline("wet_trips")
    with pytest.raises(IngestError, match="SUM of floats"):
        extract(world.platform, pipeline, run_job=work)
    with pytest.raises(IngestError, match="SUM of floats"):
        derive.check(pipeline)
    derive.check(world.pipeline("trips"))
    assert not work.orders and not landed(world)


@pytest.mark.parametrize(
    "found", [{}, {"query": "", "columns": 3, "forms": {}}, {"query": "", "forms": {"a": {"b": 1}}}]
)
def test_an_order_with_other_parameters_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(SparkError, match="not those of a derivation"):
        Parameters.of(found)


def test_the_shipped_query_is_one_that_spark_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flights = project_root() / "data" / "flights"
    for folder, kind in (("pipelines", "*.yaml"), ("sql", "*.sql")):
        (tmp_path / "include" / folder).mkdir(parents=True)
        for file in flights.glob(kind):
            shutil.copy(file, tmp_path / "include" / folder)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    derive.check(named("late_departures"))
