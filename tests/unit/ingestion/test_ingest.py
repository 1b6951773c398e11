"""Runs of ingestion: one snapshot per run, no row twice, and no harm if a run is killed at any step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.coordination.active import Active
from rempart.coordination.failover import Switchover
from rempart.errors import CommittedMeanwhile, ConfigError, IngestError, PlacementDenied, SiteFenced
from rempart.flows.ingestion import derived_run
from rempart.flows.ingestion.ingest import check_quarantine, ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.ingestion.delta import log
from rempart.ledger.memory import MemoryLedger
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite
from tests.unit.ingestion.deliveries import BAD, A, B, C, lake, rows


def test_one_run_takes_all_waiting_deliveries_into_one_snapshot(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, BAD)
    deliver("2.csv", B, C)
    result = ingest(platform, readings)
    assert (result.deliveries, result.delivered, result.accepted, result.quarantined, result.total_rows) == (
        2,
        4,
        3,
        1,
        3,
    )
    assert result.changed
    assert deliveries.totals(platform.sites["primary"], "lake", "readings") == {
        "deliveries": 2,
        "delivered": 4,
        "accepted": 3,
        "repeated": 0,
        "quarantined": 1,
    }
    assert len([key for key in lake(platform) if key.startswith("snapshots/") and "/parts/" not in key]) == 3
    assert [key for key in lake(platform) if "_delta_log" in key] == [log.version_key("readings", 0)]
    assert not list(platform.sites["primary"].list("landing"))
    (evidence,) = platform.ledger.find("snapshot", "readings")
    taken = {key[:-5].rpartition("/")[2] for key in lake(platform) if key.startswith("deliveries/")}
    assert len(taken) == 2 and set(evidence.body["sources"]) == taken
    assert {key: value for key, value in evidence.body.items() if key != "sources"} == {
        "snapshot": result.snapshot,
        "previous": None,
        "site": "primary",
        "bucket": "lake",
        "deliveries": 2,
        "rows": 3,
        "delivered": 4,
        "accepted": 3,
        "repeated": 0,
        "quarantined": 1,
    }
    json.dumps(asdict(result))


def test_nothing_new_changes_nothing(platform: Platform, readings: Pipeline, deliver: Callable[..., None]) -> None:
    assert ingest(platform, readings).snapshot is None
    deliver("1.csv", A)
    first = ingest(platform, readings)
    before = lake(platform)
    second = ingest(platform, readings)
    assert (second.changed, second.snapshot, second.delivered, second.total_rows) == (False, first.snapshot, 0, 1)
    assert lake(platform) == before
    assert len(platform.ledger.find("snapshot")) == 1


def test_quarantine_keeps_line_reason_and_the_row_as_received(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, BAD, "m5,2026-02-30,abc,1,base,", B)
    ingest(platform, readings)
    site = platform.sites["primary"]
    (outcome,) = deliveries.outcomes(site, "lake", "readings")
    assert outcome["reasons"] == {
        "day: this date does not exist in the calendar": 1,
        "kwh out of range": 1,
        "kwh: not a number": 1,
    }
    assert (outcome["outcome"], outcome["delivered"], outcome["accepted"]) == ("accepted in part", 4, 2)
    key = landing.quarantine_key("readings", outcome["sha256"])
    rows = pq.read_table(pa.BufferReader(site.read("lake", key))).to_pylist()
    assert rows == [
        {"source_line": 3, "reason": "kwh out of range", "raw": BAD},
        {
            "source_line": 4,
            "reason": "day: this date does not exist in the calendar; kwh: not a number",
            "raw": "m5,2026-02-30,abc,1,base,",
        },
    ]
    assert site.head("lake", key).metadata["retain-until"] == "2026-05-30"


def test_a8_too_much_quarantine_turns_the_run_red_and_publishes_nothing(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    strict = readings.model_copy(update={"max_quarantined": 0.4})
    deliver("1.csv", A, BAD)
    result = ingest(platform, strict)
    with pytest.raises(IngestError, match="1 of 2 rows were refused") as error:
        check_quarantine(strict, result)
    assert "kwh out of range" in str(error.value)
    assert "900" not in str(error.value)
    assert "1.csv: 1 of 2 (" in str(error.value) and "1 refused + 1 good rows held back" in str(error.value)
    assert result.held[0][:12] in str(error.value)
    remedy = error.value.hint
    assert remedy.startswith("Run `rempart quarantine show readings`"), "the next command comes first"
    assert len(str(error.value)) < 520, "a person reads it in a terminal"
    again = ingest(platform, strict)
    assert (result.changed, again.changed, again.snapshot, again.total_rows) == (False, False, None, 0)
    assert len(list(platform.sites["primary"].list("lake", "quarantine/"))) == 1


def test_a_delivery_replaced_while_it_was_read_is_taken_by_the_next_run(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    site = platform.sites["primary"]
    deliver("1.csv", A)

    class Replaced(MemoryLedger):
        def append(self, kind: Any, *arguments: Any) -> Any:
            if kind == "snapshot":
                deliver("1.csv", A, B)
            return super().append(kind, *arguments)

    busy = Platform(
        platform.config, platform.connections, platform.clock, platform.sites, Replaced(), platform.continuity_
    )
    ingest(busy, readings)
    assert len(list(site.list("landing"))) == 1
    assert ingest(platform, readings).total_rows == 2


def test_a_policy_that_denies_the_site_stops_the_run_before_anything_is_read(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A)
    with pytest.raises(PlacementDenied):
        ingest(platform, readings.model_copy(update={"classification": "sensitive"}))
    assert not lake(platform)
    assert platform.ledger.find("denial")


def test_a_classification_without_retention_is_refused_before_anything_is_written(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A)
    bare = Platform(
        platform.config.model_copy(update={"retention": {}}),
        platform.connections,
        platform.clock,
        platform.sites,
        platform.ledger_,
        platform.continuity_,
    )
    with pytest.raises(ConfigError, match=r"retention\.personal"):
        ingest(bare, readings)
    assert not lake(platform)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, data=st.data())
def test_the_same_rows_give_the_same_snapshot_however_they_are_delivered(
    make_platform: Callable[[], Platform], readings: Pipeline, rows: list[Any], data: st.DataObject
) -> None:
    lines = [f"m{m},{day},{kwh},{m % 5},{tariff},text {m}" for m, day, kwh, tariff in rows]
    plain = readings.model_copy(update={"expectations": []})  # Great Expectations is not what is tested here
    ids = set()
    for _ in range(2):
        platform = make_platform()
        order = data.draw(st.permutations(lines))
        delivery_of = data.draw(st.lists(st.integers(0, 3), min_size=len(lines), max_size=len(lines)))
        run_of = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
        result = None
        for run in (0, 1):
            for number in range(4):
                chosen = [line for line, owner in zip(order, delivery_of, strict=True) if owner == number]
                if chosen and run_of[number] == run:
                    body = ("meter,day,kwh,people,tariff,note\n" + "\n".join(chosen)).encode()
                    platform.sites["primary"].write("landing", f"readings/{number}.csv", body)
            result = ingest(platform, plain)
        assert result is not None
        assert result.total_rows == len(lines)
        ids.add(result.snapshot)
    assert len(ids) == 1


def test_a_plan_takes_the_oldest_first_and_each_delivery_once(platform: Platform) -> None:
    now = platform.clock()

    def arrival(key: str, sha: str, minutes: int) -> landing.Arrival:
        return landing.Arrival(f"x/{key}", sha, 1, now + timedelta(minutes=minutes), "")

    late, early, again, known = arrival("a", "1", 9), arrival("b", "2", 1), arrival("c", "2", 2), arrival("d", "3", 0)
    plan = landing.plan([late, early, again, known], {"3"})
    assert plan.new == (early, late)
    assert plan.known == (known, again)
    back = ObjectInfo(landing.put_back_key("x/", now, "5" * 64, "e"), 1, now + timedelta(minutes=20))
    assert landing.landed_at(back) == now, "it is older than what waits"
    assert landing.landed_at(replace(back, key="x/again-0000-13-01T250000.000000-555555555555/e")) == back.modified


def test_a_current_snapshot_without_evidence_gets_it(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A)
    first = ingest(platform, readings)
    assert isinstance(platform.ledger, MemoryLedger)
    platform.ledger.records.clear()
    assert ingest(platform, readings) == first
    assert len(platform.ledger.find("snapshot")) == 1
    assert snapshots.current(platform.sites["primary"], "lake", "readings") is not None


def test_x3_a_run_that_stood_still_takes_away_nothing_that_its_successor_committed(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    overtakes: list[None] = [None]

    class Overtaken(MemorySite):
        """While one run reads its delivery, another run takes in this one and a newer one."""

        def write_new(self, *arguments: Any, **named: Any) -> bool:
            if overtakes:
                overtakes.pop()
                deliver("2.csv", B, to=standing)
                assert ingest(standing, readings).total_rows == 2
            return super().write_new(*arguments, **named)

    sites = {"primary": Overtaken("primary")}
    for bucket in ("landing", "lake"):
        sites["primary"].ensure_bucket(bucket, versioned=True)
    standing = replace(platform, sites=sites)
    deliver("1.csv", A, to=standing)
    with pytest.raises(CommittedMeanwhile, match="Another run or an erasure changed it; nothing was committed"):
        ingest(standing, readings)
    assert ingest(standing, readings).total_rows == 2
    assert len(standing.ledger.find("snapshot")) == 1


def test_x3_a_run_that_was_overtaken_before_it_began_to_write_writes_nothing(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver("1.csv", A)
    ingest(platform, readings)
    told = [*platform.ledger.find("snapshot"), *platform.ledger.find("deliveries")]
    waiting, checked = ["2.csv"], derived_run.check_schema

    def check_schema(*given: Any) -> None:
        checked(*given)
        if waiting:
            deliver(waiting.pop(), B)
            assert ingest(platform, readings).total_rows == 2

    with monkeypatch.context() as during:
        during.setattr(derived_run, "check_schema", check_schema)
        with pytest.raises(CommittedMeanwhile) as stopped:
            ingest(platform, readings)
    assert stopped.value.transient
    versions = [key for key in lake(platform) if "_delta_log" in key]
    assert versions == [log.version_key("readings", 0), log.version_key("readings", 1)]
    after = [*platform.ledger.find("snapshot"), *platform.ledger.find("deliveries")]
    assert len(after) == len(told) + 2, "one snapshot, one account of deliveries"


def test_a_site_that_is_fenced_meanwhile_gets_no_snapshot_and_the_next_one_gets_it(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    generations = platform.continuity.active_sites("primary")

    def move(site: str, state: Literal["active", "fenced"]) -> None:
        with generations.hold_lease("test") as lease:
            switchover = Switchover("j", "failover", "primary", "haven")
            generations.advance(lease, generations.active(), Active(0, site, state, switchover))

    class Fencing(MemorySite):
        """The fence comes down while deliveries are being read."""

        def write_new(self, *arguments: Any, **named: Any) -> bool:
            if generations.active().state == "active":
                move("primary", "fenced")
            return super().write_new(*arguments, **named)

    sites = {"primary": Fencing("primary"), "haven": MemorySite("haven")}
    for site in sites.values():
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
    moving = replace(platform, sites=sites)
    deliver("1.csv", A, BAD, to=moving)
    with pytest.raises(SiteFenced, match="is fenced"):
        ingest(moving, readings)
    assert not list(sites["primary"].list("lake", "snapshots/")) and list(sites["primary"].list("landing"))
    assert not moving.ledger.find("snapshot")
    move("haven", "active")
    sites["haven"].write("landing", "readings/1.csv", sites["primary"].read("landing", "readings/1.csv"))
    assert ingest(moving, readings).total_rows == 1
    assert list(sites["haven"].list("lake", "snapshots/")) and not list(sites["haven"].list("landing"))
