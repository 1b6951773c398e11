"""Extraction before ingestion: killed anywhere, nothing is lost and nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import IngestError, IntegrityError, LeaseHeld, LeaseLost
from rempart.flows.ingestion import extract as flow
from rempart.flows.ingestion import ingest_run, source_state
from rempart.flows.ingestion.extract import due, extract, known_keys
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.leases import holder
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.sources.database import Relation
from rempart.ingestion.sources.port import Extraction, Origin, Sink, State
from rempart.ingestion.sources.row_memory import Row, microseconds
from rempart.ingestion.sources.sql import SqlExtraction
from rempart.settings.pipeline import ModelPipeline
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import NOW

ORIGIN = Origin("acme-cloud", "a database", "FR", "FR")
SECOND = timedelta(seconds=1)
WRITES = ("write", "write_new", "write_file", "delete", "upload")


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Table:
    """A database in memory: rows of the pipeline with the moment of their last change."""

    rows: dict[str, tuple[datetime, str]] = field(default_factory=dict)

    def put(self, meter: str, at: datetime, text: str = "2026-01-01,1,,base,") -> None:
        self.rows[meter] = (at, f"{meter},{text}")

    def _all(self) -> list[tuple[int, str, str]]:
        return [(microseconds(at), meter, text) for meter, (at, text) in self.rows.items()]

    def rows_from(self, since: int | None = None) -> Iterator[Row]:
        for micros, _, text in sorted(self._all()):
            if since is None or micros >= since:
                yield micros, text.encode()

    def keys(self) -> Iterator[Row]:
        for micros, meter, text in sorted(self._all(), key=lambda row: row[1]):
            yield micros, f"{meter},{text.split(',')[1]}".encode()

    def chosen(self, keys: list[list[str]]) -> Iterator[Row]:
        for meter, _ in keys:
            at, text = self.rows[meter]
            yield microseconds(at), text.encode()


def source_of(table: Table, pipeline: ModelPipeline) -> SqlExtraction:
    relation = Relation("t", None, pipeline.columns, pipeline.key, "changed_at", timedelta(hours=1))

    class Database:
        def reading(self, relation: Relation) -> Any:
            class One:
                def __enter__(self) -> Any:
                    self.rows = table.rows_from
                    self.keys, self.chosen = table.keys, table.chosen
                    return self

                def __exit__(self, *about: object) -> None: ...

            return One()

    return SqlExtraction(Database(), relation, pipeline.source, ORIGIN, timedelta(minutes=10), 1 << 30)


@pytest.fixture
def table() -> Table:
    table = Table()
    for n in range(5):
        table.put(f"m{n}", NOW - timedelta(hours=5 - n))
    return table


def landed(platform: Platform) -> dict[str, bytes]:
    site = platform.sites["primary"]
    return {info.key: site.read("landing", info.key) for info in site.list("landing")}


def meters(platform: Platform) -> list[str]:
    site = platform.sites["primary"]
    snapshot = snapshots.current(site, "lake", "readings")
    return snapshots.load_table(site, "lake", snapshot)["meter"].to_pylist() if snapshot else []


def test_files_that_arrive_by_themselves_need_nothing(platform: Platform, readings: ModelPipeline) -> None:
    assert extract(platform, readings) == flow.ExtractResult(0, 0)
    assert not list(platform.sites["primary"].list("lake"))


def test_rows_become_a_delivery_and_the_cursor_counts_with_the_snapshot(
    platform: Platform, readings: ModelPipeline, table: Table
) -> None:
    source, site = source_of(table, readings), platform.sites["primary"]
    first = extract(platform, readings, source=source)
    assert (first.deliveries, first.waiting) == (1, 0)
    (key,) = landed(platform)
    assert key.startswith("readings/extract-00000001/rows-") and key.endswith("-00001.csv")
    assert extract(platform, readings, source=source).waiting == 1
    assert source_state.read_stand(site, "lake", "readings", None).number == 0
    assert ingest(platform, readings).accepted == 5
    table.put("m9", NOW - timedelta(minutes=59))
    assert extract(platform, readings, source=source).deliveries == 1
    snapshot = snapshots.current(site, "lake", "readings")
    assert source_state.read_stand(site, "lake", "readings", snapshot).number == 1
    ((key, body),) = landed(platform).items()
    assert key.startswith("readings/extract-00000002/rows-") and body.count(b"\n") == 2
    assert ingest(platform, readings).accepted == 1
    before = {info.key: info.etag for info in site.list("lake") if info.key.startswith("sources/")}
    assert extract(platform, readings, source=source).deliveries == 0
    again = {info.key: info.etag for info in site.list("lake") if info.key.startswith("sources/")}
    assert extract(platform, readings, source=source).deliveries == 0
    assert {key: again[key] for key in again if "stands" in key} == {
        info.key: info.etag for info in site.list("lake") if "stands" in info.key
    }
    assert before and sorted(meters(platform)) == ["m0", "m1", "m2", "m3", "m4", "m9"]


def test_what_was_taken_and_from_whom_is_evidence(platform: Platform, readings: ModelPipeline, table: Table) -> None:
    result = extract(platform, readings, source=source_of(table, readings))
    extract(platform, readings, source=source_of(table, readings))
    (record,) = platform.ledger.find("extraction", "readings")
    wanted = {"operator": "acme-cloud", "jurisdiction": "FR", "deliveries": 1, "bytes": result.bytes, "extraction": 1}
    assert {name: record.body[name] for name in wanted} == wanted
    assert "m1" not in str(record.body)
    assert len(list(result.lines())) == 1


def test_late_and_deleted_rows_are_found_by_comparing_keys(
    platform: Platform, readings: ModelPipeline, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(table, readings)
    monkeypatch.setattr(flow, "_schedule", lambda pipeline: "0 3 * * *")
    extract(platform, readings, source=source)
    ingest(platform, readings)
    table.put("late", NOW - timedelta(hours=30))
    del table.rows["m2"]
    result = extract(platform, readings, source=source)
    assert (result.deliveries, result.absent) == (1, 1)
    assert "rows of the snapshot that are no longer at the source: 1" in list(result.lines())
    ((key, body),) = landed(platform).items()
    assert key.startswith("readings/extract-00000002/late-") and body.splitlines()[1].startswith(b"late,")
    assert platform.ledger.find("extraction", "readings", limit=1)[0].body["absent"] == 1
    assert ingest(platform, readings).accepted == 1
    assert extract(platform, readings, source=source).absent is None  # until the next time of the schedule
    later = replace(platform, clock=lambda: NOW + timedelta(days=1))
    assert extract(later, readings, source=source).absent == 1


def test_a_row_within_the_overlap_is_not_also_taken_by_the_comparison(
    platform: Platform, readings: ModelPipeline, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(table, readings)
    monkeypatch.setattr(flow, "_schedule", lambda pipeline: "0 3 * * *")
    extract(platform, readings, source=source)
    ingest(platform, readings)
    table.put("late", NOW - timedelta(minutes=65))  # the cursor is an hour ago, the overlap ten minutes
    assert extract(platform, readings, source=source).deliveries == 1
    taken = ingest(platform, readings)
    assert (taken.accepted, taken.quarantined) == (1, 0)


def test_a_snapshot_that_goes_back_takes_the_cursor_back(
    platform: Platform, readings: ModelPipeline, table: Table
) -> None:
    source, site = source_of(table, readings), platform.sites["primary"]
    at = [NOW]
    platform = replace(platform, clock=lambda: at[0])
    extract(platform, readings, source=source)
    ingest(platform, readings)
    old = snapshots.current(site, "lake", "readings")
    at[0] += timedelta(hours=1)
    table.put("m7", at[0])
    extract(platform, readings, source=source)
    ingest(platform, readings)
    extract(platform, readings, source=source)
    new = snapshots.current(site, "lake", "readings")
    assert source_state.read_stand(site, "lake", "readings", new).number == 2
    assert source_state.read_stand(site, "lake", "readings", old).number == 1


def test_two_at_once_wait_for_each_other(
    platform: Platform, readings: ModelPipeline, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "PATIENCE", 0)
    with platform.continuity.hold_lease("extract readings", "another"), pytest.raises(LeaseHeld):
        extract(platform, readings, source=source_of(table, readings))


def test_a_run_that_lost_its_lease_meanwhile_commits_nothing(
    platform: Platform, readings: ModelPipeline, table: Table
) -> None:
    source = source_of(table, readings)

    class Paused:
        origin = ORIGIN

        def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
            taken = source.extract(state, sink, now)
            platform.continuity.take("extract readings", holder(), 60, again=True)
            return taken

        def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
            raise NotImplementedError

    with pytest.raises(LeaseLost):
        extract(platform, readings, source=Paused())
    pending = source_state.read_pending(platform.sites["primary"], "lake", "readings")
    assert pending is not None and not pending.whole
    assert not platform.ledger.find("extraction", "readings")


def test_a_site_that_returns_other_bytes_is_an_error(
    platform: Platform, readings: ModelPipeline, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.ingestion.landing.fetch", lambda *about: "0" * 64)
    with pytest.raises(IntegrityError, match="other bytes"):
        extract(platform, readings, source=source_of(table, readings))


def test_what_a_source_left_without_naming_it_is_not_ingested(platform: Platform, readings: ModelPipeline) -> None:
    class Forgetful:
        origin = ORIGIN

        def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
            if not state:
                sink.deliver("forgotten.csv", iter([b"x"]))
            return Extraction([], {"read": "once"})

        def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
            raise NotImplementedError

    extract(platform, readings, source=Forgetful())
    extract(platform, readings, source=Forgetful())
    assert landed(platform) == {}


def test_a_name_that_leads_elsewhere_is_refused(platform: Platform, readings: ModelPipeline) -> None:
    class Elsewhere:
        origin = ORIGIN

        def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
            return Extraction([sink.deliver("../other/x.csv", iter([b"x"]))], {})

        def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
            raise NotImplementedError

    with pytest.raises(IngestError, match="named a delivery"):
        extract(platform, readings, source=Elsewhere())


def _die_at(site: MemorySite, ledger: Any, step: int, done: bool) -> Callable[[], None]:
    """Let the process die at a write of the site or ledger, before or after it; return how to mend it."""
    left = [step]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] != -1:
                return real(*args, **options)
            if done:
                real(*args, **options)
            raise Killed

        return call

    for name in WRITES:
        setattr(site, name, dying(getattr(site, name)))

    ledger.append = dying(ledger.append)

    def mend() -> None:
        del ledger.append
        for name in WRITES:
            delattr(site, name)

    return mend


@given(
    deaths=st.lists(st.tuples(st.integers(0, 14), st.booleans(), st.booleans()), max_size=4),
    changes=st.lists(st.sampled_from(["new", "late", "none"]), min_size=5, max_size=5),
)
def test_killed_anywhere_each_row_comes_once(deaths: list[tuple[int, bool, bool]], changes: list[str]) -> None:
    """Runs are killed at any write of extraction or ingestion, and the table changes between them."""
    platform, readings, at = _fresh()
    table = Table()
    table.put("m0", NOW)
    source, site = source_of(table, readings), platform.sites["primary"]
    assert isinstance(site, MemorySite)

    def change(n: int) -> None:
        at[0] += timedelta(minutes=1)
        if changes[n] != "none":  # `late`: committed after rows with a higher cursor
            table.put(f"c{n}", at[0] - (timedelta(minutes=8) if changes[n] == "late" else timedelta()))

    for n, (step, done, extracting) in enumerate(deaths):
        if not extracting:
            extract(platform, readings, source=source)
        mend = _die_at(site, platform.ledger, step, done)
        try:
            extract(platform, readings, source=source)
            ingest(platform, readings)
        except Killed:
            pass
        mend()
        change(n)
    for _ in range(2):
        extract(platform, readings, source=source)
        result = ingest(platform, readings)
        assert result.quarantined == 0
    assert sorted(meters(platform)) == sorted(table.rows)
    numbers = [record.body["extraction"] for record in platform.ledger.find("extraction", "readings", limit=99)]
    assert len(numbers) == len(set(numbers))
    refused = [key for key in (i.key for i in site.list("lake")) if key.startswith("quarantine/")]
    assert refused == []


def _fresh() -> tuple[Platform, ModelPipeline, list[datetime]]:
    import yaml

    from rempart.ledger.memory import MemoryLedger
    from rempart.replication.continuity import MemoryContinuity
    from rempart.settings import config as configuration
    from tests.unit.ingestion.conftest import READINGS, no_connection

    site = MemorySite("primary")
    for bucket in ("landing", "lake"):
        site.ensure_bucket(bucket, versioned=True)
    config, at = configuration.load(), [NOW]
    platform = Platform(
        config, no_connection, lambda: at[0], {config.active_site: site}, MemoryLedger(), MemoryContinuity()
    )
    return platform, ModelPipeline.model_validate(yaml.safe_load(READINGS)), at


def test_keys_of_a_snapshot_come_in_order(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    deliver(
        "1.csv", "m2,2026-01-01,1,,base,", "m10,2026-02-01,1,,base,", "é,2026-01-01,1,,base,", "z,2026-01-01,1,,base,"
    )
    ingest(platform, readings)
    run = ingest_run.begin(platform, readings)
    snapshot = snapshots.current(run.site, "lake", "readings")
    assert snapshot is not None
    keys = list(known_keys(run, snapshot))
    assert keys == sorted(keys) and len(keys) == 4


@pytest.mark.parametrize(
    ("last", "wanted"), [("", True), ("2026-02-28T02:00:00+00:00", True), ("2026-03-01T03:00:00+00:00", False)]
)
def test_a_comparison_is_due_after_each_time_of_its_schedule(last: str, wanted: bool) -> None:
    assert due("0 3 * * *", last, NOW) is wanted


def test_stands_that_no_restore_needs_are_deleted() -> None:
    keys = [
        f"s/2026-{month:02}-{day:02}T{hour:02}0000.000000.json"
        for month in (1, 2)
        for day in range(1, 28)
        for hour in (1, 2)
    ]
    time = "2026-02-26T010000.000000"
    gone = set(source_state.unneeded(keys, time))
    left = sorted(set(keys) - gone)
    assert all(source_state._name(key) <= time for key in left)
    assert source_state.newest(left, time) == f"s/{time}.json"
    assert len({key[:12] for key in left}) == source_state.DAYS
