"""An archive of WAL at a site in memory: objects that a prune deletes, the status, and refused requests."""

from __future__ import annotations

import io
import subprocess
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.pitr import wal, wal_store
from rempart.backup.pitr.wal import Archive, Base
from rempart.errors import BackupError, ConfigError, IntegrityError
from rempart.flows.pitr import point_in_time, recover_server, restore_to_moment
from rempart.flows.pitr.restore_to_moment import SiteArchives
from rempart.ledger.memory import MemoryLedger
from rempart.settings.sections import PointInTime
from tests.memory_site import MemorySite
from tests.restorable import flip

SIZE, DAY = 16 << 20, timedelta(days=1)
NOW = datetime.now(UTC)


class World:
    """An archive whose server took a base each day, numbered as its first segment, and wrote one segment a day."""

    def __init__(self) -> None:
        self.site = MemorySite("haven")
        self.site.ensure_bucket("backups", versioned=True, locked=True)
        self.ledger = MemoryLedger()
        self.ring = Keyring((KeyPlace(self.site, "backups"),), age.new_identity(), (), lambda: NOW)
        self.key = self.ring.open_or_make(wal.scope_of(7 * DAY))
        self.archive = Archive(self.key.scope.id, self.key.serial, "77")
        for number in range(30):
            self.put(wal.segment_name(1, number, SIZE), NOW + (number + 0.5) * DAY, b"wal")
        for number in (0, 10, 20):
            ended = NOW + (number + 0.1) * DAY
            start = number * SIZE + 40
            made = Base("77", 1, start, start + 99, ended, ended, f"s{number}", 1, SIZE, "18.6")
            self.put(wal.BASE, ended, wal.encode_base(made))

    def put(self, name: str, moment: datetime | None, body: bytes) -> None:
        wal_store.store(self.site, "backups", self.key, self.archive, name, moment, io.BytesIO(body), NOW - DAY)

    def prune(self, days: float, live: Archive | None, *, dry_run: bool = True) -> point_in_time.Pruned:
        now = NOW + days * DAY
        return point_in_time.prune(
            self.ledger, self.ring, self.site, "backups", PointInTime(), now, live, dry_run=dry_run
        )

    def opened(self) -> point_in_time.OpenedArchive:
        listed = wal_store.listed(self.site, "backups")
        return point_in_time.open_archive(self.site, "backups", self.archive, self.key, listed)

    def found(self) -> SiteArchives:
        return SiteArchives(
            self.site, "backups", pytest.fail, wal_store.listed(self.site, "backups"), (self.opened(),), ()
        )


@pytest.fixture
def world() -> World:
    return World()


def test_a_prune_takes_what_no_moment_of_the_window_needs_and_leaves_evidence(world: World) -> None:
    done = world.prune(29, world.archive, dry_run=False)
    assert (done.bases, done.files, done.retained) == (2, 20, 0)
    opened = world.opened()
    assert [base.snapshot for base, _ in opened.bases] == ["s20"] and len(opened.files) == 10
    [record] = world.ledger.find("prune")
    assert (record.subject, record.body["bases"], record.body["files"]) == ("wal haven", 2, 20)
    again = world.prune(29, world.archive, dry_run=False)
    assert (again.bases, again.files) == (0, 0) and len(world.ledger.find("prune")) == 1


def test_what_is_surely_locked_is_not_asked_for(world: World) -> None:
    early = world.prune(7.9, None, dry_run=False)
    assert early.retained == 33 and early.files == 0 and early.retained_until
    assert len(wal_store.listed(world.site, "backups")) == 33


def test_a_server_that_is_gone_leaves_once_its_window_is_over_and_a_live_one_never_all(world: World) -> None:
    assert world.prune(400, world.archive).bases == 2
    gone = world.prune(400, None)
    assert (gone.bases, gone.files) == (3, 30)


def test_what_a_destroyed_key_sealed_goes_and_is_told(world: World) -> None:
    world.ring.destroy(world.key.scope, dry_run=False)
    done = world.prune(9, world.archive, dry_run=False)
    assert (done.bases, done.files) == (3, 30)


@pytest.mark.parametrize("older", [False, True])
def test_x7_an_archive_whose_key_is_damaged_stops_no_other_one_and_is_told(world: World, older: bool) -> None:
    key = world.ring.renew(world.key.scope)
    other = Archive(key.scope.id, key.serial, "11" if older else "99")
    for number in range(3):
        name = wal.segment_name(1, number, SIZE)
        wal_store.store(world.site, "backups", key, other, name, NOW, io.BytesIO(b"wal"), NOW - DAY)
    flip(world.site, "backups", f"keys/{key.scope.id}/{key.serial}.age")
    with pytest.raises((BackupError, IntegrityError), match=rf"keys/{key.scope.id}/{key.serial}\.age"):
        world.prune(29, world.archive, dry_run=False)
    [record] = world.ledger.find("prune")
    assert (record.subject, record.body["bases"], record.body["files"]) == ("wal haven", 2, 20)


def test_the_status_names_the_window_and_every_gap(world: World) -> None:
    message = "\n".join(restore_to_moment.status(world.found(), NOW + 30 * DAY))
    assert f"from {NOW + 0.1 * DAY:%Y-%m-%d %H:%M:%S} UTC to {NOW + 29.5 * DAY:%Y-%m-%d %H:%M:%S} UTC" in message
    assert "3 base backups, 30 WAL segments" in message and "GAP" not in message
    [archive] = restore_to_moment.facts(world.found())["archives"]
    [span] = archive["spans"]
    assert archive["base_backups"] == 3 and span["from"] < span["to"] and span["missing"] is None
    lost = wal.segment_name(1, 15, SIZE)
    [stored] = [
        stored_segment
        for stored_segment in wal_store.listed(world.site, "backups")
        if stored_segment.entry.name == lost
    ]
    wal_store.delete(world.site, "backups", stored, NOW)
    holed = world.found()
    assert restore_to_moment.facts(holed)["archives"][0]["spans"][0]["missing"] == lost
    assert f"GAP: WAL segment {lost} is missing" in "\n".join(restore_to_moment.status(holed, NOW + 30 * DAY))
    with pytest.raises(BackupError, match=lost):
        restore_to_moment.plan(holed, NOW + 16 * DAY)
    assert restore_to_moment.plan(holed, NOW + 25 * DAY).route.base.snapshot == "s20"
    with pytest.raises(ConfigError, match="no timeline 7"):
        restore_to_moment.plan(holed, NOW + 25 * DAY, timeline=7)
    nothing = SiteArchives(world.site, "backups", pytest.fail, (), (), ("wal/x: destroyed",))
    with pytest.raises(BackupError, match="wal/x: destroyed"):
        restore_to_moment.plan(nothing, None)


def test_moments_need_a_time_zone() -> None:
    assert restore_to_moment.parse_moment("2026-11-25T19:03:12+01:00") == datetime(2026, 11, 25, 18, 3, 12, tzinfo=UTC)
    assert restore_to_moment.parse_moment("latest") is None
    for wrong in ("2026-11-25T18:03:12", "yesterday", ""):
        with pytest.raises(ConfigError, match="time zone"):
            restore_to_moment.parse_moment(wrong)


def test_a_folder_in_use_and_another_major_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path / "var"))
    restore_to_moment.check_folder(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="not empty"):
            restore_to_moment.check_folder(used)
    with pytest.raises(ConfigError, match="own server"):
        restore_to_moment.check_folder(tmp_path / "var" / "postgresql" / "data")
    restore_to_moment.check_version("18.6 (Debian 18.6-1)", 18)
    with pytest.raises(BackupError, match="version 18"):
        restore_to_moment.check_version("17.2", 18)


def test_a_recovery_that_stands_still_is_given_up_and_one_that_moves_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover_server, "STILL_SECONDS", 0.2)
    log = tmp_path / "log"
    log.write_text("LOG:  redo starts at 0/2000028\nFATAL:  the database system is starting up\n")
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(BackupError, match="no progress for"):
                recover_server._promoted(process, tmp_path, log)
        finally:
            process.kill()
    moves = recover_server.Stillness(60.0)
    assert not any(moves.is_over(float(now), partial(int.__floordiv__, now, 50)) for now in range(0, 1000, 5))
    stands = recover_server.Stillness(10.0)
    assert [stands.is_over(float(now), lambda: "same") for now in range(0, 25, 5)] == [False] * 3 + [True] * 2
