"""Point-in-time recovery on servers of the test's own: to a chosen second, after kills, losses and forgeries."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import pytest
import yaml
from typer.testing import CliRunner

from rempart.backup.keys import age
from rempart.backup.pitr import recovery, wal, wal_store
from rempart.backup.pitr.wal import Archive
from rempart.cli import app
from rempart.errors import BackupError, ConfigError, IntegrityError, KeyWrong
from rempart.flows.pitr import point_in_time, restore_to_moment
from rempart.flows.pitr.restore_to_moment import SiteArchives
from rempart.flows.shared.keys import new_recipient, open_keyring
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.repositories import repository_of
from rempart.settings.config import load
from rempart.settings.sections import PointInTime
from rempart.sites.port import Site
from tests.integration.own_servers import ROOT, Servers, own_servers

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class World:
    """Servers whose WAL is archived every second, and the file of an escrow identity."""

    servers: Servers
    platform: Platform
    escrow: Path

    @property
    def site(self) -> Site:
        return self.platform.sites["haven"]

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        """Each statement is a transaction of its own; the rows of the last."""
        url = dataclasses.replace(self.servers.superuser, schema="mlflow").postgresql_url()
        with psycopg.connect(url, autocommit=True) as session:
            for statement in statements:
                cursor = session.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def next_second(self) -> datetime:
        """Wait for a full second of the server's clock, and give it."""
        self.sql("SELECT pg_sleep(ceil(extract(epoch FROM clock_timestamp())) - extract(epoch FROM clock_timestamp()))")
        return datetime.now(UTC).replace(microsecond=0)

    def found(self) -> SiteArchives:
        return restore_to_moment.find(self.platform, "", age.read_identity_file(self.escrow))

    def reach(self) -> datetime | None:
        """Until when the archive goes; None before it can recover anything."""
        spans = [span for archive in self.found().opened for span in recovery.spans(archive.held())]
        return spans[-1].end if spans else None

    @contextmanager
    def archiver(self) -> Iterator[subprocess.Popen[bytes]]:
        stack = self.servers.stack
        place = {"REMPART_HOME": stack.root, "REMPART_VAR": stack.var, "REMPART_PORT_OFFSET": stack.offset}
        environment = os.environ | {name: str(value) for name, value in place.items()}
        command = [sys.executable, "-m", "rempart.cli", "run", "wal-archive"]
        with (stack.logs / "wal-archive.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, cwd=stack.root, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(240)


def wait_for(look: Callable[[], T], seconds: float = 240) -> T:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("pitr")
    escrow = root / "escrow.key"
    plain = yaml.safe_load((ROOT / "rempart.yaml").read_text())
    plain["backup"] |= {"recipients": [new_recipient(escrow, datetime.now(UTC))], "point_in_time": {"wal_every": "1s"}}
    (root / "rempart.yaml").write_text(yaml.safe_dump(plain))
    (root / "include").symlink_to(ROOT / "include")
    with (
        pytest.MonkeyPatch.context() as patch,
        own_servers(root / "var", ("postgresql", "site-primary", "site-haven"), root) as running,
    ):
        patch.setenv("REMPART_HOME", str(root))
        patch.setenv("REMPART_VAR", str(root / "var"))
        platform = Platform(load(root / "rempart.yaml"), running.connections)
        for name in ("primary", "haven"):
            platform.site(name, "personal").ensure_bucket("backups", versioned=True, locked=True)
        yield World(running, platform, escrow)


@pytest.fixture(scope="module")
def seconds(world: World) -> tuple[datetime, datetime, datetime]:
    """Three seconds, before each of which a row was committed; the archiver was killed between the first two."""
    world.sql("CREATE TABLE known (n int)")
    with world.archiver() as first:
        wait_for(world.reach)
        world.sql("INSERT INTO known VALUES (1)")
        before_the_kill = world.next_second()
        children = psutil.Process(first.pid).children(recursive=True)
        for process in (psutil.Process(first.pid), *children):
            with suppress(psutil.NoSuchProcess):  # its own children come and go
                process.send_signal(signal.SIGKILL)
        world.sql("INSERT INTO known VALUES (2)", "SELECT pg_switch_wal()")
        after_the_kill = world.next_second()
    world.sql("INSERT INTO known VALUES (3)")
    last = world.next_second()
    with world.archiver():
        world.sql("CREATE TABLE later (n int)")
        wait_for(lambda: (found := world.reach()) and found > last)
    return before_the_kill, after_the_kill, last


@pytest.mark.full
def test_x1_an_archiver_killed_in_the_middle_loses_no_second(
    world: World, seconds: tuple[datetime, ...], tmp_path: Path
) -> None:
    found, folder = world.found(), tmp_path / "copy"
    done = restore_to_moment.restore(found, restore_to_moment.plan(found, seconds[1]), folder)
    assert done.rows["mlflow"] == (1, 2)
    assert done.last_commit and done.last_commit <= seconds[1] and done.timeline == 2
    left = {"recovery.signal", "postmaster.pid", "backup_label"} & {path.name for path in folder.iterdir()}
    assert (folder / "PG_VERSION").exists() and not left


def test_a_dry_run_fetches_nothing_and_the_command_recovers_with_the_escrow_file_alone(
    world: World, seconds: tuple[datetime, ...], tmp_path: Path
) -> None:
    run, folder = CliRunner(), tmp_path / "copy"
    arguments = ["pitr", "restore", "--to", str(folder), "--identity", str(world.escrow)]
    shown = run.invoke(app, [*arguments, "--until", seconds[0].isoformat()], catch_exceptions=False).output
    assert "Nothing was fetched" in shown and not folder.exists()
    done = run.invoke(app, [*arguments, "--until", seconds[0].isoformat(), "--yes"], catch_exceptions=False).output
    assert "database mlflow: 1 table, 1 row" in done
    status = run.invoke(app, ["pitr", "status", "--identity", str(world.escrow)], catch_exceptions=False).output
    assert "1 base backups" in status and "GAP" not in status
    with pytest.raises(ConfigError, match="not empty"):
        run.invoke(app, [*arguments, "--until", "latest", "--yes"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="time zone"):
        run.invoke(app, [*arguments, "--until", "2026-11-25 18:00:00"], catch_exceptions=False)


def test_a_missing_segment_and_moments_outside_are_refused_by_name(world: World, seconds: tuple[datetime, ...]) -> None:
    found = world.found()
    with pytest.raises(BackupError, match="before the archive's first base backup"):
        restore_to_moment.plan(found, seconds[0] - timedelta(days=1))
    with pytest.raises(BackupError, match="not before the last commit") as late:
        restore_to_moment.plan(found, datetime.now(UTC))
    assert "latest" in late.value.hint
    route = restore_to_moment.plan(found, seconds[1]).route
    lost = route.segments[-2]
    opened = found.opened[0]
    left = tuple(file for file in opened.files if file.entry != lost.entry)
    holed = dataclasses.replace(found, opened=(dataclasses.replace(opened, files=left),))
    with pytest.raises(BackupError, match=f"WAL segment {lost.name}, which is needed .* is missing"):
        restore_to_moment.plan(holed, seconds[2])
    assert any(f"GAP: WAL segment {lost.name}" in line for line in restore_to_moment.status(holed, datetime.now(UTC)))


def test_k2_what_somebody_puts_in_place_of_a_segment_is_not_believed(
    world: World, seconds: tuple[datetime, ...], tmp_path: Path
) -> None:
    found = world.found()
    opened = found.opened[0]
    stored = next(file for file in opened.files if wal.is_segment(file.entry.name))
    forged = world.site.write("backups", stored.entry.key, age.encrypt(b"forged", [opened.key.recipient]))
    [now] = wal_store.listed(world.site, "backups", stored.entry.key)
    wal_store.open_entry(world.site, "backups", opened.key, now, tmp_path / "segment")
    assert (tmp_path / "segment").stat().st_size == 16 << 20
    only = dataclasses.replace(now, versions=(now.versions[0],))
    assert only.versions[0].version_id == forged.version_id
    with pytest.raises(IntegrityError, match=stored.entry.name):
        wal_store.open_entry(world.site, "backups", opened.key, only, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_k1_another_identity_opens_nothing(world: World, seconds: tuple[datetime, ...], tmp_path: Path) -> None:
    new_recipient(tmp_path / "stranger.key", datetime.now(UTC))
    with pytest.raises(KeyWrong):
        restore_to_moment.find(world.platform, "", age.read_identity_file(tmp_path / "stranger.key"))


def test_k3_pruning_keeps_the_window_and_meets_locks_calmly(world: World, seconds: tuple[datetime, ...]) -> None:
    ring, bucket = open_keyring(world.platform), "backups"
    opened = world.found().opened[0]
    before = wal_store.listed(world.site, bucket)
    settings, now = point_in_time.settings_of(world.platform.config), datetime.now(UTC)

    def prune(settings: PointInTime | None, now: datetime, live: Archive | None, dry_run: bool) -> point_in_time.Pruned:
        return point_in_time.prune(
            world.platform.ledger, ring, world.site, bucket, settings, now, live, dry_run=dry_run
        )

    first = prune(settings, now, opened.archive, False)
    assert (first.bases, first.files) == (0, 0) and first.retained < len(before) / 2  # what came before the base
    year = now + timedelta(days=365)
    later = prune(settings, year, opened.archive, True)
    assert (later.bases, later.files) == (0, first.retained)  # the newest base stays, and all WAL since
    gone = prune(None, now + timedelta(days=7, hours=1), None, False)  # how long locks are is not known then
    assert (gone.bases, gone.files, gone.retained) == (0, 0, len(before))
    assert gone.retained_until and gone.retained_until > datetime.now(UTC) + timedelta(days=7)
    repository = repository_of(world.platform.config, world.platform.connections, "haven", opened.key)
    assert point_in_time.forget_bases(world.site, bucket, repository, opened.key, year) == 0
    assert len(wal_store.listed(world.site, bucket)) == len(before)
