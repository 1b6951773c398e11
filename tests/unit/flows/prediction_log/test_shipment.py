"""A shipment killed at any step stores each entry once; erasure and retention leave nothing of what they take."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import ConnectionMissing, ErasedMeanwhile, IntegrityError, PipelineError, ServingError
from rempart.flows.erasure import erase_descendant_logs
from rempart.flows.prediction_log import files, keys, retention, sealed_values, shipment
from rempart.flows.prediction_log.run import run
from rempart.flows.shared import erasures
from rempart.ledger.memory import MemoryLedger
from rempart.serving import frames, hour_files, records, segments
from rempart.serving.entries import PredictionEntry
from rempart.settings.pipeline import ModelPipeline
from tests.erasable import NOW, Lake, in_two_memories
from tests.logged import AT, Killed, entry, journal, killed_at, written
from tests.memory_site import MemorySite
from tests.unit.flows.erasure.booked import erase, without_features

NAME = "hotel_bookings"


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Lake:
    without_features(monkeypatch)
    return in_two_memories()


def log(lake: Lake, root: Path, *entries: PredictionEntry) -> None:
    """Write entries as the scorer does."""
    keys.make(lake.platform, model(lake))
    written(journal(lake.platform, model(lake), root), entries)


def model(lake: Lake) -> ModelPipeline:
    assert isinstance(lake.pipeline, ModelPipeline)
    return lake.pipeline


def rows(lake: Lake) -> list[dict[str, Any]]:
    """The entries of the log in the lake, by id: of an hour's files, the hash decides which is read first."""
    site, ledger = lake.site("primary"), lake.platform.ledger
    since, until = AT - timedelta(hours=2), AT + timedelta(days=10)
    tables = files.entries(ledger, site, lake.bucket, NAME, since, until)
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: str(row["id"]))


def test_entries_are_shipped_sealed_and_their_files_are_evidence(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, *map(entry, range(5)), entry(5, inputs={"adults": 1}))
    assert run(lake.platform, tmp_path) == {"entries": 6, "expired_files": 0}
    found = rows(lake)
    assert [row["id"] for row in found] == [entry(number).id for number in range(6)]
    assert [row["prediction"] for row in found] == [80.0 + number for number in range(6)]
    assert all(row["inputs"] is None and row["features"] is None and row["features_hash"] for row in found)
    assert len({row["subject"] for row in found}) == 6 and found[5]["subject"] is None
    scope_key = keys.opener(lake.platform)(found[2]["key"])
    body = sealed_values.opened(scope_key, NAME, found[2]["id"], found[2]["sealed"], "entry")
    opened = records.values_of(body)
    assert (opened.inputs, opened.features) == (entry(2).inputs, entry(2).features)
    for sealed, id_ in ((found[3]["sealed"], found[2]["id"]), (found[2]["sealed"][:-1], found[2]["id"]), (b"", "a")):
        with pytest.raises(IntegrityError, match="altered, or are of another entry"):
            sealed_values.opened(scope_key, NAME, id_, sealed, "entry")
    stored = [info.key for info in lake.site("primary").list(lake.bucket, hour_files.ROOT)]
    bodies = [lake.site("primary").read(lake.bucket, key) for key in stored]
    assert not any(b"CANARY" in body for body in bodies)
    (told,) = [record.body for record in lake.platform.ledger.find("prediction-log", NAME) if "objects" in record.body]
    assert sorted(each["key"] for each in told["objects"]) == stored and told["entries"] == 6
    assert segments.all_in(tmp_path / NAME) == [] and run(lake.platform, tmp_path)["entries"] == 0


def test_values_of_a_public_pipeline_are_in_the_clear(lake: Lake, tmp_path: Path) -> None:
    shown = model(lake).model_copy(update={"classification": "internal"})
    written(journal(lake.platform, shown, tmp_path), [entry(1)])
    shipment.ship(lake.platform, tmp_path / NAME)
    (row,) = rows(lake)
    assert json.loads(row["inputs"])["agent"] == "CANARY-agent" and row["sealed"] is None and row["subject"]


def test_an_entry_counts_once_however_often_it_is_written(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, entry(1), entry(2))
    log(lake, tmp_path, entry(1))
    first = shipment.ship(lake.platform, tmp_path / NAME)
    assert (first.entries, first.doubled) == (2, 1)
    log(lake, tmp_path, entry(2), entry(3))
    second = shipment.ship(lake.platform, tmp_path / NAME)
    assert (second.entries, second.doubled) == (1, 1)
    assert sorted(row["id"] for row in rows(lake)) == [entry(number).id for number in (1, 2, 3)]


def test_killed_at_any_step_nothing_is_lost_or_doubled(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(number: int) -> PredictionEntry:
        return entry(number, AT + timedelta(minutes=30 * number))  # hours of their own, so steps do not grow

    log(lake, tmp_path, at(0))
    shipment.ship(lake.platform, tmp_path / NAME)  # keys exist: what follows is the shipment itself
    number, step, ended = 1, 0, False
    while not ended:
        step += 1
        log(lake, tmp_path, at(number), at(number + 1))
        log(lake, tmp_path, at(number + 2), at(number + 3))
        with monkeypatch.context() as broken, suppress(Killed):
            count = killed_at(step, broken, MemorySite, MemoryLedger)
            shipment.ship(lake.platform, tmp_path / NAME)
        ended = count() < step
        log(lake, tmp_path, at(number + 4))  # another segment is closed meanwhile
        number += 5
        shipment.ship(lake.platform, tmp_path / NAME)
        assert segments.all_in(tmp_path / NAME) == [] and not list((tmp_path / NAME).glob(".batch*"))
    assert step > 15
    assert sorted(row["id"] for row in rows(lake)) == sorted(at(n).id for n in range(number))
    site, ledger = lake.site("primary"), lake.platform.ledger
    listed = [info.key for info in site.list(lake.bucket, hour_files.ROOT)]
    assert files.on_record(ledger, lake.bucket, NAME, listed) == set(listed)


def test_a_file_that_no_evidence_names_hides_no_entry(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, entry(1), entry(2))
    shipment.ship(lake.platform, tmp_path / NAME)
    site = lake.site("primary")
    (key,) = [info.key for info in site.list(lake.bucket, hour_files.ROOT) if "hour=10" in info.key]
    body = site.read(lake.bucket, key)
    site.write(lake.bucket, key.replace("hour=10", "hour=11"), body)
    assert len(rows(lake)) == 2
    site.write(lake.bucket, key, body + b"x")
    with pytest.raises(IntegrityError, match="differs from its evidence"):
        rows(lake)


def test_an_erased_subject_is_in_no_file_and_is_not_shipped_later(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, *map(entry, (1, 2, 3)))
    shipment.ship(lake.platform, tmp_path / NAME)
    lake.replicate()
    log(lake, tmp_path, entry(1, AT + timedelta(minutes=30)), entry(4))  # not shipped yet
    assert erase(lake, 1, dry_run=True).found == {
        f"prediction log at site '{site}' (1 object and old versions)": 1 for site in ("primary", "haven")
    }
    done = erase(lake, 1)
    assert not done.pending and done.rewritten == 1
    assert [row["id"] for row in rows(lake)] == [entry(number).id for number in (2, 3)]
    for name in ("primary", "haven"):
        versions = [info for info in lake.site(name).versions(lake.bucket, hour_files.ROOT) if not info.marker]
        bodies = [lake.site(name).read(lake.bucket, each.key, version_id=each.version_id) for each in versions]
        assert entry(1).id not in [of for body in bodies for of in hour_files.read(body)["id"].to_pylist()]
    shipped = shipment.ship(lake.platform, tmp_path / NAME)
    assert (shipped.entries, shipped.erased) == (1, 1)
    assert [row["id"] for row in rows(lake)] == [entry(number).id for number in (2, 3, 4)]


def test_an_erasure_finds_subjects_that_were_hashed_with_a_former_key(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, entry(1), entry(2))
    shipment.ship(lake.platform, tmp_path / NAME)
    keep = lake.platform.config.backup.keep.model_copy(update={"monthly": 30})
    backup = lake.platform.config.backup.model_copy(update={"keep": keep})
    lake.platform = replace(lake.platform, config=lake.platform.config.model_copy(update={"backup": backup}))
    assert not erase(lake, 1).pending
    assert [row["id"] for row in rows(lake)] == [entry(2).id]


def test_a_shipment_during_an_erasure_commits_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(lake, tmp_path, entry(1), entry(2))
    real = MemorySite.read

    def meanwhile(self: MemorySite, bucket: str, key: str, **more: Any) -> bytes:
        body = real(self, bucket, key, **more)
        if key.startswith(hour_files.ROOT) and not erasures.on_record(lake.platform.ledger):
            erase(lake, 1)
        return body

    monkeypatch.setattr(MemorySite, "read", meanwhile)
    with pytest.raises(ErasedMeanwhile):
        shipment.ship(lake.platform, tmp_path / NAME)
    assert shipment.ship(lake.platform, tmp_path / NAME).erased == 1
    assert [row["id"] for row in rows(lake)] == [entry(2).id]


def test_entries_from_before_an_erasure_in_a_source_are_shipped_without_inputs_and_features(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = lake.platform.ledger
    log(lake, tmp_path, entry(0), entry(60))
    told = {"state": erase_descendant_logs.STATE, "before": entry(30).at.isoformat(), "erasures": []}

    def erased(*given: Any) -> None:
        check_same(*given)
        ledger.append("erasure", NAME, told)

    check_same = erasures.check_same
    with monkeypatch.context() as patch:
        patch.setattr(erasures, "check_same", erased)
        with pytest.raises(ErasedMeanwhile, match="while its prediction log was shipped"):
            shipment.ship(lake.platform, tmp_path / NAME)
    assert rows(lake) == []
    assert shipment.ship(lake.platform, tmp_path / NAME).entries == 2
    found = rows(lake)
    assert [row["prediction"] for row in found] == [80.0, 140.0]
    assert [row["sealed"] is None for row in found] == [True, False]


def test_old_entries_go_at_every_site_once_a_day(lake: Lake, tmp_path: Path) -> None:
    old = NOW - timedelta(days=184, hours=2)
    log(lake, tmp_path, entry(1, old), entry(2))
    shipment.ship(lake.platform, tmp_path / NAME)
    lake.replicate()
    done = retention.expire(lake.platform, model(lake))
    assert done and (done.files, done.versions, done.pending) == (1, 2, {})
    for site in ("primary", "haven"):
        left = [info.key for info in lake.site(site).versions(lake.bucket, hour_files.ROOT)]
        assert [hour_files.hour_of(key) for key in left] == [AT.replace(hour=11, minute=0)]
    told = [record.body["state"] for record in lake.platform.ledger.find("prediction-log", NAME)]
    assert told == ["expired", "expiring", "shipped"]
    assert retention.expire(lake.platform, model(lake)) is None
    tomorrow = replace(lake.platform, clock=lambda: NOW + timedelta(days=1))
    assert (again := retention.expire(tomorrow, model(lake))) and again.files == 0


def test_a_damaged_segment_is_set_aside_and_its_other_entries_are_shipped(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, *map(entry, range(3)))
    (file,) = segments.all_in(tmp_path / NAME)
    body = bytearray(file.read_bytes())
    body[len(body) // 2] ^= 1
    file.write_bytes(bytes(body) + frames.MARK)
    done = shipment.ship(lake.platform, tmp_path / NAME)
    assert (done.entries, done.aside, done.torn) == (2, 1, 4)
    assert [each.name for each in (tmp_path / NAME / "damaged").iterdir()] == [file.name]


def test_sealed_entries_of_a_destroyed_key_stay_without_what_it_sealed(lake: Lake, tmp_path: Path) -> None:
    from rempart.flows.shared.keys import destroy, open_keyring

    log(lake, tmp_path, entry(1))
    scope = keys.scope_of(model(lake))
    destroy(lake.platform.ledger, open_keyring(lake.platform), scope.id, dry_run=False)
    done = shipment.ship(lake.platform, tmp_path / NAME)
    assert (done.entries, done.unread) == (1, 1)
    (row,) = rows(lake)
    assert (row["subject"], row["prediction"]) == (None, 81.0)
    keys.make(lake.platform, model(lake))
    key = keys.public_key(lake.platform.ledger, model(lake))
    assert key is not None and key[0].endswith(" 0002")


def test_a_process_without_the_platforms_key_seals_and_cannot_read(lake: Lake, tmp_path: Path) -> None:
    def without_key(name: str) -> Any:
        if name == "backup_key":
            raise ConnectionMissing("no key here", "None is needed.")
        return lake.platform.connections(name)

    scorer = replace(lake.platform, connections=without_key)
    keys.make_folder(model(lake), tmp_path / NAME)
    assert keys.public_key(scorer.ledger, model(lake)) is None
    with pytest.raises(ConnectionMissing):
        keys.make(scorer, model(lake))
    shipment.ship(lake.platform, tmp_path / NAME)  # makes it
    written(journal(scorer, model(lake), tmp_path), [entry(1)])
    assert shipment.ship(lake.platform, tmp_path / NAME).entries == 1


def test_one_pipeline_that_fails_does_not_stop_the_others(lake: Lake, tmp_path: Path) -> None:
    log(lake, tmp_path, entry(1))
    (tmp_path / "aaa_unknown").mkdir()
    (tmp_path / "bbb_unreadable" / ".shipping").mkdir(parents=True)
    with pytest.raises(ServingError, match="ship the prediction log of aaa_unknown, bbb_unreadable"):
        run(lake.platform, tmp_path)
    assert len(rows(lake)) == 1


def test_what_a_removed_pipeline_left_is_deleted_and_nothing_else(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(lake, tmp_path, entry(1))
    with monkeypatch.context() as changed:
        changed.setattr(shipment.pipelines, "names", list)
        changed.setattr(shipment.pipelines, "named", failing)
        with pytest.raises(ServingError, match="no such file"):  # deleted by hand
            run(lake.platform, tmp_path)
        assert len(segments.all_in(tmp_path / NAME)) == 1
        lake.platform.ledger.append("removal", NAME, {"id": "a", "what": "remove", "state": "ended"})
        segments.set_aside(segments.all_in(tmp_path / NAME)[0])  # it has values of persons, too
        assert run(lake.platform, tmp_path)["entries"] == 0
    assert segments.all_in(tmp_path / NAME) == segments.set_aside_in(tmp_path / NAME) == []
    assert "discarded" in [record.body["state"] for record in lake.platform.ledger.find("prediction-log", NAME)]


def test_entries_of_a_removed_pipeline_are_not_those_of_a_new_one_with_its_name(lake: Lake, tmp_path: Path) -> None:
    removed = lake.platform.ledger.append("removal", NAME, {"id": "a", "what": "remove", "state": "ended"})
    log(lake, tmp_path, entry(1, removed.at - timedelta(seconds=1)), entry(2))
    done = shipment.ship(lake.platform, tmp_path / NAME)
    assert (done.entries, done.erased) == (1, 1) and [row["id"] for row in rows(lake)] == [entry(2).id]
    assert segments.all_in(tmp_path / NAME) == []


def failing(name: str) -> ModelPipeline:
    raise PipelineError(f"{name}: no such file", "Write it.")


def test_a_key_has_one_form_however_a_program_wrote_it(lake: Lake) -> None:
    given = [{"booking_id": value} for value in (7, 7.0, "7", None)] + [{}]
    found = shipment.keys_of(model(lake), given)
    assert found[0] == found[1] == found[2] is not None and found[3:] == [None, None]
