"""Data faults A1 to A5 of the fault catalogue, on the shipped pipeline: each has its outcome, none drops a row.

On the site in memory. Tests that depend on the site also run on a real S3 server, with the stack.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.errors import IngestError
from rempart.flows.ingestion.ingest import IngestResult, check_quarantine, ingest
from rempart.flows.ingestion.reingest import reingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, sample, snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings import pipelines
from rempart.settings.config import Connection, project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.sections import Buckets
from rempart.sites.port import Site
from tests import quarantined
from tests.memory_site import MemorySite

NAME, WEEK = next(iter(sample.deliveries(project_root() / "data" / "hotel_bookings.csv.gz")))
LINES = WEEK.decode().splitlines()
HEADER, ROWS = LINES[0], LINES[1:21]
COLUMNS = HEADER.split(",")


def no_connection(name: str) -> Connection:
    raise AssertionError(f"the test asked for connection {name}")


class House:
    """The shipped pipeline on one site, with buckets of its own."""

    def __init__(self, site: Site) -> None:
        mark = uuid4().hex[:10]
        self.site = site
        self.buckets = Buckets(landing=f"landing-{mark}", lake=f"lake-{mark}")
        config = configuration.load().model_copy(update={"buckets": self.buckets})
        self.ledger = MemoryLedger()
        self.platform = Platform(
            config,
            no_connection,
            lambda: datetime(2026, 3, 1, tzinfo=UTC),
            {config.active_site: site},
            self.ledger,
            MemoryContinuity(),
        )
        shipped = pipelines.load(project_root() / "include" / "pipelines" / "hotel_bookings.yaml")
        self.pipeline: Pipeline = shipped.model_copy(update={"max_quarantined": 1.0})
        for bucket in (self.buckets.landing, self.buckets.lake):
            site.ensure_bucket(bucket, versioned=True)

    def take_in(self, **files: bytes | list[str]) -> IngestResult:
        """Deliver (a list of rows gets the header) and ingest; every delivery must be accounted for."""
        for name, body in files.items():
            data = body if isinstance(body, bytes) else "\n".join([HEADER, *body, ""]).encode()
            self.site.write(self.buckets.landing, f"hotel_bookings/{name}.csv", data)
        result = ingest(self.platform, self.pipeline)
        assert result.accepted + result.quarantined == result.delivered
        for outcome in self.outcomes().values():
            assert outcome["accepted"] + outcome["quarantined"] == outcome["delivered"]
            assert len(self.quarantined(outcome)) == outcome["quarantined"]
        assert not list(self.site.list(self.buckets.landing))
        return result

    def outcomes(self) -> dict[str, dict[str, Any]]:
        return {
            o["file"].removesuffix(".csv"): o
            for o in deliveries.outcomes(self.site, self.buckets.lake, "hotel_bookings")
        }

    def quarantined(self, outcome: dict[str, Any]) -> list[dict[str, Any]]:
        if not outcome["quarantined"]:
            return []
        body = self.site.read(self.buckets.lake, landing.quarantine_key("hotel_bookings", outcome["sha256"]))
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(body)).to_pylist()
        return rows

    def table(self) -> pa.Table:
        snapshot = snapshots.current(self.site, self.buckets.lake, "hotel_bookings")
        assert snapshot is not None
        return snapshots.load_table(self.site, self.buckets.lake, snapshot)


on_every_site = pytest.mark.parametrize(
    "house", ["memory", pytest.param("s3", marks=pytest.mark.stores)], indirect=True
)


@pytest.fixture
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    in_memory = getattr(request, "param", "memory") == "memory"
    made = House(MemorySite("primary") if in_memory else request.getfixturevalue("s3_site"))
    yield made
    for bucket in (made.buckets.landing, made.buckets.lake):
        made.site.drop_bucket(bucket)


def change(row: str, **values: str) -> str:
    """A row with other values in some columns."""
    cells = row.split(",")
    for column, value in values.items():
        cells[COLUMNS.index(column)] = value
    return ",".join(cells)


def without(column: str) -> bytes:
    position = COLUMNS.index(column)
    lines = [line.split(",") for line in (HEADER, *ROWS)]
    return "\n".join(",".join(cells[:position] + cells[position + 1 :]) for cells in lines).encode()


FILE_FAULTS: list[tuple[str, bytes, str]] = [
    ("A1 empty", b"", "the file is empty"),
    ("A1 header only", (HEADER + "\n").encode(), "a header but no rows"),
    ("A1 truncated gzip", gzip.compress(WEEK)[:-20], "gzip file is truncated"),
    ("A1 damaged gzip", b"\x1f\x8b\x08\x00 this is no gzip", "gzip file is damaged"),
    ("A2 column removed", without("adults"), "missing columns: adults"),
    ("A2 column added", "\n".join(f"{line},x" for line in (HEADER, *ROWS)).encode(), "at positions 26"),
    (
        "A2 column renamed",
        "\n".join([HEADER.replace("adults", "grown_ups"), *ROWS]).encode(),
        "missing columns: adults",
    ),
    ("A3 encoding", "\n".join([HEADER, change(ROWS[0], agent="Zoë")]).encode("latin-1"), "not utf-8 text"),
    ("A3 utf-16", "\n".join([HEADER, *ROWS]).encode("utf-16"), "UTF-16 text, not CSV"),
]


@pytest.mark.parametrize(("body", "fault"), [f[1:] for f in FILE_FAULTS], ids=[f[0] for f in FILE_FAULTS])
def test_a1_a2_a3_a_faulty_file_is_refused_whole_and_the_run_goes_on(house: House, body: bytes, fault: str) -> None:
    result = house.take_in(bad=body, good=ROWS)
    bad, good = house.outcomes()["bad"], house.outcomes()["good"]
    assert fault in bad["fault"]
    assert bad["outcome"] == "refused"
    assert bad["accepted"] == 0
    assert (bad["delivered"], bad["quarantined"]) == (0, 0)
    assert (good["outcome"], good["accepted"]) == ("accepted", 20)
    assert result.total_rows == 20
    raw = landing.raw_key("hotel_bookings", landing.Arrival("x/bad.csv", bad["sha256"], 0, datetime.now(UTC), ""))
    assert house.site.read(house.buckets.lake, raw, sha256=bad["sha256"]) == body


ROW_FAULTS: list[tuple[str, str, str]] = [
    ("A1 truncated row", ROWS[3][:60], "too few fields"),
    ("A2 retyped", change(ROWS[3], lead_time="three weeks"), "lead_time: not a whole number"),
    ("A3 decimal comma", change(ROWS[3], avg_price_per_room='"81,50"'), "avg_price_per_room: decimal comma"),
    ("A3 bare decimal comma", change(ROWS[3], avg_price_per_room="81,50"), "too many fields"),
    ("A3 NaN", change(ROWS[3], avg_price_per_room="NaN"), "avg_price_per_room: NaN or infinity"),
    ("A3 infinity", change(ROWS[3], avg_price_per_room="-inf"), "avg_price_per_room: NaN or infinity"),
    ("A3 number as text", change(ROWS[3], adults="two"), "adults: not a whole number"),
    ("A3 no such day", change(ROWS[3], arrival_date="2017-02-29"), "arrival_date: this date does not exist"),
    ("A3 other date order", change(ROWS[3], arrival_date="02/07/2016"), "arrival_date: not a date"),
    ("A3 date out of range", change(ROWS[3], arrival_date="0016-07-02"), "arrival date is out of range"),
    ("A5 null", change(ROWS[3], adults=""), "adults: empty"),
    ("A5 unknown category", change(ROWS[3], meal="brunch"), "meal: not among the declared values"),
    ("A5 no adult", change(ROWS[3], adults="0"), "a booking needs at least one adult"),
    ("A5 price", change(ROWS[3], avg_price_per_room="99999"), "price per room is not between 1 and 1000 EUR"),
    ("A5 country", change(ROWS[3], country="Atlantis"), "country is not a country code"),
]


@pytest.mark.parametrize(("row", "reason"), [f[1:] for f in ROW_FAULTS], ids=[f[0] for f in ROW_FAULTS])
def test_a1_a2_a3_a5_a_faulty_row_is_quarantined_with_line_reason_and_text(house: House, row: str, reason: str) -> None:
    result = house.take_in(week=[*ROWS[:3], row, *ROWS[4:]])
    assert (result.delivered, result.accepted, result.quarantined) == (20, 19, 1)
    (kept,) = house.quarantined(house.outcomes()["week"])
    assert reason in kept["reason"]
    assert (kept["source_line"], kept["raw"]) == (5, row)


def test_a1_a_row_cut_off_at_the_end_of_the_file(house: House) -> None:
    whole = "\n".join([HEADER, *ROWS])
    result = house.take_in(week=whole[:-40].encode())
    assert (result.delivered, result.accepted, result.quarantined) == (20, 19, 1)


def test_a1_a_key_twice_in_one_delivery_keeps_the_first(house: House) -> None:
    result = house.take_in(week=[*ROWS, ROWS[0], change(ROWS[1], adults="5")])
    assert (result.accepted, result.quarantined) == (20, 2)
    kept = house.quarantined(house.outcomes()["week"])
    assert [(row["source_line"], row["reason"]) for row in kept] == [
        (22, "duplicate of an accepted row"),
        (23, "its key was accepted before with other values"),
    ]


def test_a1_a_faulty_first_row_does_not_take_the_key_of_a_good_one(house: House) -> None:
    result = house.take_in(week=[change(ROWS[0], adults="0"), *ROWS])
    assert (result.accepted, result.quarantined) == (20, 1)


@on_every_site
def test_a1_a_late_delivery_joins_its_month(house: House) -> None:
    house.take_in(later=ROWS[10:])
    result = house.take_in(late=ROWS[:10])
    assert (result.accepted, result.total_rows) == (10, 20)
    assert house.table()["booking_id"].to_pylist() == sorted(int(row.split(",")[0]) for row in ROWS)


def test_a2_columns_in_another_order_are_the_same_columns(house: House) -> None:
    house.take_in(week=ROWS)
    wanted = house.table()
    other = House(house.site)
    turned = "\n".join(",".join(reversed(line.split(","))) for line in (HEADER, *ROWS))
    assert other.take_in(week=turned.encode()).accepted == 20
    assert other.table().equals(wanted)
    for bucket in (other.buckets.landing, other.buckets.lake):
        other.site.drop_bucket(bucket)


def test_a3_byte_order_mark_and_mixed_line_ends_are_no_fault(house: House) -> None:
    ends = ["\r\n", "\n", "\r"]
    text = "".join(line + ends[i % 3] for i, line in enumerate([HEADER, *ROWS]))
    assert house.take_in(week=b"\xef\xbb\xbf" + text.encode()).accepted == 20


@on_every_site
def test_a3_an_accent_in_the_declared_encoding_is_kept(house: House) -> None:
    house.take_in(week=[change(ROWS[0], agent="Zoë Müller")])
    assert house.table()["agent"].to_pylist() == ["Zoë Müller"]


@on_every_site
def test_a4_the_same_file_again_under_any_name_changes_nothing(house: House) -> None:
    first = house.take_in(week=ROWS)
    again = house.take_in(week=ROWS, copy=ROWS)
    assert (again.changed, again.deliveries, again.delivered, again.snapshot) == (False, 0, 0, first.snapshot)
    assert len(house.outcomes()) == 1


@on_every_site
def test_a4_delivered_again_with_one_row_changed(house: House) -> None:
    first = house.take_in(week=ROWS)
    again = house.take_in(again=[*ROWS[:7], change(ROWS[7], adults="5"), *ROWS[8:]])
    assert (again.accepted, again.quarantined, again.changed, again.snapshot) == (0, 20, False, first.snapshot)
    outcome = house.outcomes()["again"]
    assert outcome["reasons"] == {
        "duplicate of an accepted row": 19,
        "its key was accepted before with other values": 1,
    }
    assert outcome["outcome"] == "refused"


@on_every_site
def test_a4_an_overlapping_delivery_adds_what_is_new(house: House) -> None:
    house.take_in(first=ROWS[:15])
    result = house.take_in(second=ROWS[5:])
    assert (result.accepted, result.quarantined, result.total_rows) == (5, 10, 20)


@on_every_site
def test_a5_quarantined_rows_are_recoverable_by_a_corrected_delivery(house: House) -> None:
    broken = change(ROWS[0], adults="0")
    house.take_in(week=[broken, *ROWS[1:]])
    (kept,) = house.quarantined(house.outcomes()["week"])
    assert house.take_in(corrected=[change(kept["raw"], adults="2")]).total_rows == 20


@on_every_site
def test_a5_rows_that_a_wrong_rule_refused_are_taken_in_again_once_it_is_corrected(house: House) -> None:
    house.take_in(week=[change(ROWS[0], adults="0"), change(ROWS[1], adults="0", lead_time="9000"), *ROWS[2:]])
    sha = house.outcomes()["week"]["sha256"]
    rules = [expectation for expectation in house.pipeline.expectations if expectation.arguments["column"] != "adults"]
    fixed = house.pipeline.model_copy(update={"expectations": rules})
    for changed in (True, False):
        result = reingest(house.platform, fixed, sha)
        assert (result.changed, result.total_rows, result.quarantined) == (changed, 19, 1)
    (key,) = [info.key for info in house.site.list(house.buckets.lake, "quarantine/")]
    (left,) = quarantined.rows_of(house.site.read(house.buckets.lake, key))
    assert (left.line, left.reasons) == (3, ("lead time is not between 0 and 800 days",))


@on_every_site
def test_a5_too_many_refused_rows_turn_the_run_red_and_lose_nothing(house: House) -> None:
    house.pipeline = house.pipeline.model_copy(update={"max_quarantined": 0.05})
    result = house.take_in(week=[change(ROWS[0], adults="0"), change(ROWS[1], adults="0"), *ROWS[2:]])
    with pytest.raises(IngestError, match="2 of 20 rows were refused"):
        check_quarantine(house.pipeline, result)
    assert result.snapshot is None
    assert house.outcomes()["week"]["quarantined"] == 20
    accepted = reingest(house.platform, house.pipeline, house.outcomes()["week"]["sha256"], accepted_by="user 7")
    assert (accepted.total_rows, accepted.quarantined) == (18, 2)
    check_quarantine(house.pipeline, accepted)


CANARY = "canary_5f1c"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: change(row, adults=CANARY),
        lambda row: change(row, country=CANARY),
        lambda row: change(row, meal=CANARY),
        lambda row: change(row, agent=f'"{CANARY}'),
        lambda row: change(row, arrival_date=CANARY),
        lambda row: f"{row},{CANARY}",
    ],
)
def test_s2_values_stay_in_lake_and_quarantine(
    house: House,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[str], str],
) -> None:
    caplog.set_level(logging.DEBUG)
    house.pipeline = house.pipeline.model_copy(update={"max_quarantined": 0.0})
    headless = "\n".join([spoil(row) for row in ROWS]).encode()
    result = house.take_in(week=[spoil(ROWS[0]), *ROWS[1:]], headless=headless)
    with pytest.raises(IngestError) as error:
        check_quarantine(house.pipeline, result)
    output = capfd.readouterr()
    logged = "".join(r.getMessage() for r in caplog.records if not r.name.startswith(("botocore", "urllib3", "boto3")))
    told = f"{error.value}{error.value.__cause__!r}{error.value.__context__!r}{logged}{output.out}{output.err}"
    assert CANARY not in told
    assert CANARY not in repr(house.ledger.records)
    assert CANARY not in repr(house.outcomes())
    assert CANARY in repr(house.quarantined(house.outcomes()["week"]))
