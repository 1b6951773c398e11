"""Faults that databases in restic must survive, on the stack's real PostgreSQL and sites."""

import dataclasses
import multiprocessing
import os
import secrets
import signal
import threading
import time

import psycopg
import pytest

from rempart.backup.databases import postgresql
from rempart.backup.databases.restic import Repository
from rempart.backup.databases.stored_dumps import dump_into, restore_from
from rempart.deployment.setup import credentials, paths
from rempart.errors import (
    BackupError,
    DatabaseUnavailable,
    IntegrityError,
    RempartError,
    RepositoryMissing,
    RepositoryRefused,
)
from rempart.settings.config import read_env_file
from tests.repositories import alive, contents, scratch_database, store, wrapped

pytestmark = pytest.mark.stores
TOOLS = postgresql.find_tools()
HALF = '"$real" "$@" | head -c 500000'


def wait_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)
    return found


@pytest.mark.full
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (f"{HALF}; exit 1", "pg_dump of database"),
        (f"{HALF}; kill -9 $$", "pg_dump of database"),
        (f"{HALF}; exit 0", "read back the dump"),  # a tool that hides its failure
        ("exit 0", "nothing to store"),
    ],
    ids=["exits", "killed", "hides", "nothing"],
)
def test_d1_a_dump_that_dies_half_way_leaves_no_snapshot(
    platform, repository, filled_database, tools_with, fault, message
):
    first, _ = store(platform, repository, filled_database)
    with pytest.raises(BackupError, match=message) as refused:
        store(platform, repository, filled_database, tools=tools_with(pg_dump=fault))
    assert repository.where in refused.value.what or filled_database.schema in refused.value.what
    assert [snapshot.id for snapshot in repository.snapshots()] == [first.snapshot]


@pytest.mark.full
def test_d2_an_older_client_is_refused_before_it_dumps_and_refuses_itself(
    platform, repository, filled_database, tools_with
):
    older = tools_with(pg_dump='[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 12.22"; exit 0; }')
    with (
        postgresql.session(platform.database("backup"), "look") as session,
        pytest.raises(BackupError, match="pg_dump 12 is older than the server"),
    ):
        postgresql.check_versions(older, session)
    message = 'echo "pg_dump: error: aborting because of server version mismatch" >&2; exit 1'
    with pytest.raises(BackupError, match="aborting because of server version mismatch"):
        store(platform, repository, filled_database, tools=tools_with(pg_dump=message))
    assert repository.snapshots() == ()


@pytest.mark.full
def test_d3_a_table_that_stays_locked_ends_the_dump_in_bounded_time(platform, repository, filled_database, monkeypatch):
    monkeypatch.setattr(postgresql, "LOCK_WAIT_SECONDS", 1)
    source = postgresql.for_database(platform.database("backup"), filled_database.schema)
    with (
        postgresql.frozen(source) as (_, snapshot),
        psycopg.connect(filled_database.postgresql_url()) as holder,
    ):
        holder.execute("LOCK TABLE bookings IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="a table stayed locked for 1 s"):
            dump_into(TOOLS, repository, source, snapshot, 3)
        assert time.monotonic() - began < 120
        holder.rollback()
    assert repository.snapshots() == ()


def admin_of(platform, database):
    made = paths.current()
    admin = credentials.superuser(made, read_env_file(made.secrets))
    return psycopg.connect(postgresql.for_database(admin, database.schema).postgresql_url(), autocommit=True)


def test_d4_roles_that_are_missing_where_it_is_restored_are_not_needed(
    platform, repository, filled_database, empty_database
):
    role = f"gone_{secrets.token_hex(4)}"
    with admin_of(platform, filled_database) as session:
        session.execute(
            f"CREATE ROLE {role}; GRANT SELECT ON bookings TO {role}; ALTER TABLE empty_one OWNER TO {role}"
        )
        try:
            dump, rows = store(platform, repository, filled_database)
        finally:
            session.execute(f"REASSIGN OWNED BY {role} TO drill; DROP OWNED BY {role}; DROP ROLE {role}")
    restore_from(TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema, sha256=dump.sha256)
    with psycopg.connect(empty_database.postgresql_url()) as session:
        owners = session.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [("drill",)]
    assert contents(empty_database)[0] == rows


@pytest.mark.full
def test_d4_an_extension_that_the_server_lacks_is_named_before_anything_is_restored(
    platform, repository, empty_database, tools_with
):
    with scratch_database(platform) as source:
        with psycopg.connect(source.postgresql_url(), autocommit=True) as session:
            session.execute("CREATE EXTENSION pg_trgm; CREATE TABLE kept (id int)")
        dump, _ = store(platform, repository, source)
        # the table of contents of a server that had another one
        lines = 'case "$*" in *--list*) "$real" "$@" | sed "s/pg_trgm/timescaledb/"; exit;; esac'
        with pytest.raises(BackupError, match="lacks the extension timescaledb"):
            restore_from(
                tools_with(pg_restore=lines), repository, dump.snapshot, empty_database, database=source.schema
            )
    assert contents(empty_database) == ({}, {})


@pytest.mark.full
def test_d4_an_extension_that_only_an_administrator_may_make_is_named(platform, repository, empty_database):
    with scratch_database(platform) as source:
        with admin_of(platform, source) as session:
            session.execute("CREATE EXTENSION pageinspect")
        dump, _ = store(platform, repository, source)
        with pytest.raises(BackupError, match="may not create the extension pageinspect"):
            restore_from(TOOLS, repository, dump.snapshot, empty_database, database=source.schema)


def _store_in_child(platform, repository, database, tools):
    store(platform, repository, database, tools=tools)


def child_that_stores(platform, repository, database, tools):
    child = multiprocessing.get_context("fork").Process(
        target=_store_in_child, args=(platform, repository, database, tools)
    )
    child.start()
    return child


def no_lock_is_left(repository):
    """Remove locks of dead runs: to restic a process lives until its parent, or that of orphans, has taken note."""
    repository.unlock()
    return not repository._need(["list", "locks"]).lines


def check_that_it_converges(platform, repository, database, before):
    second, rows = store(platform, repository, database)
    repository.forget([snapshot.id for snapshot in repository.snapshots() if snapshot.id != second.snapshot])
    assert [snapshot.id for snapshot in repository.snapshots()] == [second.snapshot] != before
    repository.check(read_data=1.0)
    with scratch_database(platform) as target:
        restore_from(TOOLS, repository, second.snapshot, target, database=database.schema, sha256=second.sha256)
        assert contents(target)[0] == rows


@pytest.mark.full
def test_x1_restic_is_killed_half_way_and_the_next_run_converges(
    platform, repository, filled_database, tools_with, tmp_path
):
    first, _ = store(platform, repository, filled_database)
    pids = tmp_path / "pids"
    slow = tools_with(pg_dump=f"{HALF}; echo $PPID > {pids}.new; mv {pids}.new {pids}; sleep 60")
    child = child_that_stores(platform, repository, filled_database, slow)
    wait_for(pids.exists)
    os.kill(int(pids.read_text()), signal.SIGKILL)
    child.join(240)
    assert child.exitcode not in (0, None)
    assert [snapshot.id for snapshot in repository.snapshots()] == [first.snapshot]
    haven, locks = platform.site("haven", "personal"), f"{repository.prefix}/locks/"
    assert list(haven.list(repository.bucket, locks)), "the killed run left no lock"
    repository.init_if_missing()  # as each backup begins
    assert not list(haven.list(repository.bucket, locks))
    check_that_it_converges(platform, repository, filled_database, [first.snapshot])


@pytest.mark.full
def test_x1_the_backup_itself_is_killed_half_way_and_the_next_run_converges(
    platform, repository, filled_database, tools_with, tmp_path
):
    """restic goes on for itself, and may leave a snapshot that no restore point names: retention removes it."""
    first, _ = store(platform, repository, filled_database)
    pids, go = tmp_path / "pids", tmp_path / "go"
    waits = f"timeout 600 sh -c 'until [ -e {go} ]; do sleep 0.1; done'"
    slow = tools_with(pg_dump=f"{HALF}; echo $PPID > {pids}.new; mv {pids}.new {pids}; {waits}; exit 0")
    child = child_that_stores(platform, repository, filled_database, slow)
    wait_for(pids.exists)
    os.kill(child.pid, signal.SIGKILL)
    child.join(240)
    go.touch()
    assert child.exitcode == -signal.SIGKILL
    wait_for(lambda: not alive(int(pids.read_text())))
    wait_for(lambda: no_lock_is_left(repository))
    assert first.snapshot in [snapshot.id for snapshot in repository.snapshots()]
    check_that_it_converges(platform, repository, filled_database, [first.snapshot])


@pytest.mark.full
def test_x1_a_restore_that_is_killed_leaves_the_database_empty(
    platform, repository, filled_database, empty_database, tmp_path
):
    dump, rows = store(platform, repository, filled_database)
    half = wrapped(
        repository,
        tmp_path,
        f'case "$*" in *" dump "*) {repository.program} "$@" | head -c 1500000; kill -9 $$;; esac',
    )
    with pytest.raises(BackupError, match=r"dump.*ended with status -9"):
        restore_from(TOOLS, half, dump.snapshot, empty_database, database=filled_database.schema)
    wait_for(lambda: contents(empty_database) == ({}, {}))
    restore_from(TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema, sha256=dump.sha256)
    assert contents(empty_database)[0] == rows


@pytest.mark.full
def test_x5_no_space_for_restics_own_files_while_dumping(platform, repository, filled_database, tmp_path):
    """A limit on the size of files stands for the full disk: restic's writes to TMPDIR fail as they would there."""
    full = wrapped(repository, tmp_path, 'case "$*" in *" backup "*) trap \'\' XFSZ; ulimit -f 64;; esac')
    began = time.monotonic()
    with pytest.raises(BackupError, match="disk"):
        store(platform, full, filled_database)
    assert time.monotonic() - began < 120
    assert repository.snapshots() == ()
    store(platform, repository, filled_database)


def test_x5_the_servers_disk_is_full_while_restoring(platform, repository, filled_database, empty_database, tools_with):
    """What PostgreSQL says of its full disk, said by a pg_restore that has read half of the dump."""
    dump, rows = store(platform, repository, filled_database)
    message = 'could not extend file "base/16384/1": No space left on device'
    lines = (
        'case "$*" in *--dbname*) head -c 1000000 > /dev/null; '
        f"echo 'pg_restore: error: COPY failed: ERROR:  {message}' >&2; exit 1;; esac"
    )
    with pytest.raises(BackupError, match=r"nothing was restored.*No space left"):
        restore_from(
            tools_with(pg_restore=lines), repository, dump.snapshot, empty_database, database=filled_database.schema
        )
    assert contents(empty_database) == ({}, {})
    restore_from(TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema)
    assert contents(empty_database)[0] == rows


@pytest.mark.full
def test_k1_a_wrong_password_opens_nothing_and_has_its_own_error(platform, repository, filled_database, empty_database):
    dump, _ = store(platform, repository, filled_database)
    wrong: Repository = dataclasses.replace(repository, password="another password")
    for attempt in (
        wrong.snapshots,
        wrong.init_if_missing,
        wrong.check,
        lambda: wrong.forget([dump.snapshot]),
        lambda: store(platform, wrong, filled_database),
        lambda: restore_from(TOOLS, wrong, dump.snapshot, empty_database, database=filled_database.schema),
    ):
        with pytest.raises(RepositoryRefused, match="this password does not open it") as refused:
            attempt()
        assert "another password" not in str(refused.value) and "escrow" in refused.value.hint
    assert contents(empty_database) == ({}, {})
    assert [snapshot.id for snapshot in repository.snapshots()] == [dump.snapshot]
    with pytest.raises(RepositoryMissing):
        dataclasses.replace(repository, prefix=f"restic/{secrets.token_hex(4)}").snapshots()


def test_i7_a_byte_that_flips_in_the_repository_is_found_and_never_restored(
    platform, repository, filled_database, empty_database
):
    dump, _ = store(platform, repository, filled_database)
    haven = platform.site("haven", "personal")
    largest = max(haven.list(repository.bucket, f"{repository.prefix}/data/"), key=lambda info: info.size)
    body = bytearray(haven.read(repository.bucket, largest.key))
    body[len(body) // 2] ^= 1
    haven.write(repository.bucket, largest.key, bytes(body))
    with pytest.raises(IntegrityError, match="returns other data"):
        repository.check(read_data=1.0)
    with pytest.raises(RempartError, match="restic dump"):
        restore_from(TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema)
    assert contents(empty_database) == ({}, {})


@pytest.mark.full
def test_a_prune_waits_for_a_dump_that_runs(platform, repository, filled_database, tools_with, tmp_path):
    first, _ = store(platform, repository, filled_database)
    going = tmp_path / "going"
    slow = tools_with(pg_dump=f"touch {going}; sleep 4")
    made: list[str] = []
    thread = threading.Thread(
        target=lambda: made.append(store(platform, repository, filled_database, tools=slow)[0].snapshot)
    )
    thread.start()
    wait_for(going.exists)
    repository.forget([first.snapshot])
    thread.join()
    assert [snapshot.id for snapshot in repository.snapshots()] == made
    repository.check(read_data=1.0)
