"""Runs of ingestion: one snapshot per run, nothing twice, and no step at which being cut off does harm."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.coordination.active import Active
from rempart.coordination.failover import Switchover
from rempart.errors import ConfigError, IngestError, IntegrityError, PlacementDenied, SiteFenced, SiteUnavailable
from rempart.flows.ingestion.ingest import check_quarantine, ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Checks
from tests.memory_site import MemorySite

A, B, C = "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,3,night,x", "m3,2026-02-01,3,1,base,"
BAD = "m4,2026-02-01,900,1,base,"


def lake(platform: Platform) -> dict[str, bytes]:
    site = platform.sites["primary"]
    return {info.key: site.read("lake", info.key) for info in site.list("lake")}


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
        "quarantined": 1,
    }
    assert len([key for key in lake(platform) if key.startswith("snapshots/") and "/parts/" not in key]) == 2
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
    with pytest.raises(IngestError, match="1 of 2 rows went to quarantine") as error:
        check_quarantine(strict, result)
    assert "kwh out of range" in str(error.value)
    assert "900" not in str(error.value)
    assert result.held[0] in str(error.value)
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


class CutOff(MemorySite):
    """A site that stops answering at its n-th change."""

    def __init__(self) -> None:
        super().__init__("primary")
        self.left = 10_000

    def _change(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise SiteUnavailable("cut off", "run again")

    def write(self, *arguments: Any, **named: Any) -> Any:
        self._change()
        return super().write(*arguments, **named)

    def delete(self, *arguments: Any, **named: Any) -> None:
        self._change()
        super().delete(*arguments, **named)


class CutOffLedger(MemoryLedger):
    cut = False

    def append(self, *arguments: Any) -> Any:
        if self.cut:
            raise SiteUnavailable("cut off", "run again")
        return super().append(*arguments)


def settled(platform: Platform) -> dict[str, object]:
    """What a run leaves, without times."""
    kept: dict[str, object] = {}
    for key, body in lake(platform).items():
        value = json.loads(body) if key.endswith(".json") else body
        if isinstance(value, dict):
            for counted in (value, *value.get("deliveries", ())):
                counted.pop("landed_at", None)
        kept[key] = value
    return kept


def test_cut_off_at_every_change_and_run_again_ends_as_if_never_cut(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    files = {"1.csv": (A, BAD), "2.csv": (B, "m9"), "3.csv": (C, A)}

    def fresh() -> tuple[Platform, CutOff]:
        site = CutOff()
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        made = replace(platform, sites={"primary": site}, ledger_=CutOffLedger())
        return made, site

    def run(target: Platform, cut_at: int | None, cut_ledger: bool = False) -> list[Any]:
        site, ledger = target.sites["primary"], target.ledger
        assert isinstance(site, CutOff)
        assert isinstance(ledger, CutOffLedger)
        deliver("0.csv", "m0,2026-01-05,1,1,base,", to=target)
        ingest(target, readings)
        for name, rows in files.items():
            deliver(name, *rows, to=target)
        results = []
        if cut_at is not None or cut_ledger:
            site.left = cut_at if cut_at is not None else 10_000
            ledger.cut = cut_ledger
            with contextlib.suppress(SiteUnavailable):
                results.append(ingest(target, readings))
            site.left, ledger.cut = 10_000, False
        results.append(ingest(target, readings))
        return results

    whole, _ = fresh()
    (wanted,) = run(whole, None)
    changes = 0
    for step in range(100):
        broken, _ = fresh()
        results = run(broken, step)
        assert settled(broken) == settled(whole), f"cut off at change {step}"
        assert not list(broken.sites["primary"].list("landing"))
        assert [e.body for e in broken.ledger.find("snapshot")] == [e.body for e in whole.ledger.find("snapshot")]
        reported = [r for r in results if r.changed]
        committed_unreported = not reported  # only the clearing of the landing bucket was left
        assert committed_unreported or reported == [wanted]
        if len(results) == 2:
            changes = step
            break
    assert changes > 15
    broken, _ = fresh()
    assert run(broken, None, cut_ledger=True) == [wanted]
    assert settled(broken) == settled(whole)


class Lying(MemorySite):
    """A site that reports puts below a prefix as done, and stores nothing or other bytes."""

    below, how, reads_wrong = "", "", ""

    def write(self, bucket: str, key: str, body: bytes, **named: Any) -> Any:
        altered = bucket == "lake" and key.startswith(self.below)
        if altered and self.how == "altered":
            body = bytes([body[0] ^ 1]) + body[1:]
        info = super().write(bucket, key, body, **named)
        if altered and self.how == "lost":
            self.delete(bucket, key, version_id=info.version_id)
        return info

    def open(self, bucket: str, key: str, **named: Any) -> Any:
        if bucket != "landing" or not self.reads_wrong:
            return super().open(bucket, key, **named)
        body = self.read(bucket, key)
        return contextlib.nullcontext(io.BytesIO(body[:-9] if self.reads_wrong == "cut" else body.replace(b"3", b"4")))


def lying(platform: Platform) -> tuple[Platform, Lying]:
    site = Lying("primary")
    for bucket in ("landing", "lake"):
        site.ensure_bucket(bucket, versioned=True)
    return replace(platform, sites={"primary": site}, ledger_=MemoryLedger()), site


@pytest.mark.parametrize("how", ["lost", "altered"])
@pytest.mark.parametrize(
    "below",
    [
        "raw/",
        "quarantine/",
        "snapshots/readings/parts/",
        "snapshots/readings/",
        "snapshots/readings/cur",
        "deliveries/",
    ],
)
def test_p7_a_delivery_waits_where_it_landed_until_all_that_is_kept_of_it_was_read_back(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], below: str, how: str
) -> None:
    (honest, _), (dishonest, site) = lying(platform), lying(platform)
    for each in (honest, dishonest):
        deliver("1.csv", A, BAD, to=each)
        deliver("2.csv", BAD, to=each)
    ingest(honest, readings)
    site.below, site.how = below, how
    for _ in range(2):
        with pytest.raises(IntegrityError, match="returned other bytes than were written"):
            ingest(dishonest, readings)
        assert len(list(site.list("landing"))) == 2
    site.how = ""
    ingest(dishonest, readings)
    assert settled(dishonest) == settled(honest)
    assert not list(site.list("landing"))


@pytest.mark.parametrize("wrong", ["cut", "altered"])
def test_i3_a_delivery_that_comes_otherwise_than_it_is_stored_is_not_taken_in(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], wrong: str
) -> None:
    dishonest, site = lying(platform)
    deliver("1.csv", B, to=dishonest)
    site.reads_wrong = wrong
    with pytest.raises(IntegrityError, match=r"get landing/readings/1\.csv"):
        ingest(dishonest, readings)
    assert not lake(dishonest) and len(list(site.list("landing"))) == 1
    site.reads_wrong = ""
    assert ingest(dishonest, readings).accepted == 1


def test_a_checksum_that_a_supplier_wrote_beside_a_delivery_stops_nobody(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A)
    site = platform.sites["primary"]
    info, _body = site._buckets["landing"]["readings/1.csv"][-1]  # type: ignore[attr-defined]
    info.metadata["sha256"] = "0" * 64
    site.checks = lambda *given, **more: Checks(info.size, info.etag)  # type: ignore[method-assign]
    assert ingest(platform, readings).accepted == 1


rows = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.dates(min_value=date(2025, 11, 1), max_value=date(2026, 3, 1)),
        st.integers(0, 99),
        st.sampled_from(["base", "night"]),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda r: (r[0], r[1]),
)


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
