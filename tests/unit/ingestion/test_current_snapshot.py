"""L9: if a site loses the current snapshot or shows an earlier one, the next snapshot does not lose its rows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from rempart.coordination.active import Active
from rempart.coordination.failover import Kind, Switchover
from rempart.errors import IngestError
from rempart.flows.erasure.erase_objects import repoint
from rempart.flows.ingestion.current_snapshot import AcceptedLoss
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.reingest import take_in
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings.pipeline import Pipeline
from tests import switchovers
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.shown_snapshots import CURRENT, A, B, C, Deliver, newest, show, stores_of, two

__all__ = ["two"]


def lake(platform: Platform) -> dict[str, bytes]:
    site = platform.sites["primary"]
    return {info.key: site.read("lake", info.key) for info in site.list("lake")}


@pytest.mark.parametrize("shown", [None, "1"], ids=["gone", "earlier"])
def test_l9_a_site_that_lost_the_newest_snapshot_gets_none_without_its_rows(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], shown: str | None
) -> None:
    show(platform, two[shown] if shown else None)
    before = lake(platform)
    with pytest.raises(IngestError, match=r"evidence \d+ names [0-9a-f]{32} \(2 rows\). Nothing was ingested"):
        ingest(platform, readings)
    assert lake(platform) == before and len(list(platform.sites["primary"].list("landing"))) == 1
    show(platform, two["2"])
    assert ingest(platform, readings).total_rows == 3


def test_l9_nor_does_a_delivery_that_is_taken_in_again(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], deliver: Deliver
) -> None:
    deliver("4.csv", "m4,2026-02-01,900,1,base,")
    ingest(platform, readings)
    (refused,) = [
        outcome for outcome in deliveries.outcomes(platform.sites["primary"], "lake", "readings") if outcome["reasons"]
    ]
    show(platform, None)
    wide = readings.model_copy(update={"expectations": []})
    with pytest.raises(IngestError, match="shows no snapshot"):
        take_in(platform, wide, refused["sha256"])
    assert platform.sites["primary"].read("lake", landing.quarantine_key("readings", refused["sha256"]))


def test_an_erasure_that_was_killed_before_its_evidence_does_not_stop_ingestion(
    platform: Platform, readings: Pipeline, deliver: Deliver
) -> None:
    """Its snapshot has the time of the replaced one, which is the newest on record, and the same predecessor."""
    hours = itertools.count()
    platform = replace(platform, clock=lambda: NOW + timedelta(hours=next(hours)))
    for name, row in (("1", A), ("2", B)):
        deliver(f"{name}.csv", row)
        ingest(platform, readings)
    site = platform.sites["primary"]
    before = snapshots.current(site, "lake", "readings")
    assert before is not None
    after = replace(before, key=("day", "meter"))
    snapshots.commit(site, "lake", replace(after, id=snapshots.content_id(after)), [])
    deliver("3.csv", C)
    assert ingest(platform, readings).total_rows == 3


@pytest.mark.parametrize(("shown", "rows"), [(None, 1), ("1", 2)], ids=["gone", "earlier"])
def test_l9_a_person_goes_on_without_it_by_word_and_that_is_evidence(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], shown: str | None, rows: int
) -> None:
    show(platform, two[shown] if shown else None)
    lost = newest(platform)
    platform.sites["primary"].delete("landing", "readings/3.csv")
    with pytest.raises(IngestError, match="accept_loss"):
        ingest(platform, readings)
    assert platform.ledger.find("acceptance") == []
    ingest(platform, readings, accepted_loss=AcceptedLoss(newest(platform), "user 7"))
    (record,) = platform.ledger.find("acceptance", "readings")
    assert (record.body["lost"], record.body["bucket"], record.body["by"]) == (lost, "lake", "user 7")
    # nothing waited: the next run needs no word any more, and tells nothing twice
    platform.sites["primary"].write("landing", "readings/3.csv", f"meter,day,kwh,people,tariff,note\n{C}\n".encode())
    assert ingest(platform, readings).total_rows == rows
    assert ingest(platform, readings).total_rows == rows
    assert len(platform.ledger.find("acceptance")) == 1


def test_l9_a_word_for_one_loss_is_none_for_the_next(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], deliver: Deliver
) -> None:
    show(platform, None)
    assert ingest(platform, readings, accepted_loss=AcceptedLoss(newest(platform), "user 7")).total_rows == 1
    show(platform, None)
    deliver("4.csv", A)
    with pytest.raises(IngestError, match="shows no snapshot"):
        ingest(platform, readings)
    assert len(platform.ledger.find("acceptance")) == 1


def test_l9_the_loss_of_another_snapshot_was_not_accepted(
    platform: Platform, readings: Pipeline, two: dict[str, bytes]
) -> None:
    """A run that is cleared says what was accepted then, whatever was lost since."""
    first = str(platform.ledger.find("snapshot", "readings")[-1].body["snapshot"])
    show(platform, None)
    with pytest.raises(IngestError, match=f"accept_loss: {newest(platform)}"):
        ingest(platform, readings, accepted_loss=AcceptedLoss(first, "user 7"))
    assert platform.ledger.find("acceptance") == []


@pytest.mark.parametrize("lost", [False, True])
def test_an_erasure_accepts_no_loss(platform: Platform, readings: Pipeline, two: dict[str, bytes], lost: bool) -> None:
    """It replaces no earlier snapshot that the site shows: the rows of the newest would be hidden for good."""
    site = platform.sites["primary"]
    if lost:
        show(platform, two["1"])
    shown = site.read("lake", CURRENT)
    before = snapshots.current(site, "lake", "readings")
    assert before is not None
    after = replace(before, key=("day", "meter"))
    after = replace(after, id=snapshots.content_id(after))
    snapshots.commit(site, "lake", after, [])
    show(platform, shown)
    if lost:
        with pytest.raises(IngestError, match=f"shows snapshot {before.id} .* Nothing was read"):
            repoint(stores_of(platform), readings, {before.id: after})
        assert site.read("lake", CURRENT) == shown
        return
    assert repoint(stores_of(platform), readings, {before.id: after}) == after
    assert ingest(platform, readings).total_rows == 3


def test_another_bucket_is_another_lake(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], deliver: Deliver
) -> None:
    buckets = platform.config.buckets.model_copy(update={"lake": "lake-of-a-test"})
    other = replace(platform, config=platform.config.model_copy(update={"buckets": buckets}))
    platform.sites["primary"].ensure_bucket("lake-of-a-test", versioned=True)
    assert ingest(other, readings).total_rows == 1
    deliver("4.csv", "m4,2026-02-01,4,1,base,")
    assert ingest(platform, readings).total_rows == 3


@pytest.mark.parametrize("part", ["all", "bucket:lake", "dataset:readings"])
def test_a_restore_brings_an_earlier_snapshot_back_and_ingestion_goes_on_from_it(
    platform: Platform, readings: Pipeline, two: dict[str, bytes], part: str
) -> None:
    show(platform, two["1"])
    platform.ledger.append("restore", "point", {"ok": True, "aside": "look"})
    others = ["database:mlflow", "dataset:bookings", "bucket:artifacts", "model:readings"]
    platform.ledger.append("restore", "point", {"ok": True, "aside": None, "parts": others})
    with pytest.raises(IngestError, match="shows snapshot"):
        ingest(platform, readings)
    platform.ledger.append("restore", "point", {"ok": True, "aside": None, "parts": [part]})
    platform.ledger.append("restore", "point", {"ok": True, "aside": "look"})
    assert ingest(platform, readings).total_rows == 2


def test_a_ledger_that_was_brought_back_to_an_earlier_second_does_not_stop_ingestion(
    platform: Platform, readings: Pipeline, two: dict[str, bytes]
) -> None:
    earlier = MemoryLedger()
    for record in platform.ledger.find("snapshot")[1:]:
        earlier.append("snapshot", record.subject, record.body)
    assert ingest(replace(platform, ledger_=earlier), readings).total_rows == 3
    assert [record.body["rows"] for record in earlier.find("snapshot")] == [3, 2, 1]


def test_a_home_that_still_has_what_a_failover_left_behind_goes_on_from_it(readings: Pipeline) -> None:
    """A failover left the newest snapshot behind, nothing was delivered meanwhile, and the failback takes it over."""
    moving = switchovers.in_memory()
    home, other, bucket = moving.sites["primary"], moving.sites["haven"], moving.config.buckets.lake

    def deliver(name: str, row: str) -> None:
        body = f"meter,day,kwh,people,tariff,note\n{row}\n".encode()
        moving.sites[moving.active().site].write(moving.config.buckets.landing, f"readings/{name}.csv", body)

    def move(kind: Kind, source: str, target: str, accept: bool) -> None:
        generations = moving.continuity.active_sites("primary")
        with generations.hold_lease("test") as lease:
            switchover = Switchover(kind, kind, source, target, accept)
            generations.advance(lease, generations.active(), Active(0, target, "active", switchover))

    deliver("1", A)
    ingest(moving, readings)
    for info in home.list(bucket):
        other.write(bucket, info.key, home.read(bucket, info.key))
    for name, row in (("2", B), ("3", "m4,2026-02-01,4,1,base,")):
        deliver(name, row)
        ingest(moving, readings)
    move("failover", "primary", "haven", True)
    assert ingest(moving, readings).total_rows == 1
    move("failback", "haven", "primary", False)
    deliver("4", C)
    assert ingest(moving, readings).total_rows == 4
    assert ingest(moving, readings).total_rows == 4


def test_another_active_site_in_the_configuration_is_no_accepted_loss(readings: Pipeline) -> None:
    """Nobody switched: rempart.yaml was edited, and that site's replica is behind."""
    before = switchovers.in_memory()
    home, other, buckets = before.sites["primary"], before.sites["haven"], before.config.buckets
    header = "meter,day,kwh,people,tariff,note"
    home.write(buckets.landing, "readings/1.csv", f"{header}\n{A}\n".encode())
    ingest(before, readings)
    for info in home.list(buckets.lake):
        other.write(buckets.lake, info.key, home.read(buckets.lake, info.key))
    home.write(buckets.landing, "readings/2.csv", f"{header}\n{B}\n".encode())
    ingest(before, readings)
    config = before.config.model_copy(update={"active_site": "haven"})
    with pytest.raises(IngestError, match="site 'haven' shows snapshot"):
        ingest(replace(before, config=config, continuity_=MemoryContinuity()), readings)


@pytest.mark.parametrize("accept", [False, True], ids=["drained", "with loss"])
def test_after_a_failover_an_earlier_snapshot_counts_only_where_a_loss_was_accepted(
    readings: Pipeline, accept: bool
) -> None:
    moving = switchovers.in_memory()
    home, other, bucket = moving.sites["primary"], moving.sites["haven"], moving.config.buckets.lake

    def deliver(name: str, row: str) -> None:
        body = f"meter,day,kwh,people,tariff,note\n{row}\n".encode()
        moving.sites[moving.active().site].write(moving.config.buckets.landing, f"readings/{name}.csv", body)

    def replicate() -> None:
        for info in home.list(bucket):
            other.write(bucket, info.key, home.read(bucket, info.key))

    deliver("1", A)
    ingest(moving, readings)
    replicate()
    earlier = other.read(bucket, CURRENT)
    deliver("2", B)
    ingest(moving, readings)
    replicate()
    generations = moving.continuity.active_sites("primary")
    with generations.hold_lease("test") as lease:
        switchover = Switchover("j", "failover", "primary", "haven", accept)
        generations.advance(lease, generations.active(), Active(0, "haven", "active", switchover))
    other.write(bucket, CURRENT, earlier)
    deliver("3", C)
    if accept:
        assert ingest(moving, readings).total_rows == 2
        return
    with pytest.raises(IngestError, match="site 'haven' shows snapshot"):
        ingest(moving, readings)
    snapshot = str(moving.ledger.find("snapshot", limit=1)[0].body["snapshot"])
    snapshots.point_at(other, bucket, snapshots.read(other, bucket, "readings", snapshot))
    assert ingest(moving, readings).total_rows == 3
