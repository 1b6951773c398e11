"""The archiver's steps: closed segments are sent, failures are kept and logged once, and a folder has one archiver."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.backup.databases.postgresql import Tools
from rempart.backup.databases.restic import Repository
from rempart.backup.keys import age
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.pitr import receiver, recovery, wal, wal_store
from rempart.backup.pitr.wal import Base, Segment
from rempart.errors import BackupError, ConfigError, SiteUnavailable
from rempart.flows.pitr import point_in_time, wal_archive
from rempart.flows.pitr.point_in_time import ArchiveTarget
from rempart.flows.pitr.wal_archive import Archiver
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import Connection, load
from rempart.settings.sections import PointInTime
from tests.memory_site import MemorySite
from tests.switchovers import ROOT

SYSTEM, COMMIT = "77", datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def archiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archiver:
    """One whose server is not there: files stand for what pg_receivewal wrote."""
    monkeypatch.setattr(receiver, "last_commit", lambda tools, file: COMMIT)
    config = load(ROOT / "rempart.yaml")
    settings = PointInTime()
    backup = config.backup.model_copy(update={"point_in_time": settings})
    platform = Platform(config.model_copy(update={"backup": backup}), lambda name: pytest.fail(name))
    site = MemorySite("haven")
    site.ensure_bucket("backups", versioned=True, locked=True)
    key = ScopeKey(wal.scope_of(settings.keep), "0001", age.new_identity(), "restic", b"k" * 32, True)
    made = Archiver(platform, tmp_path / "wal", threading.Event(), Tools(tmp_path))
    server = Connection("pg_wal_archive", "postgres")
    repository = Repository("haven", server, "fr-par", "backups", "repositories/wal", "restic", tmp_path / "restic")
    made._target = ArchiveTarget(site, "backups", key, settings, MemoryLedger(), repository, server)
    made._system = SYSTEM
    return made


def received(archiver: Archiver, *names: str) -> Path:
    folder = archiver.folder / SYSTEM
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


BASE = Base(SYSTEM, 1, 7 << 24, (7 << 24) + 1, COMMIT, COMMIT, "snapshot", 1, 16 << 20, "18.1")
SEGMENTS = [wal.segment_name(1, number, 16 << 20) for number in (7, 8)]


def test_what_is_closed_leaves_in_order_and_what_is_half_received_stays(archiver: Archiver) -> None:
    folder = received(archiver, *reversed(SEGMENTS), f"{SEGMENTS[1]}.partial", "00000001.history")
    assert [path.name for path in archiver._closed()] == ["00000001.history", *SEGMENTS]
    archiver._ship()
    assert [path.name for path in folder.iterdir()] == [f"{SEGMENTS[1]}.partial"]
    target = archiver._target
    assert target is not None
    stored = wal_store.listed(target.site, "backups")
    assert [stored_segment.entry.name for stored_segment in stored] == ["00000001.history", *SEGMENTS]
    assert [stored_segment.entry.moment for stored_segment in stored] == [None, COMMIT, COMMIT]
    held = target.site.retained_until("backups", stored[1].entry.key, str(stored[1].versions[0].version_id))
    assert held and abs(held - datetime.now(UTC) - timedelta(days=8)) < timedelta(minutes=1)


def test_x1_killed_between_the_site_and_the_disk_it_is_sent_again(
    archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = received(archiver, SEGMENTS[0])

    class Killed(BaseException):
        pass

    def dies(path: Path, *, missing_ok: bool = False) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", dies)
        archiver._ship()
    assert [path.name for path in folder.iterdir()] == [SEGMENTS[0]]
    archiver._ship()
    assert not list(folder.iterdir())


def test_a_site_that_refuses_loses_nothing_and_is_told_once(
    archiver: Archiver, caplog: pytest.LogCaptureFixture
) -> None:
    target = archiver._target
    assert target is not None
    folder = received(archiver, *SEGMENTS)
    target.site._locking.clear()  # type: ignore[attr-defined] # a site in memory
    for _ in range(2):
        archiver._next.clear()
        archiver._ship()
    assert len(list(folder.iterdir())) == 2 and len(caplog.messages) == 1 and "no locks" in caplog.text
    target.site.ensure_bucket("backups", versioned=True)
    target.site._locking.add("backups")  # type: ignore[attr-defined]
    archiver._next.clear()
    archiver._ship()
    assert not list(folder.iterdir())


def test_a_silent_site_that_holds_the_keys_too_keeps_no_segment_back(
    archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are read at both sites. While one takes the question and is silent, the archive's own site gets all."""
    target, answers, asked = archiver._target, threading.Event(), list[str]()
    assert target is not None

    def open_target(platform: Platform) -> ArchiveTarget:
        asked.append("asked")
        answers.wait()
        return target

    monkeypatch.setattr(point_in_time, "open_target", open_target)
    monkeypatch.setattr(wal_archive, "PRESENT_SECONDS", 0.0)
    server = receiver.Server(SYSTEM, 1, 16 << 20, "17", COMMIT, "reserved", 0, True)
    folder = received(archiver, *SEGMENTS)
    archiver._open(server)
    archiver._open(server)
    archiver._ship()
    assert asked == ["asked"] and not list(folder.iterdir())
    answers.set()
    assert archiver._asked is not None and archiver._asked.result(60) is target
    archiver._open(server)
    assert archiver._asked is None and archiver._target is target


def test_two_archivers_do_not_work_in_one_folder(archiver: Archiver) -> None:
    with archiver._alone(), pytest.raises(BackupError, match="Another archiver"), archiver._alone():
        pass


def test_where_it_is_off_nothing_starts(tmp_path: Path) -> None:
    off = Platform(load(ROOT / "rempart.yaml"), lambda name: pytest.fail(name))
    with pytest.raises(ConfigError, match="point_in_time"):
        Archiver(off, tmp_path, threading.Event(), Tools(tmp_path)).run()


def test_a_gap_in_the_archive_of_a_site_is_closed_by_a_base_backup(
    archiver: Archiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Segments 8 and 9 went to another site, during a failover."""
    archiver._bases, archiver._after, archiver._timeline = [BASE], recovery.continues_at([BASE], []), 1
    received(archiver, SEGMENTS[0])
    archiver._ship()
    assert archiver._bases == [BASE] and archiver._after == 8 and not caplog.messages
    received(archiver, wal.segment_name(1, 10, 16 << 20))
    archiver._next["base"] = float("inf")
    archiver._ship()
    assert archiver._bases == [] and "a gap of 2 segments" in caplog.text
    assert archiver._due("base", timedelta(0)) and recovery.base_is_due(archiver._bases, 1, timedelta(days=1), COMMIT)
    received(archiver, wal.segment_name(1, 11, 16 << 20))
    archiver._ship()
    assert len(caplog.messages) == 1


def test_an_archive_continues_after_its_newest_base_backup_or_at_its_gap() -> None:
    held = [Segment(1, number, COMMIT, None) for number in (5, 7, 8, 10)]  # type: ignore[arg-type] # no entry is read
    assert recovery.continues_at([BASE], held) == 9
    assert recovery.continues_at([BASE], held[:1]) == 7
    assert recovery.continues_at([], held) == 11
    assert recovery.continues_at([], []) is None
    left = [Segment(9, number, COMMIT, None) for number in (7, 8, 9, 10)]  # type: ignore[arg-type]
    assert recovery.continues_at([BASE], [*held, *left]) == 9, "segments of another timeline fill no gap"


def test_a_new_timeline_is_no_gap_and_has_gaps_of_its_own(archiver: Archiver) -> None:
    """A recovery went back from segment 80 to 10, and segments 11 and 12 went to another site."""
    archiver._bases, archiver._after, archiver._timeline = [BASE], 81, 1
    received(archiver, wal.segment_name(2, 10, 16 << 20))
    archiver._ship()
    assert archiver._bases == [BASE] and (archiver._after, archiver._timeline) == (11, 2)
    received(archiver, wal.segment_name(2, 13, 16 << 20))
    archiver._ship()
    assert archiver._bases == []


def test_a_base_backup_at_the_site_before_is_none_of_the_site_now(
    archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = archiver._target
    assert before is not None
    server = receiver.Server(SYSTEM, 1, 16 << 20, "17", COMMIT, "reserved", 0, True)

    def fails_over(target: ArchiveTarget, *_: object) -> Base:
        if target is before:
            archiver._target = replace(target, site=MemorySite("primary"))
        return BASE

    monkeypatch.setattr(point_in_time, "take_base", fails_over)
    archiver._take_base(before, server)
    assert archiver._bases == []
    assert archiver._target is not None
    archiver._take_base(archiver._target, server)
    assert archiver._bases == [BASE]


def test_a_new_site_whose_list_fails_gets_a_base_backup_not_those_of_the_site_before(
    archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = archiver._target
    assert before is not None
    after = replace(before, site=MemorySite("primary"))
    archiver._bases, archiver._after, archiver._timeline = [BASE], 9, 1
    monkeypatch.setattr(point_in_time, "open_target", lambda platform: after)

    def silent(*_: object) -> None:
        raise SiteUnavailable("list: no answer", "x")

    monkeypatch.setattr(wal_store, "listed", silent)
    server = receiver.Server(SYSTEM, 1, 16 << 20, "17", COMMIT, "reserved", 0, True)
    with pytest.raises(SiteUnavailable):
        archiver._open(server)
    assert archiver._target is after and recovery.base_is_due(archiver._bases, 1, timedelta(days=1), COMMIT)
