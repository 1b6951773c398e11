"""Two models over one data set: two derived pipelines over one that takes the rows; and what two sources share.

docs/how-to/join-two-pipelines.md tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rempart.errors import PipelineError
from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion.derived import inputs
from rempart.ingestion.sources.bucket import BucketFiles
from rempart.ingestion.sources.port import Origin
from rempart.settings import pipelines
from tests.derived_project import NOW, TRIPS, World, changed, trip, write_project
from tests.memory_site import MemorySite

LONG = changed(
    TRIPS,
    name="long_trips",
    source={"kind": "derived", "prefix": "long_trips/", "inputs": ["trips"], "sql": "include/sql/long_trips.sql"},
)
HOURS = changed(
    LONG,
    name="trip_hours",
    source={"kind": "derived", "prefix": "trip_hours/", "inputs": ["trips"], "sql": "include/sql/trip_hours.sql"},
)
EVERY = "SELECT * FROM trips"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_platform: Callable[[], Platform]) -> World:
    write_project(tmp_path, TRIPS, LONG, HOURS, sql={"long_trips": EVERY, "trip_hours": EVERY})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return World(replace(make_platform(), clock=lambda: NOW))


def test_two_models_have_the_rows_of_one_pipeline_that_takes_them_once(world: World) -> None:
    world.deliver("trips", "one", [trip(1, 0, 2), trip(2, 1, 3)])
    for name in ("long_trips", "trip_hours"):
        inputs.check(world.pipeline(name))
        world.derive(name)
        assert world.rows(name) == world.rows("trips") != []
    world.deliver("trips", "two", [trip(3, 2, 9)])
    world.derive("long_trips")
    assert [len(world.rows(name)) for name in ("trips", "long_trips", "trip_hours")] == [3, 3, 2]
    world.derive("trip_hours")
    assert world.rows("trip_hours") == world.rows("trips")


def test_a_new_column_of_the_input_is_named_before_any_run_where_the_query_takes_every_column(world: World) -> None:
    world.deliver("trips", "one", [trip(1, 0, 2)])
    columns = {
        name: {"type": kind, "known": "begin"}
        for name, kind in (("trip", "integer"), ("started", "timestamp"), ("rider", "string"), ("km", "number"))
    }
    write_project(
        pipelines.pipelines_dir().parents[1],
        changed(TRIPS, schema={**columns, "bell": {"type": "string", "known": "begin", "nullable": True}}),
        sql={},
    )
    with pytest.raises(PipelineError, match="bell"):
        inputs.check(world.pipeline("long_trips"))


def test_two_pipelines_may_take_the_same_files_and_each_goes_its_own_way(world: World) -> None:
    theirs = MemorySite("acme")
    theirs.ensure_bucket("shared", versioned=False)
    theirs.write("shared", "trips/1.csv", f"trip,started,rider,km\n{trip(1, 0, 2)}\n".encode())
    source = BucketFiles(theirs, "shared", "trips/", Origin("acme", "acme/shared/trips/", "DE", "US"))
    folder = pipelines.pipelines_dir().parents[1]
    taken = {"kind": "site", "site": "acme", "bucket": "shared", "folder": "trips/"}
    names = ("first", "second")
    write_project(
        folder, *(changed(TRIPS, name=name, source={**taken, "prefix": f"{name}/"}) for name in names), sql={}
    )
    for rows in (1, 2):
        for name in names:
            spec = world.pipeline(name)
            assert extract(world.platform, spec, source=source).deliveries == 1
            assert ingest(world.platform, spec).accepted == 1
            assert len(world.rows(name)) == rows
            assert extract(world.platform, spec, source=source).deliveries == 0
        theirs.write("shared", "trips/2.csv", f"trip,started,rider,km\n{trip(2, 1, 3)}\n".encode())


def test_two_pipelines_cannot_share_a_prefix(world: World) -> None:
    write_project(pipelines.pipelines_dir().parents[1], changed(TRIPS, name="copies"), sql={})
    with pytest.raises(PipelineError, match="a delivery would belong to both"):
        pipelines.named("copies")
