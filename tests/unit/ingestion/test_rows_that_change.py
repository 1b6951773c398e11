"""Runs of a pipeline with `on_conflict: newest`: what is counted, what comes back, and what an erasure reaches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import yaml

from rempart.errors import IngestError
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.extract import known_keys
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.reingest import reingest
from rempart.flows.ingestion.rejudge import rejudge
from rempart.flows.restore import restore_newer
from rempart.flows.shared.platform import Platform
from rempart.ingestion import acceptance, deliveries, landing, snapshots
from rempart.ingestion.acceptance import CONFLICT
from rempart.settings.pipeline import ModelPipeline
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import HEADER, READINGS
from tests.unit.ingestion.test_reingest import allowing, in_quarantine, told

NEWEST = ModelPipeline.model_validate(yaml.safe_load(READINGS) | {"on_conflict": "newest"})
A, B, CHANGED, BAD = (
    "m1,2026-01-01,1,,base,",
    "m2,2026-01-01,2,3,night,",
    "m1,2026-01-01,5,,base,",
    "m2,2026-01-01,900,3,night,",
)


def values(platform: Platform) -> list[float]:
    site = platform.sites["primary"]
    current = snapshots.current(site, "lake", "readings")
    assert current is not None
    found: list[float] = snapshots.load_table(site, "lake", current)["kwh"].to_pylist()
    return found


def test_a_replaced_row_is_counted_and_is_not_in_quarantine(platform: Platform, deliver: Callable[..., None]) -> None:
    deliver("1.csv", A, B)
    first = ingest(platform, NEWEST)
    deliver("2.csv", CHANGED, B)
    second = ingest(platform, NEWEST)
    assert (second.accepted, second.quarantined, second.total_rows, second.changed) == (1, 0, 2, True)
    assert (second.replaced, second.repeated) == (1, 1)
    assert values(platform) == [5, 2]
    assert [(d["replaced"], d["repeated"], d["quarantined"]) for d in told(platform)] == [(0, 0, 0), (1, 1, 0)]
    record = platform.ledger.find("snapshot", "readings")[0].body
    assert (record["replaced_rows"], record["previous"], record["rows"]) == (1, first.snapshot, 2)
    deliver("3.csv", A, B)  # an earlier state of the data is an earlier id, and a snapshot of its own
    third = ingest(platform, NEWEST)
    assert (third.snapshot, values(platform)) == (first.snapshot, [1, 2])
    recorded = deliveries.outcomes(platform.sites["primary"], "lake", "readings")
    (again,) = (d for d in recorded if d["file"] == "3.csv")
    assert (again["again"], again["added"], again["replaced"], again["repeated"]) == (1, -1, 1, 1)
    records = [record.body for record in platform.ledger.find("snapshot", "readings")]
    assert [records[0][name] for name in acceptance.COUNTS] == [2, 1, 1, 0], "it was delivered once more"
    assert [sum(body[name] for body in records) for name in acceptance.COUNTS] == [6, 4, 2, 0]
    deliver("4.csv", CHANGED)
    assert ingest(platform, NEWEST).snapshot == second.snapshot
    assert not ingest(platform, NEWEST).changed


def test_accepted_rows_of_a_file_that_came_again_are_not_forgotten_when_it_is_gone(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    site, since = platform.sites["primary"], platform.clock() - timedelta(days=1)
    deliver("1.csv", A)
    ingest(platform, NEWEST)
    deliver("1.csv", A)
    deliver("2.csv", B)
    ingest(platform, NEWEST)
    newest = platform.ledger.find("snapshot", "readings")[0].body
    assert [newest[name] for name in acceptance.COUNTS] == [2, 1, 1, 0]
    assert restore_newer.look(platform.ledger, since)["readings"].rows == 2
    (again,) = (d for d in deliveries.outcomes(site, "lake", "readings") if d["file"] == "1.csv")
    assert (again["accepted"], again["repeated"]) == (0, 1)
    raw = landing.raw_of(site, "lake", "readings", again["sha256"])
    assert raw is not None
    site.delete("lake", raw.key)  # its retention has ended
    with pytest.raises(IngestError, match="no longer stored"):
        rejudge(platform, NEWEST)
    assert values(platform) == [1, 2]


def test_repeated_rows_are_counted_apart_from_accepted_ones(platform: Platform, deliver: Callable[..., None]) -> None:
    deliver("1.csv", A, B)
    ingest(platform, NEWEST)
    deliver("2.csv", CHANGED, B)
    ingest(platform, NEWEST)
    told = deliveries.totals(platform.sites["primary"], "lake", "readings")
    assert told == {"deliveries": 2, "delivered": 4, "accepted": 3, "repeated": 1, "quarantined": 0}
    deliver("2.csv", CHANGED, B)
    assert ingest(platform, NEWEST).repeated == 2


def test_a_file_that_comes_again_among_waiting_ones_counts_in_its_last_place(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    for name, row in (("3.csv", A), ("2.csv", CHANGED), ("1.csv", A)):
        deliver(name, row)
    done = ingest(platform, NEWEST)
    assert (done.deliveries, values(platform)) == (2, [1])
    assert not rejudge(platform, NEWEST).changed


@pytest.mark.parametrize("left", [False, True])
def test_a_file_that_a_killed_run_left_does_not_count_again(
    platform: Platform, deliver: Callable[..., None], monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    deliver("1.csv", A)
    if left:
        deliver("2.csv", CHANGED)
    with monkeypatch.context() as killed:
        killed.setattr("rempart.flows.ingestion.ingest._clear", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(platform, NEWEST)
    if not left:
        deliver("2.csv", CHANGED)
    ingest(platform, NEWEST)
    assert values(platform) == [5]


def test_judging_again_and_rows_from_quarantine_keep_the_order_of_arrival(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    site = platform.sites["primary"]
    assert isinstance(site, MemorySite)
    moment = platform.clock()
    site.clock = lambda: moment  # a site tells seconds, and a reset puts many files back in one
    deliver("waited.csv", A)

    def put_back(second: int, name: str) -> str:
        return landing.put_back_key("", moment - timedelta(seconds=9 - second), "0" * 64, name)

    deliver(put_back(2, "a.csv"), A, "")
    deliver(put_back(1, "z.csv"), CHANGED)
    deliver("again-2026-02/of_the_supplier.csv", CHANGED, "")  # no folder of a reset
    deliver(put_back(3, "b.csv"), BAD, A)
    ingest(platform, NEWEST)
    assert values(platform) == [1]
    assert not rejudge(platform, NEWEST).changed
    (bad,) = (d["sha256"] for d in deliveries.outcomes(site, "lake", "readings") if d["file"] == "b.csv")
    assert not reingest(platform, allowing(NEWEST, 1000), bad).changed or values(platform) == [1, 900]
    ordered = sorted(deliveries.outcomes(site, "lake", "readings"), key=deliveries.in_order)
    assert [d["file"] for d in ordered] == ["z.csv", "a.csv", "b.csv", "of_the_supplier.csv", "waited.csv"]


def test_files_delivered_together_arrive_in_the_given_order_though_a_site_tells_only_seconds(
    platform: Platform,
) -> None:
    site = platform.sites["primary"]
    assert isinstance(site, MemorySite)
    moment = platform.clock()
    site.clock = lambda: moment
    for order, (name, row) in enumerate((("jan.csv", A), ("feb.csv", CHANGED))):
        site.write("landing", f"readings/{name}", f"{HEADER}{row}\n".encode(), metadata={landing.ORDER: str(order)})
    ingest(platform, NEWEST)
    assert values(platform) == [5]


@pytest.mark.fault("L6")
def test_a_very_long_name_stops_no_other_delivery(platform: Platform, deliver: Callable[..., None]) -> None:
    site, longest = platform.sites["primary"], 1024 - len("readings/.csv")
    assert isinstance(site, MemorySite)
    deliver(f"{'é' * (longest // 2)}.csv", A)
    deliver("good.csv", B)
    assert ingest(platform, NEWEST).accepted == 2
    assert max(len(info.key.encode()) for info in site.list("lake", "")) <= 400


def test_a_state_that_comes_back_is_no_loss_if_its_run_was_killed_before_it_was_recorded(
    platform: Platform, deliver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, row in enumerate((A, CHANGED)):
        deliver(f"{number}.csv", row)
        ingest(platform, NEWEST)
    deliver("2.csv", A, "")
    with monkeypatch.context() as killed:
        killed.setattr(ingest_run, "append_snapshot", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(platform, NEWEST)
    done = ingest(platform, NEWEST)
    assert (done.changed, done.quarantined, values(platform)) == (True, 0, [1])
    assert platform.ledger.find("snapshot", "readings")[0].body["snapshot"] == done.snapshot


def test_rows_from_quarantine_never_replace_what_may_be_newer(platform: Platform, deliver: Callable[..., None]) -> None:
    deliver("1.csv", BAD)
    ingest(platform, NEWEST)
    deliver("2.csv", A, B)
    ingest(platform, NEWEST)
    (sha,) = (
        d["sha256"] for d in deliveries.outcomes(platform.sites["primary"], "lake", "readings") if d["quarantined"]
    )
    again = reingest(platform, allowing(NEWEST, 1000), sha)
    assert (again.changed, again.quarantined, values(platform)) == (False, 1, [1, 2])
    assert in_quarantine(platform) == {2: CONFLICT}


def test_rows_from_quarantine_of_the_last_delivery_do(platform: Platform, deliver: Callable[..., None]) -> None:
    deliver("0.csv", A, B)
    ingest(platform, NEWEST)
    deliver("1.csv", BAD)
    ingest(platform, NEWEST)
    (sha,) = (
        d["sha256"] for d in deliveries.outcomes(platform.sites["primary"], "lake", "readings") if d["quarantined"]
    )
    again = reingest(platform, allowing(NEWEST, 1000), sha)
    assert (again.changed, again.quarantined, again.replaced, values(platform)) == (True, 0, 1, [1, 900])
    assert told(platform)[-1]["added"] == 1


def test_after_a_restore_the_same_deliveries_come_to_the_same_snapshot(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    site = platform.sites["primary"]
    deliver("1.csv", A, B)
    ingest(platform, NEWEST)
    before = site.read("lake", "snapshots/readings/current.json")
    deliver("2.csv", CHANGED)
    second = ingest(platform, NEWEST)
    site.write("lake", "snapshots/readings/current.json", before)
    for known in deliveries.outcomes(site, "lake", "readings"):
        if known["file"] == "2.csv":
            site.delete("lake", deliveries.outcome_key("readings", known["sha256"]))
    platform.ledger.append("restore", "point", {"ok": True, "aside": None, "parts": ["all"]})
    deliver("2.csv", CHANGED)
    again = ingest(platform, NEWEST)
    assert (again.snapshot, again.replaced, values(platform)) == (second.snapshot, 1, [5, 2])


def test_all_versions_are_kept_and_a_source_has_each_key_once(platform: Platform, deliver: Callable[..., None]) -> None:
    """The meter is the key, and a row is valid from its day."""
    sections = yaml.safe_load(READINGS) | {"on_conflict": "history", "version_by": "day", "key": ["meter"]}
    history = ModelPipeline.model_validate(sections)
    later, other = "m1,2026-01-02,5,,base,", "m1,2026-01-02,6,,base,"
    deliver("1.csv", A, later)
    ingest(platform, history)
    deliver("2.csv", later, other, "m1,2026-02-01,7,,base,")
    done = ingest(platform, history)
    assert (done.accepted, done.repeated, done.quarantined, done.total_rows) == (1, 1, 1, 3)
    assert values(platform) == [1, 5, 7]
    with pytest.raises(IngestError, match="several rows with one key"):
        deliver("3.csv", "m1,2026-03-01,8,,base,")
        ingest(platform, history.model_copy(update={"on_conflict": "newest"}))
    current = snapshots.current(platform.sites["primary"], "lake", "readings")
    assert current is not None and current.key == ("meter", "day")
    run = ingest_run.begin(platform, history)
    assert list(known_keys(run, current)) == [("m1",)]
