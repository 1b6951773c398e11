"""A derived pipeline from its inputs' snapshots to its own: whole, once for each state, and judged as all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rempart.errors import IngestError, PipelineError, PlacementDenied
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.reingest import reingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion.derived import inputs as files
from rempart.settings import pipelines
from tests.derived_project import (
    DAILY,
    DAILY_SQL,
    NOW,
    SQL,
    TRIPS,
    WEATHER,
    WET,
    World,
    changed,
    trip,
    weather,
    write_project,
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_platform: Callable[[], Platform]) -> World:
    write_project(tmp_path)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    found = World(replace(make_platform(), clock=lambda: NOW))
    found.deliver("trips", "one", [trip(1, 0, 2), trip(2, 0, 3), trip(3, 1, 5)])
    found.deliver("weather", "one", weather(0.5, 0))
    return found


def test_the_snapshot_is_exactly_what_the_query_gives_and_names_its_inputs(world: World) -> None:
    extracted, result = world.derive()
    assert extracted.deliveries == 1 and (result.accepted, result.quarantined) == (2, 0)
    assert [row[1:] for row in world.rows()] == [(0.5, 5.0, 2), (0.0, 5.0, 1)]
    found = world.snapshot()
    assert found is not None
    taken = {name: getattr(world.snapshot(name), "id", None) for name in ("trips", "weather")}
    assert {name: found.derived_from[f"input {name}"] for name in taken} == taken
    for kind in ("extraction", "snapshot"):
        (record,) = world.platform.ledger.find(kind, "wet_trips")  # type: ignore[arg-type] # kinds
        assert dict(record.body["derived_from"]) == dict(found.derived_from)
    (record,) = world.platform.ledger.find("derivation", "wet_trips")
    assert record.body["lineage"] == {
        "hour": ["weather.hour"], "rain": ["weather.rain"], "km": ["trips.km"], "trips": [],
    }  # fmt: skip
    (record,) = world.platform.ledger.find("extraction", "wet_trips")
    assert (record.body["operator"], record.body["jurisdiction"]) == ("trial-one", "FR")


def test_without_news_nothing_is_derived_and_the_same_rows_are_the_same_snapshot(world: World) -> None:
    world.derive()
    before = world.snapshot()
    extracted, result = world.derive()
    assert (extracted.deliveries, result.changed) == (0, False)
    world.deliver("weather", "two", weather(9, day=2))  # an hour without a trip
    extracted, result = world.derive()
    now = world.snapshot()
    assert before and now and (extracted.deliveries, result.changed) == (1, False) and now.id == before.id
    # the manifest says that the rows are those of the newer input, too
    assert now.derived_from["input weather"] == getattr(world.snapshot("weather"), "id", None)
    assert world.derive()[0].deliveries == 0


def test_a_changed_row_replaces_and_a_vanished_row_leaves(world: World, tmp_path: Path) -> None:
    world.derive()
    first = world.snapshot()
    world.deliver("trips", "two", [trip(4, 1, 7)])
    _, result = world.derive()
    assert [row[2] for row in world.rows()] == [5.0, 12.0] and result.changed and result.quarantined == 0
    write_project(tmp_path, WET, sql={"wet_trips": f"{SQL} HAVING sum(t.km) > 6"})
    world.derive()
    assert [row[2] for row in world.rows()] == [12.0]
    # back to rows of an earlier snapshot: their delivery is known, and counts again
    write_project(tmp_path, WET, sql={"wet_trips": f"{SQL} HAVING sum(t.km) < 1000"})
    world.derive()
    assert [row[2] for row in world.rows()] == [5.0, 12.0]
    now = world.snapshot()
    assert first and now and now.previous not in (None, now.id)


def test_killed_between_any_two_steps_the_next_run_completes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.pipeline("wet_trips")

    class Killed(BaseException):
        pass

    def dies(*given: object, **more: object) -> None:
        raise Killed

    for name in ("conclude", "append_snapshot"):
        world.deliver("trips", name, [trip(len(name), 1, 1)])
        extract(world.platform, spec)
        with monkeypatch.context() as during, pytest.raises(Killed):
            during.setattr(ingest_run, name, dies)
            ingest(world.platform, spec)
        extract(world.platform, spec)
        ingest(world.platform, spec)
        extract(world.platform, spec)
        assert not [info for info in world.home.list("landing") if info.key.startswith("wet_trips/")]
    assert [row[2] for row in world.rows()] == [5.0, 7.0]
    recorded = [record.body["snapshot"] for record in world.platform.ledger.find("snapshot", "wet_trips")]
    assert len(recorded) == len(set(recorded)) == 2


def test_too_many_refused_rows_hold_the_whole_back_until_a_person_accepts(world: World) -> None:
    world.derive()
    before = world.rows()
    world.deliver("trips", "two", [trip(4, 0, 5000), trip(5, 1, 5000)])
    world.deliver("weather", "two", weather(1, day=2))
    world.deliver("trips", "three", [trip(6, 0, 1, day=2)])
    _, result = world.derive()
    (held,) = result.held
    assert (result.changed, result.quarantined) == (False, 3) and world.rows() == before
    done = reingest(world.platform, world.pipeline("wet_trips"), held, accepted_by="user 7")
    assert done.changed and [row[2] for row in world.rows()] == [1.0]
    found = world.snapshot()
    assert found and found.derived_from["input trips"] == getattr(world.snapshot("trips"), "id", None)


def test_a_delivery_of_earlier_inputs_is_not_ingested_again(world: World) -> None:
    world.deliver("trips", "two", [trip(4, 0, 5000)])
    _, result = world.derive()
    assert result.quarantined == 1
    outcome = next(iter(world.home.list("lake", "deliveries/wet_trips/")))
    world.deliver("trips", "three", [trip(5, 1, 1)])
    world.derive()
    with pytest.raises(IngestError, match="derived from earlier snapshots"):
        reingest(world.platform, world.pipeline("wet_trips"), outcome.key.rsplit("/", 1)[1].removesuffix(".json"))


def test_a_join_that_repeats_a_key_sends_the_other_rows_to_quarantine(world: World, tmp_path: Path) -> None:
    repeated = "SELECT w.hour, w.rain, t.km, 1::BIGINT AS trips FROM trips AS t CROSS JOIN weather AS w"
    write_project(tmp_path, changed(WET, max_quarantined=1), sql={"wet_trips": repeated})
    _, result = world.derive()
    assert (result.delivered, result.accepted, result.quarantined, result.repeated) == (6, 2, 4, 0)
    (record,) = world.platform.ledger.find("deliveries", "wet_trips")
    (delivery,) = record.body["deliveries"]
    assert delivery["reasons"] == {"its key was accepted before with other values": 4}


def test_a_file_that_was_not_derived_is_refused(world: World) -> None:
    world.home.write("landing", "wet_trips/foreign.csv", b"hour,rain,km,trips\n")
    with pytest.raises(IngestError, match=r"wet_trips/foreign\.csv waits for it, which was not derived"):
        world.derive()
    assert world.snapshot() is None


def test_an_input_without_a_snapshot_is_named(tmp_path: Path, world: World) -> None:
    write_project(tmp_path, changed(WEATHER, name="storms", source={"prefix": "storms/"}))
    write_project(
        tmp_path,
        changed(WET, source={**files_source(), "inputs": ["trips", "storms"]}),
        sql={"wet_trips": SQL.replace("weather", "storms")},
    )
    with pytest.raises(IngestError, match="its input 'storms' has no snapshot yet"):
        world.derive()


def files_source() -> dict[str, object]:
    return {"kind": "derived", "prefix": "wet_trips/", "sql": "include/sql/wet_trips.sql"}


def test_no_row_any_more_is_refused(world: World, tmp_path: Path) -> None:
    world.derive()
    before = world.rows()
    write_project(tmp_path, WET, sql={"wet_trips": f"{SQL} HAVING sum(t.km) > 600"})
    with pytest.raises(IngestError, match="gives no row of the current trips, weather"):
        world.derive()
    assert world.rows() == before


def test_a_derived_pipeline_is_an_input_of_another(world: World, tmp_path: Path) -> None:
    write_project(tmp_path, DAILY, sql={"daily": DAILY_SQL})
    world.derive()
    world.derive("daily")
    assert [row[1] for row in world.rows("daily")] == [10.0]


def test_a_lower_classification_needs_the_ledgers_record(world: World, tmp_path: Path) -> None:
    low = changed(WET, classification="internal")
    write_project(tmp_path, low)
    with pytest.raises(PipelineError, match="internal is lower than personal, the classification of its input 'trips'"):
        files.check(world.pipeline("wet_trips"))
    write_project(tmp_path, changed(low, lowered={"data": {"to": "internal", "evidence": 1}}))
    files.check(world.pipeline("wet_trips"))
    with pytest.raises(PlacementDenied, match=r"lowered\.data: record 1 of the ledger does not attest"):
        world.derive()
    by = {"because": "sums", "role": "data-protection-officer", "source": "personal"}
    record = world.platform.lower(world.pipeline("wet_trips"), "data", "internal", **by)  # type: ignore[arg-type] # words
    write_project(tmp_path, changed(low, lowered={"data": {"to": "internal", "evidence": record.seq}}))
    world.derive()
    found = world.snapshot()
    assert found and found.classification == "internal"


@pytest.mark.parametrize(
    ("text", "sql", "why"),
    [
        (WET, "SELECT *\nFROM storms", r"include/sql/wet_trips\.sql: line 2: table 'storms' is none of its inputs"),
        (WET, f"{SQL}\nORDER BY now()", r"line 8: now\(\)"),
        (WET, SQL.replace("AS km", "AS miles"), "schema.km: the query gives no such column"),
        (WET, "SELECT started AS hour, km, km AS rain, trip AS trips FROM trips", "does not read 'weather'"),
        (WET.replace("weather]", "storms]"), SQL, "there is no pipeline 'storms'"),
        (WET.replace("trips, weather]", "wet_trips]"), SQL, "derived from itself: wet_trips -> wet_trips"),
    ],
)
def test_a_mistake_is_said_before_any_run(world: World, tmp_path: Path, text: str, sql: str, why: str) -> None:
    write_project(tmp_path, text, sql={"wet_trips": sql})
    with pytest.raises(PipelineError, match=why):
        files.check(world.pipeline("wet_trips"))


def test_an_invalid_input_and_a_missing_file_are_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "include/sql/wet_trips.sql").unlink()
    with pytest.raises(PipelineError, match=r"include/sql/wet_trips\.sql cannot be read"):
        files.check(world.pipeline("wet_trips"))
    files.check(world.pipeline("wet_trips"), thorough=False)
    write_project(tmp_path, changed(TRIPS, key=["nothing"]))
    with pytest.raises(PipelineError, match="pipeline 'trips' is not valid"):
        files.check(world.pipeline("wet_trips"), thorough=False)
    with pytest.raises(PipelineError, match="on_conflict: a derived delivery stands for all rows"):
        write_project(tmp_path, changed(WET, on_conflict="newest"))
        pipelines.load(tmp_path / "include/pipelines/wet_trips.yaml")
