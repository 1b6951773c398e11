"""An erasure at two sites in memory: rows found, rows left, records, and the effect of a second run."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rempart.backup.keys import age
from rempart.backup.points import erasures as register
from rempart.cli import app
from rempart.errors import BackupError, ErasedMeanwhile, IntegrityError, ObjectMissing, SiteError
from rempart.flows.erasure import erase as flow
from rempart.flows.erasure import erase_report
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.quarantine import look
from rempart.flows.ingestion.reingest import reingest
from rempart.flows.shared import erasures
from rempart.ingestion import snapshots
from rempart.ingestion.content.growth import KnownRows
from rempart.settings.pipeline import Pipeline
from rempart.training import datasets
from tests.erasable import HEADER, ROWS, Lake, id_of
from tests.unit.flows.erasure.booked import OTHER, VICTIM, WHO, copied, erase, without_features


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    return without_features(monkeypatch)


@pytest.fixture
def lake(first: Lake) -> Lake:
    return copied(first)


def freeze(made: Lake) -> dict[str, str]:
    """A training set as a job leaves it; its record."""
    table = snapshots.load_table(made.site("primary"), made.bucket, current(made))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    key = f"training/hotel_bookings/{digest}.parquet"
    made.site("primary").write(made.bucket, key, sink.getvalue())
    made.replicate()
    return {"bucket": made.bucket, "key": key, "sha256": digest}


def current(made: Lake) -> snapshots.Snapshot:
    found = snapshots.current(made.site("primary"), made.bucket, "hotel_bookings")
    assert found
    return found


def test_a_dry_run_tells_where_rows_are_and_changes_nothing(lake: Lake) -> None:
    before = [lake.site(name).list(lake.bucket) for name in ("primary", "haven")]
    told = erase(lake, WHO, dry_run=True)
    assert sum(told.found.values()) >= 8  # two deliveries, quarantine, parts of two snapshots; at two sites
    assert not lake.platform.ledger.find("erasure")
    assert not list(lake.site("haven").list("backups", "erasures/"))
    after = [lake.site(name).list(lake.bucket) for name in ("primary", "haven")]
    assert [list(row) for row in before] == [list(row) for row in after]
    assert str(WHO) not in "\n".join(erase_report.lines(told))


def test_an_erased_booking_is_nowhere_and_everybody_else_is_where_he_was(lake: Lake) -> None:
    dataset, was = freeze(lake), current(lake)
    assert lake.holders(WHO, "primary") and lake.holders(WHO, "haven")
    others = {id_of(row) for row in ROWS[:14]} - {WHO}
    left = "spark/hotel_bookings/5f0c8a4be1d2a377/part.parquet"  # of a Spark job that was killed
    lake.site("primary").write(lake.bucket, left, b"rows")
    lake.replicate()
    done = erase(lake, WHO)
    assert not done.pending and done.subjects == 1
    assert not [*lake.site("primary").versions(lake.bucket, left), *lake.site("haven").versions(lake.bucket, left)]
    assert lake.holders(WHO) == []
    now = current(lake)
    assert now.id != was.id and now.rows == was.rows - 1
    table = snapshots.load_table(lake.site("primary"), lake.bucket, now)
    assert set(table["booking_id"].to_pylist()) == others
    # whoever asks for what was on record finds what stands for it
    ledger = lake.platform.ledger
    assert erasures.snapshot_id(ledger, lake.bucket, "hotel_bookings", was.id) == now.id
    body = erasures.read_dataset(erasures.rewritten(ledger), lake.site("primary"), dataset)
    assert set(pq.read_table(io.BytesIO(body))["booking_id"].to_pylist()) == others
    # the chain of snapshots is whole, and so is each delivery but for that line
    assert now.previous and snapshots.read(lake.site("primary"), lake.bucket, "hotel_bookings", now.previous).rows == 9
    raw = [lake.site("primary").read(lake.bucket, info.key) for info in lake.site("primary").list(lake.bucket, "raw/")]
    lines = [(gzip.decompress(content) if content[:1] == b"\x1f" else content).decode().splitlines() for content in raw]
    assert sorted(lines, key=len) == [[HEADER, *ROWS[10:14]], [HEADER, *[row for row in ROWS[:10] if row != VICTIM]]]


def test_an_erased_booking_is_in_neither_part_of_a_training_set_nor_in_what_replaces_it(lake: Lake) -> None:
    table, home = snapshots.load_table(lake.site("primary"), lake.bucket, current(lake)), lake.site("primary")
    parts = {}
    for made_key, rows in ((datasets.key, table.slice(0, 1)), (datasets.held_out_key, table.slice(1))):
        body = datasets.encoded(rows)
        digest = hashlib.sha256(body).hexdigest()
        key = made_key("hotel_bookings", digest)
        home.write(lake.bucket, key, body)
        parts[key] = {"bucket": lake.bucket, "key": key, "sha256": digest}
    lake.replicate()
    learn, held_out = parts.values()

    def found(part: dict[str, str]) -> list[int]:
        body = erasures.read_dataset(erasures.rewritten(lake.platform.ledger), home, part)
        return datasets.decoded(body)["booking_id"].to_pylist()

    only, *others = table["booking_id"].to_pylist()
    for number, who in enumerate(others[:2], 1):
        assert not erase(lake, who).pending and lake.holders(who) == []
        assert found(held_out) == others[number:] and found(learn) == [only]
        now = register.standing(erasures.rewritten(lake.platform.ledger), *held_out.values())
        assert now and now[0] == datasets.held_out_key("hotel_bookings", now[1])
        lake.replicate()
    assert not erase(lake, only).pending and lake.holders(only) == [] and found(held_out) == others[2:]
    with pytest.raises(ObjectMissing, match="every row of"):
        found(learn)


def test_a_snapshot_whose_rows_are_not_those_of_its_manifest_gets_no_successor(lake: Lake) -> None:
    was, home = current(lake), lake.site("primary")
    for part in was.parts:
        table = pq.read_table(io.BytesIO(home.read(lake.bucket, part.key)))
        ids = table["booking_id"].to_pylist()
        if WHO in ids and len(ids) > 1:
            break
    ids[ids.index(WHO) - 1] = 1
    place = table.column_names.index("booking_id")
    table = table.set_column(place, table.schema.field(place), pa.array(ids, table.schema.field(place).type))
    body = snapshots.encode([table], table.schema)
    digest = hashlib.sha256(body).hexdigest()
    altered = replace(part, key=snapshots.part_key("hotel_bookings", digest), sha256=digest, bytes=len(body))
    home.write(lake.bucket, altered.key, body)
    manifest = replace(was, parts=tuple(altered if other is part else other for other in was.parts))
    home.write(lake.bucket, f"snapshots/hotel_bookings/{was.id}.json", snapshots.manifest(manifest))
    with pytest.raises(IntegrityError, match="rows do not match the hash"):
        erase(lake, WHO)
    assert current(lake).id == was.id


def test_a_snapshot_whose_ingestion_was_killed_before_its_evidence_has_evidence_after_an_erasure(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object) -> None:
        raise SiteError("killed", "Run again.")

    with monkeypatch.context() as during, pytest.raises(SiteError, match="killed"):
        during.setattr(ingest_run, "append_snapshot", killed)
        lake.take_in("three", ROWS[14:16])
    was = current(lake)
    lake.replicate()
    assert not erase(lake, WHO).pending
    after, before = (record.body for record in lake.platform.ledger.find("snapshot", limit=2))
    assert (before["snapshot"], before["deliveries"], before["accepted"]) == (was.id, 1, 2)
    assert (after["replaced"], after["snapshot"]) == (was.id, current(lake).id)


def test_it_is_recorded_under_pseudonyms_signed_and_locked(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    erase(lake, WHO)
    for name in ("primary", "haven"):
        ((key, body),) = register.read(lake.site(name), "backups")
        (version,) = lake.site(name).versions("backups", key)
        assert lake.site(name).retained_until("backups", key, version.version_id or "")
        assert str(WHO).encode() not in body
        entry = register.decode(key, body, lake.platform.trusted_keys())
        assert entry.pipeline == "hotel_bookings" and len(entry.subjects) == 1
        # who guesses bookings has no use for a plain hash
        assert hashlib.sha256(str(WHO).encode()).hexdigest() not in entry.subjects
    message = json.dumps([record.body for record in lake.platform.ledger.find("erasure")], default=dict)
    for text in (message, caplog.text):
        assert str(WHO) not in text and VICTIM not in text
    assert {record.body["state"] for record in lake.platform.ledger.find("erasure")} == {
        "registered",
        "rewritten",
        "condemned",
        "ended",
    }


def test_a_second_run_changes_nothing(lake: Lake) -> None:
    erase(lake, WHO)
    seen = [list(lake.site(name).versions(bucket)) for name in ("primary", "haven") for bucket in ("lake", "backups")]
    records = len(lake.platform.ledger.find("erasure"))
    for done in (erase(lake, WHO), *flow.again(lake.platform)):
        assert (done.found, done.deleted, done.rewritten) == ({}, 0, 0)
    assert seen == [
        list(lake.site(name).versions(bucket)) for name in ("primary", "haven") for bucket in ("lake", "backups")
    ]
    assert len(lake.platform.ledger.find("erasure")) == records


def test_a_later_erasure_is_an_entry_of_its_own(lake: Lake) -> None:
    erase(lake, WHO)
    erase(lake, WHO, id_of(OTHER))
    assert [len(entry.subjects) for entry in erasures.on_record(lake.platform.ledger)] == [1, 1]
    assert lake.holders(WHO) == lake.holders(id_of(OTHER)) == []


def test_a_locked_version_is_told_with_its_date_and_goes_when_the_lock_has_ended(lake: Lake) -> None:
    home = lake.site("primary")
    (key,) = {holder.split("/", 1)[1] for holder in lake.holders(WHO, "primary") if "quarantine" in holder}
    (version,) = home.versions(lake.bucket, key)
    until = lake.platform.clock()
    home._locking.add(lake.bucket)  # type: ignore[attr-defined] # a bucket with locks
    home.retain(lake.bucket, key, version.version_id or "", until)
    done = erase(lake, WHO)
    assert done.pending and not done.left
    assert list(done.locked.values()) == [until] and any(
        "retained until 2099" in line for line in erase_report.lines(done)
    )
    assert lake.holders(WHO) == [f"primary/{key}"]
    home._retained.clear()  # type: ignore[attr-defined] # time passes
    (later,) = flow.again(lake.platform)
    assert not later.pending and lake.holders(WHO) == []


def test_without_the_register_of_the_backup_site_nothing_is_erased(lake: Lake) -> None:
    haven, before = lake.site("haven"), lake.holders(WHO)

    def refuses(*given: object, **more: object) -> bool:
        raise SiteError("put backups/erasures at site 'haven': refused", "Ask.")

    haven.write_new = refuses  # type: ignore[method-assign]
    with pytest.raises(SiteError, match="refused"):
        erase(lake, WHO)
    assert lake.holders(WHO) == before and not erasures.on_record(lake.platform.ledger)


def test_an_ingestion_that_began_before_commits_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ingest_run.known_rows

    def meanwhile(*given: object) -> KnownRows:
        monkeypatch.setattr(ingest_run, "known_rows", real)
        erase(lake, WHO)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest_run, "known_rows", meanwhile)
    with pytest.raises((ErasedMeanwhile, SiteError)):
        lake.take_in("three", ROWS[14:16])
    again = ingest(lake.platform, lake.pipeline)
    assert again.accepted == 2 and again.total_rows == 15
    assert flow.again(lake.platform)[0].found == {} and lake.holders(WHO, "primary") == []


@pytest.mark.parametrize("told", [["x"], ["100", "1|2"], [""], []])
def test_what_is_no_key_is_refused_and_not_quoted(lake: Lake, told: list[str]) -> None:
    with pytest.raises(BackupError) as refused:
        flow.read_keys(lake.pipeline, [*told, "secret-person"] if told == ["x"] else told)
    assert "secret-person" not in str(refused.value) and "1|2" not in str(refused.value)


def test_keys_of_several_columns_are_written_with_a_bar(lake: Lake) -> None:
    both = Pipeline.model_construct(**{**dict(lake.pipeline), "key": ["agent", "arrival_date"]})
    found = flow.read_keys(both, [r"a\|b|2016-07-02"])
    assert [(row[0], row[1].isoformat()) for row in found] == [("a|b", "2016-07-02")]


@pytest.mark.parametrize("more", [{"by": "Jane Doe"}, {"reason": "because Jane Doe asked"}])
def test_neither_role_nor_reason_can_name_a_person(lake: Lake, more: dict[str, str]) -> None:
    with pytest.raises(BackupError, match="role and a reason code") as refused:
        erase(lake, WHO, **more)
    assert "Jane" not in str(refused.value)


def test_the_command_takes_keys_from_standard_input(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rempart.flows.shared.platform.open_platform", lambda: lake.platform)
    command = ["pipeline", "erase", "hotel_bookings", "--file", "-"]
    first = CliRunner().invoke(app, command, input=f"{WHO}\n")
    assert first.exit_code == 0 and "Nothing was changed" in first.output and lake.holders(WHO)
    unsaid = CliRunner().invoke(app, [*command, "--yes"], input=f"{WHO}\n")
    assert isinstance(unsaid.exception, BackupError) and lake.holders(WHO)
    message = ["--yes", "--role", "data-protection-officer", "--reason", "objection"]
    second_ = CliRunner().invoke(app, [*command, *message], input=f"{WHO}\n")
    assert second_.exit_code == 0 and lake.holders(WHO) == [] and str(WHO) not in first.output + second_.output
    assert CliRunner().invoke(app, ["pipeline", "erase", "--again"]).exit_code == 0


def test_a_failover_takes_the_register_along(lake: Lake) -> None:
    """What is asked is the ledger, so a delivery at the other site does not bring anybody back either."""
    erase(lake, WHO)
    lake.replicate()
    config = lake.platform.config.model_copy(update={"active_site": "haven"})
    moved = Lake(replace(lake.platform, config=config))
    result = moved.take_in("again", ROWS[2:6])
    assert result.quarantined == 4 and moved.holders(WHO) == []


def test_an_erased_row_is_not_taken_in_again_from_quarantine_of_whichever_attempt(lake: Lake) -> None:
    names = HEADER.split(",")

    def turned(line: str, **values: str) -> str:
        cells = line.split(",")
        for name, value in values.items():
            cells[names.index(name)] = value
        return ",".join(reversed(cells))

    victim, other, good = ROWS[20:23]
    lines = [turned(HEADER), turned(victim, adults="0"), turned(other, adults="0"), turned(good), ""]
    lake.take_in("three", "\n".join(lines).encode())
    (told,) = lake.platform.ledger.find("deliveries")[0].body["deliveries"]
    sha = told["sha256"]
    rules = [
        expectation.model_copy(update={"reason": f"{expectation.reason}, or so"})
        for expectation in lake.pipeline.expectations
    ]
    reingest(lake.platform, lake.pipeline.model_copy(update={"expectations": rules}), sha)
    assert lake.site("primary").head(lake.bucket, f"quarantine/hotel_bookings/{sha}-1.parquet")
    lake.replicate()
    assert not erase(lake, id_of(victim)).pending and lake.holders(id_of(victim)) == []
    key = age.new_identity()
    shown = look(lake.platform, lake.pipeline, sha, key.recipient, by=None)
    assert (shown.rows, shown.shown) == (1, 1)
    before = current(lake).rows
    result = reingest(lake.platform, lake.pipeline.model_copy(update={"expectations": []}), sha)
    assert result.total_rows == before + 1 and result.quarantined == 0
    assert (
        id_of(other) in snapshots.load_table(lake.site("primary"), lake.bucket, current(lake))["booking_id"].to_pylist()
    )
    assert lake.holders(id_of(victim)) == []
