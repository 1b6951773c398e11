"""Databases through restic, on a real site and a real PostgreSQL."""

import dataclasses
import json
import re
import secrets
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from rempart.backup.databases import postgresql
from rempart.backup.databases.stored_dumps import restore_from, verify
from rempart.backup.keys import age
from rempart.deployment.setup import credentials, paths
from rempart.errors import BackupError, IntegrityError, SiteError, SiteUnavailable
from rempart.settings.config import read_env_file
from rempart.sites.s3.client import open_client
from tests.quick_repositories import by_restic
from tests.repositories import contents, repository_at, scratch_database, store

pytestmark = pytest.mark.tracking
TOOLS = postgresql.find_tools()
RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbooks" / "restore-by-hand.md"


def test_a_database_comes_back_as_it_was(platform, repository, filled_database, empty_database):
    dump, rows = store(platform, repository, filled_database, tags=("p1",))
    assert rows == {"public.odd Name; --": 1, "public.bookings": 40000, "public.empty_one": 0}
    found = restore_from(
        TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema, sha256=dump.sha256
    )
    assert (found.sha256, found.bytes) == (dump.sha256, dump.bytes)
    assert contents(empty_database) == contents(filled_database)
    with psycopg.connect(empty_database.postgresql_url()) as session:
        owner = session.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'bookings'").fetchone()
        comment = session.execute("SELECT obj_description('bookings'::regclass)").fetchone()
        index = session.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 'bookings'").fetchone()
    assert (owner, comment, index) == (("drill",), ("kept",), (2,))


@pytest.mark.full
def test_what_did_not_change_is_not_stored_again(platform, repository, filled_database):
    with psycopg.connect(filled_database.postgresql_url(), autocommit=True) as session:
        session.execute("INSERT INTO bookings SELECT n, md5(n::text), n * 1.5 FROM generate_series(40001, 400000) n")
    first, _ = store(platform, repository, filled_database, tags=("p1",))
    again, _ = store(platform, repository, filled_database, tags=("p2",))
    assert first.bytes > 10_000_000 and first.bytes_added < first.bytes
    # the first piece of a dump, of a megabyte or so, holds its time and is another one each time
    assert again.bytes_added < first.bytes_added / 2
    listed = repository.snapshots()
    assert [snapshot.id for snapshot in listed] == [first.snapshot, again.snapshot]
    assert [snapshot.id for snapshot in repository.snapshots(tags=["p2"])] == [again.snapshot]
    assert listed[0].names == (f"{filled_database.schema}.dump",) and listed[0].bytes_processed == first.bytes
    assert datetime.now(UTC) - listed[0].at < timedelta(minutes=5)


@pytest.mark.full
def test_forgotten_and_pruned_what_others_need_stays(platform, repository, filled_database, empty_database):
    first, _ = store(platform, repository, filled_database)
    with psycopg.connect(filled_database.postgresql_url(), autocommit=True) as session:
        session.execute("INSERT INTO bookings SELECT n, 'later', 0 FROM generate_series(50001, 50010) n")
    second, rows = store(platform, repository, filled_database)
    repository.forget([first.snapshot])
    repository.forget([first.snapshot, "f" * 64])
    assert [snapshot.id for snapshot in repository.snapshots()] == [second.snapshot]
    repository.check(read_data=1.0)
    restore_from(
        TOOLS, repository, second.snapshot, empty_database, database=filled_database.schema, sha256=second.sha256
    )
    assert contents(empty_database)[0] == rows


@pytest.mark.full
def test_every_database_of_the_platform_is_dumped_at_once(platform, repository):
    def dumped(name):
        return store(platform, repository, dataclasses.replace(platform.database("backup"), schema=name))[0]

    names = ("airflow", "mlflow", "feast_registry", "ledger")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(dumped, names))
    assert {snapshot.id for snapshot in repository.snapshots()} == {dump.snapshot for dump in made}
    with scratch_database(platform) as target:
        restore_from(TOOLS, repository, made[0].snapshot, target, database="airflow", sha256=made[0].sha256)
        assert contents(target)[0]["public.dag_run"] >= 0


def test_another_password_or_place_has_its_own_error_and_changes_nothing(platform, repository):
    assert repository.init_if_missing() is False
    nowhere = dataclasses.replace(repository, prefix="restic/nobody")
    with pytest.raises(BackupError, match="the repository does not exist"):
        nowhere.snapshots()
    no_bucket = dataclasses.replace(repository, bucket=f"none-{secrets.token_hex(4)}")
    with pytest.raises((BackupError, SiteError), match=no_bucket.bucket):
        no_bucket.snapshots()


def test_wrong_keys_of_the_site_are_refused_and_not_told(repository):
    wrong = dataclasses.replace(repository.connection, password="not-the-secret-key")
    with pytest.raises((SiteError, BackupError)) as refused:
        dataclasses.replace(repository, connection=wrong).snapshots()
    assert "not-the-secret-key" not in str(refused.value) and "haven" in refused.value.what


@pytest.mark.full
def test_a_site_that_is_away_is_told_so_in_bounded_time(repository, monkeypatch):
    monkeypatch.setattr("rempart.backup.databases.restic.ANSWER_SECONDS", 4.0)
    away = dataclasses.replace(repository.connection, extra={"endpoint_url": "http://127.0.0.1:9"})
    began = datetime.now(UTC)
    with pytest.raises(SiteUnavailable, match="haven"):
        dataclasses.replace(repository, connection=away).snapshots()
    assert datetime.now(UTC) - began < timedelta(seconds=120)


@pytest.mark.full
def test_a_bucket_whose_objects_are_locked_takes_backups_and_prunes(platform, filled_database, empty_database):
    """The default of the bucket is COMPLIANCE: what restic deletes is hidden, and there until its lock ends."""
    haven, bucket = platform.site("haven", "personal"), f"restic-locked-{secrets.token_hex(4)}"
    haven.ensure_bucket(bucket, versioned=True, locked=True)
    made = repository_at(platform, bucket)
    client = open_client("haven", made.connection, "eu")
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=rule)
    assert by_restic(made) is True
    first, _ = store(platform, made, filled_database)
    with psycopg.connect(filled_database.postgresql_url(), autocommit=True) as session:
        session.execute("UPDATE bookings SET guest = md5(guest)")
    second, _ = store(platform, made, filled_database)
    before = {info.key for info in haven.list(bucket, f"{made.prefix}/data/")}
    made.forget([first.snapshot])
    gone = before - {info.key for info in haven.list(bucket, f"{made.prefix}/data/")}
    assert gone
    versions = [info for info in haven.versions(bucket) if info.key in gone and not info.marker]
    assert {info.key for info in versions} == gone
    with pytest.raises(SiteError):
        haven.delete(bucket, versions[0].key, version_id=versions[0].version_id)
    made.check(read_data=1.0)
    restore_from(TOOLS, made, second.snapshot, empty_database, database=filled_database.schema, sha256=second.sha256)
    assert contents(empty_database) == contents(filled_database)


@pytest.mark.full
def test_a_dump_that_is_another_one_commits_nothing(platform, repository, filled_database, empty_database):
    dump, _ = store(platform, repository, filled_database)
    with pytest.raises(IntegrityError, match="nothing was restored"):
        restore_from(TOOLS, repository, dump.snapshot, empty_database, database=filled_database.schema, sha256="0" * 64)
    assert contents(empty_database) == ({}, {})
    with pytest.raises(BackupError, match="not found in snapshot"):
        verify(TOOLS, repository, dump.snapshot, "another", 0)


@pytest.mark.full
def test_no_password_is_seen_in_any_command_line(platform, repository, filled_database, tools_with, tmp_path):
    seen = tmp_path / "seen"
    lines = f'for p in $$ $PPID; do tr "\\0" " " < /proc/$p/cmdline >> {seen}; echo >> {seen}; done'
    store(platform, repository, filled_database, tools=tools_with(pg_dump=lines))
    text = seen.read_text()
    assert "pg_dump" in text and "stdin-from-command" in text
    for secret in (repository.password, repository.connection.password, platform.database("backup").password):
        assert secret not in text


@pytest.mark.full
def test_a_server_with_its_own_extensions_and_no_superuser(platform, repository, empty_database):
    """As an operator's PostgreSQL: the administrator made the extension, the role owns the database alone."""
    made = paths.current()
    admin = credentials.superuser(made, read_env_file(made.secrets))
    statement = "CREATE EXTENSION pageinspect; COMMENT ON EXTENSION pageinspect IS 'of the administrator'"
    with scratch_database(platform) as source:
        for database in (source, empty_database):
            url = postgresql.for_database(admin, database.schema).postgresql_url()
            with psycopg.connect(url, autocommit=True) as session:
                session.execute(statement)
        with psycopg.connect(source.postgresql_url(), autocommit=True) as session:
            session.execute("CREATE TABLE kept AS SELECT 1 AS id")
        dump, rows = store(platform, repository, source)
        restore_from(TOOLS, repository, dump.snapshot, empty_database, database=source.schema, sha256=dump.sha256)
        assert contents(empty_database)[0] == rows == {"public.kept": 1}


AGE = """#!{python}
import sys
from pyrage import decrypt, x25519
assert sys.argv[1:3] == ["-d", "-i"], sys.argv
identity = x25519.Identity.from_str(open(sys.argv[3]).read().splitlines()[-1])
sys.stdout.buffer.write(decrypt(sys.stdin.buffer.read(), [identity]))
"""
"""Stands for the command of that name where it is not installed: the same format, by another implementation."""


def test_the_runbook_restores_with_standard_tools_alone(
    platform, repository, filled_database, empty_database, tmp_path
):
    """Its command blocks from part 2 on, as they stand there, in one shell; what is to be filled in comes from here."""
    dump, _ = store(platform, repository, filled_database)
    identity = age.new_identity()
    age.write_identity_file(tmp_path / "identity.txt", identity, platform.clock())
    wrapped = age.encrypt(json.dumps({"restic_password": repository.password}).encode(), [identity.recipient])
    platform.site("haven", "personal").write(repository.bucket, "keys/x/0001.age", wrapped)
    programs = tmp_path / "bin"
    programs.mkdir()
    if real := shutil.which("age"):
        (programs / "age").symlink_to(real)
    else:
        (programs / "age").write_text(AGE.format(python=sys.executable))
        (programs / "age").chmod(0o755)
    text = RUNBOOK.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text[text.index("## 2.") :], re.DOTALL)
    assert len(blocks) == 7
    settings = {
        "PATH": f"{repository.program.parent}:{TOOLS.folder}:{programs}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "ENDPOINT": str(repository.connection.extra["endpoint_url"]),
        "BUCKET": repository.bucket,
        "SCOPE": "x",
        "SERIAL": "0001",
        "AWS_ACCESS_KEY_ID": repository.connection.login,
        "AWS_SECRET_ACCESS_KEY": repository.connection.password,
        "AWS_DEFAULT_REGION": "eu",
        "SNAPSHOT": dump.snapshot,
        "SHA256": dump.sha256,
        "DATABASE": filled_database.schema,
        "PGHOST": empty_database.host,
        "PGPORT": str(empty_database.port),
        "PGUSER": empty_database.login,
        "PGPASSWORD": empty_database.password,
        "TARGET": empty_database.schema,
    }
    done = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(blocks)],
        env=settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "keys/x/0001.age" in done.stdout and dump.snapshot[:8] in done.stdout
    assert contents(empty_database) == contents(filled_database)
