"""Deliveries by hand: what is refused before an upload, what is uploaded and read back, and what stays as it was."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.cli.views import delivery as view
from rempart.coordination.active import Active
from rempart.errors import IngestError, IntegrityError, SiteFenced
from rempart.flows.ingestion import deliver
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config, pipelines
from rempart.settings.config import Connection, project_root
from tests.memory_site import MemorySite

PIPELINE = pipelines.load(project_root() / "include" / "pipelines" / "hotel_bookings.yaml")
HEADER = list(PIPELINE.columns)
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
Make = Callable[..., Path]


def no_connection(name: str) -> Connection:
    raise AssertionError(f"asked for connection {name}")


@pytest.fixture
def site() -> MemorySite:
    made, buckets = MemorySite("primary"), config.load(project_root() / "rempart.yaml").buckets
    for bucket in (buckets.landing, buckets.lake):
        made.ensure_bucket(bucket, versioned=True)
    return made


@pytest.fixture
def platform(site: MemorySite) -> Platform:
    loaded = config.load(project_root() / "rempart.yaml")
    sites = {loaded.active_site: site}
    return Platform(loaded, no_connection, lambda: NOW, dict(sites), MemoryLedger(), MemoryContinuity())


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A file with a header and one row."""

    def file(name: str = "week.csv", header: list[str] = HEADER, delimiter: str = ",", row: str = "1") -> Path:
        made = tmp_path / name
        body = f"{delimiter.join(header)}\n{delimiter.join([row] * len(header))}\n".encode()
        made.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
        return made

    return file


def landed(site: MemorySite) -> dict[str, bytes]:
    return {info.key: site.read("landing", info.key) for info in site.list("landing")}


def refused(platform: Platform, *files: Path) -> IngestError:
    with pytest.raises(IngestError) as error:
        deliver.plan(platform, PIPELINE, files)
    return error.value


def test_a_wrong_header_is_answered_with_the_columns_and_nothing_is_uploaded(
    platform: Platform, site: MemorySite, make: Make
) -> None:
    wrong = make("wrong.csv", [*HEADER[1:], "colour", "size"])
    error = refused(platform, make(), wrong)
    assert "nothing was uploaded" in error.what
    assert (
        f"wrong.csv: it lacks column '{HEADER[0]}'; columns 'colour', 'size' are not in the pipeline file" in error.what
    )
    assert "week.csv" not in error.what and "rempart pipeline check hotel_bookings" in error.hint
    assert (
        "add to `schema` of include/pipelines/hotel_bookings.yaml: `colour: {type: ..., known: ..., nullable: true}`"
        in (error.hint)
    )
    assert "docs/how-to/rows-that-change.md#columns-that-change" in error.hint
    assert landed(site) == {}


def test_columns_may_come_in_any_order_and_packed(platform: Platform, make: Make) -> None:
    assert deliver.plan(platform, PIPELINE, [make("w.csv.gz", HEADER[::-1])])[0].state == "new"


def test_a_column_that_may_be_empty_has_to_be_named_and_the_remedy_says_why(platform: Platform, make: Make) -> None:
    nullable = [name for name, column in PIPELINE.columns.items() if column.nullable][:1]
    error = refused(platform, make(header=[name for name in HEADER if name not in nullable]))
    assert f"Column '{nullable[0]}' may be empty, but the header has to name it" in error.hint
    assert "Add the name, and leave its cells empty." in error.hint
    assert "may be empty" not in refused(platform, make(header=HEADER[1:])).hint, "the first one may not"


def test_a_change_of_the_schema_that_no_ingestion_would_accept_is_refused_before_the_upload(
    platform: Platform, site: MemorySite, make: Make
) -> None:
    columns = {name: column for name, column in snapshot_columns(PIPELINE).items() if name != HEADER[1]}
    key, day = tuple(PIPELINE.key), PIPELINE.partition_by
    earlier = snapshots.Snapshot("s", PIPELINE.name, NOW, None, 0, (), columns, "personal", NOW.date(), key, day)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "current", lambda *given: earlier)
        error = refused(platform, make())
        assert f"+ {HEADER[1]}: " in error.what and "not nullable" in error.what and "`nullable: true`" in error.hint
        assert landed(site) == {}

        def broken(*given: object) -> None:
            raise IntegrityError("read the manifest: it is damaged", "Restore it.")

        patch.setattr(snapshots, "current", broken)
        assert deliver.plan(platform, PIPELINE, [make()])[0].state == "new"


def test_a_column_that_occurs_twice_is_named(make: Make) -> None:
    fault = deliver.header_fault("w.csv", [*HEADER, HEADER[0]], PIPELINE)
    assert fault and fault.line() == f"w.csv: column '{HEADER[0]}' occurs twice"


def test_a_file_without_a_header_is_named_without_the_values_of_its_first_row(platform: Platform, make: Make) -> None:
    error = refused(platform, make(header=["Dupont", "1 rue de la Paix"]))
    assert "its first line names none of the pipeline's columns" in error.what and "Dupont" not in str(error)


def test_a_header_that_is_spelled_in_another_way_is_told_as_it_should_be(platform: Platform, make: Make) -> None:
    error = refused(platform, make(header=[*(name.title().replace("_", " ") for name in HEADER), "Remark"]))
    assert "column 'Remark' is not in the pipeline file; it spells columns in another way" in error.what
    entries = re.search(r"add to `source`: header: (\{.*\})$", error.what, re.MULTILINE)
    assert entries
    names = yaml.safe_load(entries[1])
    assert set(names.values()) == set(HEADER) and names["Booking Id"] == "booking_id"
    declared = PIPELINE.model_copy(update={"source": PIPELINE.source.model_copy(update={"header": names})})
    assert deliver.header_fault("w.csv", list(names), declared) is None
    # a part of the names, and a supplier that changes them again
    some = [HEADER[0].upper(), *HEADER[1:]]
    fault = deliver.header_fault("w.csv", some, PIPELINE)
    assert fault and f'header: {{"{HEADER[0].upper()}": {HEADER[0]}}}' in fault.line()
    first, *others = names
    again = deliver.header_fault("w.csv", [HEADER[0], *others], declared)
    assert again and f'"{first}"' not in again.other and all(f'"{name}"' in again.other for name in others)


def test_a_row_that_happens_to_hold_a_columns_name_is_not_repeated_either(platform: Platform, make: Make) -> None:
    error = refused(platform, make(header=[HEADER[0], "Dupont", "1 rue de la Paix"]))
    assert "it lacks columns" in error.what and "columns that the pipeline file does not have: 2" in error.what
    assert "Dupont" not in str(error)


def test_a_header_cannot_write_to_the_terminal(platform: Platform, make: Make) -> None:
    told = refused(platform, make(header=[*HEADER, "\x1b[2J\u202egood"])).what
    assert "'\\x1b[2J\\u202egood'" in told and "\x1b" not in told


def test_a_pipe_is_refused_without_waiting_for_its_other_end(platform: Platform, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    held = os.open(tmp_path / "pipe.csv", os.O_RDWR)  # so that a reader would not wait for ever
    os.write(held, (",".join(HEADER) + "\n").encode() * 20)
    try:
        assert "it is no regular file" in refused(platform, tmp_path / "pipe.csv").what
    finally:
        os.close(held)


@pytest.mark.parametrize("row", ["1", "1" * 400_000], ids=["one request", "parts"])
@pytest.mark.parametrize("happens", ["grows", "is gone"])
def test_a_file_that_changed_since_its_check_is_not_uploaded(
    platform: Platform, site: MemorySite, make: Make, row: str, happens: str
) -> None:
    file = make(row=row)
    planned = deliver.plan(platform, PIPELINE, [file])
    if happens == "grows":
        file.write_bytes(file.read_bytes() + b"more\n")
    else:
        file.unlink()
    with pytest.raises(IngestError, match="changed since it was checked, or is gone"):
        deliver.send(platform, PIPELINE, planned)
    assert landed(site) == {}


def test_another_delimiter_is_recognized(platform: Platform, make: Make) -> None:
    assert "separated by ';', but the pipeline file declares ','" in refused(platform, make(delimiter=";")).what


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("empty.csv", b"", "the file is empty"),
        ("table.xlsx", b"PK\x03\x04", "the pipeline is csv; save the sheet as CSV in UTF-8"),
        ("table.csv", b"PAR1xxxx", "the file is Parquet, not CSV"),
        ("broken.csv.gz", b"\x1f\x8bnonsense", "the gzip file is damaged"),
    ],
)
def test_what_ingestion_would_refuse_as_a_whole_is_refused_before_the_upload(
    platform: Platform, tmp_path: Path, name: str, body: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(body)
    assert why in refused(platform, tmp_path / name).what


def test_a_missing_file_a_folder_and_two_files_of_one_name_are_refused(
    platform: Platform, tmp_path: Path, make: Make
) -> None:
    (tmp_path / "sub.csv").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "week.csv").write_bytes(make().read_bytes())
    told = refused(platform, tmp_path / "no.csv", tmp_path / "sub.csv", make(), tmp_path / "other" / "week.csv").what
    assert "No such file" in told and "Is a directory" in told and "it has the same name as" in told


@pytest.mark.parametrize("row", ["1", "1" * 400_000], ids=["one request", "parts"])
def test_a_delivery_is_uploaded_and_read_back_and_its_progress_is_told(
    platform: Platform, site: MemorySite, make: Make, row: str
) -> None:
    file = make(row=row)
    told: dict[str, int] = {}

    def progress(step: str, name: str, count: int) -> None:
        told[step] = told.get(step, 0) + count

    done = deliver.send(platform, PIPELINE, deliver.plan(platform, PIPELINE, [file]), progress)
    assert landed(site) == {"hotel_bookings/week.csv": file.read_bytes()}
    assert told == {"upload": file.stat().st_size, "check": file.stat().st_size}
    assert (told["upload"] > deliver.PART) == (len(row) > 1)
    assert done.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_another_delivery_under_the_name_stays_as_it_was(platform: Platform, site: MemorySite, make: Make) -> None:
    site.write("landing", "hotel_bookings/week.csv", b"theirs")
    error = refused(platform, make())
    assert "another delivery of that name waits" in error.what and "Rename" in error.hint
    assert landed(site) == {"hotel_bookings/week.csv": b"theirs"}


@pytest.mark.parametrize("row", ["1", "1" * 400_000], ids=["one request", "parts"])
def test_a_name_that_is_taken_between_plan_and_upload_is_not_overwritten(
    platform: Platform, site: MemorySite, make: Make, row: str
) -> None:
    planned = deliver.plan(platform, PIPELINE, [make(row=row)])
    site.write("landing", "hotel_bookings/week.csv", b"theirs")
    with pytest.raises(IngestError, match="another delivery of that name"):
        deliver.send(platform, PIPELINE, planned)
    assert landed(site) == {"hotel_bookings/week.csv": b"theirs"}


def test_a_file_that_arrived_although_its_answer_was_lost_is_delivered(
    platform: Platform, site: MemorySite, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeated request finds the name taken, by this file."""
    write = site.write_new
    monkeypatch.setattr(site, "write_new", lambda *given, **more: write(*given, **more) and write(*given, **more))
    done = deliver.send(platform, PIPELINE, deliver.plan(platform, PIPELINE, [file := make()]))
    assert landed(site) == {"hotel_bookings/week.csv": file.read_bytes()} and done.waiting == 1


def test_the_same_bytes_are_not_uploaded_twice(platform: Platform, site: MemorySite, make: Make) -> None:
    file = make()
    deliver.send(platform, PIPELINE, deliver.plan(platform, PIPELINE, [file]))
    again = deliver.plan(platform, PIPELINE, [file])
    assert [planned.state for planned in again] == ["waiting"]
    told: list[str] = []
    deliver.send(platform, PIPELINE, again, lambda step, name, count: told.append(step))
    assert told == [] and len(list(site.versions("landing", "hotel_bookings/"))) == 1


def test_a_delivery_that_was_ingested_before_is_not_uploaded(platform: Platform, site: MemorySite, make: Make) -> None:
    file = make()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    deliveries.record(site, "lake", PIPELINE.name, {"sha256": sha256, "outcome": "accepted"})
    planned = deliver.plan(platform, PIPELINE, [file])
    done = deliver.send(platform, PIPELINE, planned)
    assert landed(site) == {} and next(view.lines(done)).startswith("week.csv was ingested before")


def test_a_site_that_gives_back_other_bytes_is_told(
    platform: Platform, site: MemorySite, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = deliver.plan(platform, PIPELINE, [make()])
    write = site.write_new
    monkeypatch.setattr(site, "write_new", lambda bucket, key, body, **other: write(bucket, key, b"x" + body, **other))
    with pytest.raises(IntegrityError, match="returned other bytes"):
        deliver.send(platform, PIPELINE, planned)


def test_a_delivery_to_a_platform_that_moved_meanwhile_does_not_count(
    platform: Platform, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([Active(0, "primary"), Active(1, "haven")])
    monkeypatch.setattr(Platform, "active", lambda self: next(states))
    planned = [deliver.PlannedFile(make(), "hotel_bookings/week.csv", 1, "0" * 64, "waiting")]
    with pytest.raises(SiteFenced, match="moved from site 'primary'"):
        deliver.send(platform, PIPELINE, planned)


def test_what_happens_next_names_the_dag_and_its_hour_or_the_command() -> None:
    scheduled = deliver.next_ingestion(PIPELINE, NOW)
    assert scheduled == (datetime(2026, 1, 6, 4, tzinfo=UTC), timedelta(hours=16))
    checked, first, command = view.following(PIPELINE, 2, scheduled)
    assert "The DAG ingest_hotel_bookings ingests at 2026-01-06 04:00 UTC (in 16 h)" in first
    assert checked.startswith("Only the header was checked, and the types and empty cells of the first 1,000 rows.")
    assert command == "  rempart pipeline run hotel_bookings --follow"
    by_hand = PIPELINE.model_copy(update={"schedules": PIPELINE.schedules.model_copy(update={"ingest": None})})
    assert deliver.next_ingestion(by_hand, NOW) is None
    assert "1 delivery waits. The pipeline file has no schedule" in [*view.following(by_hand, 1, None)][1]
    show = "rempart pipeline show hotel_bookings"
    assert list(view.following(PIPELINE, 0, None)) == [f"No delivery waits. State of the pipeline: {show}"]
    landing = PIPELINE.model_copy(update={"schedules": PIPELINE.schedules.model_copy(update={"on_delivery": True})})
    checked, waits, starts, follow = view.following(landing, 1, scheduled)
    assert waits.startswith("1 delivery waits. `schedules.on_delivery` starts ingest_hotel_bookings by itself")
    assert starts.startswith("Its new snapshot starts features, training and gate by itself: you need no")
    assert follow == f"What runs now, and the result: {show}"


def test_rows_that_would_go_to_quarantine_are_told_first_and_uploaded_all_the_same(
    platform: Platform, site: MemorySite, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.flows.shared.platform.open_platform", lambda: platform)
    file = make()
    answer = CliRunner().invoke(app, ["pipeline", "deliver", PIPELINE.name, str(file)], catch_exceptions=False)
    assert answer.exit_code == 0 and landed(site) == {"hotel_bookings/week.csv": file.read_bytes()}
    told = answer.output.splitlines()
    assert told[0] == "WARNING: week.csv: 1 of its 1 row would go to quarantine:"
    uploaded = next(i for i, line in enumerate(told) if "uploaded and read back" in line)
    assert any("1 x arrival_date: not a date" in line for line in told[1:uploaded])


def test_progress_is_lines_without_a_terminal(make: Make) -> None:
    told: list[str] = []
    planned = [deliver.PlannedFile(make(), "k", 30, "0" * 64, "new")]
    with view.progress(planned, terminal=False, out=told.append) as progress:
        for step, count in (("upload", 10), ("upload", 20), ("check", 30)):
            progress(step, "week.csv", count)  # type: ignore[arg-type] # a literal in a loop
    assert told == ["week.csv: 30 B uploaded and read back, with the right SHA-256"]


def test_progress_is_bars_at_a_terminal(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    planned = [deliver.PlannedFile(make(), "k", 30, "0" * 64, "new")]
    with view.progress(planned, terminal=True, out=print) as progress:
        progress("upload", "week.csv", 30)
        progress("check", "week.csv", 30)
    told = capsys.readouterr().out
    assert "uploading week.csv" in told and "reading back week.csv" in told


def test_a_name_in_brackets_is_shown_as_it_is(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    planned = [deliver.PlannedFile(make("week[1].csv"), "k", 30, "0" * 64, "new")]
    with view.progress(planned, terminal=True, out=print) as progress:
        progress("upload", "week[1][/red].csv", 30)
    assert "uploading week[1][/red].csv" in capsys.readouterr().out


def test_many_files_are_told_in_one_line(make: Make) -> None:
    files = tuple(deliver.PlannedFile(make(f"{i}.csv"), f"p/{i}.csv", 1_000, "0" * 64, "new") for i in range(9))
    (line,) = view.lines(deliver.Delivered("p", "primary", "landing", files))
    assert line == "delivered 9 files (9.0 kB) to landing/p/ at site 'primary', each read back with the right SHA-256"


@pytest.mark.parametrize(
    ("start", "is_found"),
    [
        (b"a,b\r\n1,2\r\n", False),
        (b"a,b\n1,2\n", False),
        (b"a,b\r1,2\r", False),
        (b"a,b\r,c\n1,2,3\n", True),
        (b"a,b\r,c\r\n1,2,3\r\n", True),
    ],
)
def test_a_lone_carriage_return_in_a_header_is_found(start: bytes, is_found: bool) -> None:
    assert deliver._lone_return(start) is is_found


def test_files_keep_the_order_in_which_they_are_named(platform: Platform, site: MemorySite, make: Make) -> None:
    files = [make("jan.csv"), make("feb.csv", row="2")]
    deliver.send(platform, PIPELINE, deliver.plan(platform, PIPELINE, files))
    placed = {info.key.rsplit("/", 1)[-1]: site.head("landing", info.key).metadata for info in site.list("landing")}
    assert {name: landing.order_of(metadata) for name, metadata in placed.items()} == {"jan.csv": 0, "feb.csv": 1}


def test_where_later_rows_win_a_file_that_came_before_is_delivered_again(
    platform: Platform, site: MemorySite, make: Make
) -> None:
    file = make()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    site.write(platform.config.buckets.lake, deliveries.outcome_key(PIPELINE.name, digest), b"{}")
    newest = PIPELINE.model_copy(update={"on_conflict": "newest"})
    assert [planned.state for planned in deliver.plan(platform, PIPELINE, [file])] == ["ingested"]
    assert [planned.state for planned in deliver.plan(platform, newest, [file])] == ["new"]
