"""The ledger on a PostgreSQL and two S3 sites of the test's own: writers, keys, an older form, export and restore."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from rempart.backup.databases import postgresql as tools
from rempart.deployment.servers import postgresql
from rempart.errors import LedgerError, ObjectMissing, SiteError
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export, export_to
from rempart.flows.shared.platform import Platform
from rempart.ledger import keys
from rempart.ledger.chain import Head, extend, introduce
from rempart.ledger.examination import examine
from rempart.ledger.files import verify_files
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.ledger.verification import verify
from rempart.settings.config import Connection
from tests.integration.own_servers import ROOT, Servers, own_servers

WRITE = """
import sys
from rempart.settings.config import parse_connection
from rempart.ledger import keys
from rempart.ledger.postgresql import PostgresqlLedger
key = keys.from_connection(parse_connection("ledger_key", sys.stdin.readline()))
ledger = PostgresqlLedger(parse_connection("pg_ledger", sys.stdin.readline()), lambda: key)
for i in range(int(sys.argv[2])):
    ledger.append("decision", f"writer {sys.argv[1]}", {"i": i})
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    names = ("postgresql", "site-primary", "site-haven")
    with own_servers(tmp_path_factory.mktemp("ledger") / "var", names) as running:
        yield running


def administer(servers: Servers, database: str) -> psycopg.Connection[tuple[object, ...]]:
    return postgresql.connect(dataclasses.replace(servers.superuser, schema=database))


@pytest.fixture
def connection(servers: Servers) -> Iterator[Connection]:
    """An empty ledger in a database of the test's own."""
    name = f"ledger_{uuid4().hex[:8]}"
    with administer(servers, "postgres") as session:
        session.execute(f"CREATE DATABASE {name} OWNER ledger_owner")
        session.execute(f"GRANT CONNECT ON DATABASE {name} TO ledger, backup")
    prepare(servers, name)
    yield dataclasses.replace(servers.connections("pg_ledger"), schema=name)
    with administer(servers, "postgres") as session:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")


def prepare(servers: Servers, database: str) -> None:
    with administer(servers, database) as session:
        session.execute((ROOT / "include" / "sql" / "platform" / "ledger.sql").read_text(encoding="utf-8"))


@pytest.fixture
def key(servers: Servers) -> keys.Signer:
    return keys.from_connection(servers.connections("ledger_key"))


@pytest.fixture
def ledger(connection: Connection, key: keys.Signer) -> PostgresqlLedger:
    return PostgresqlLedger(connection, lambda: key)


@pytest.fixture
def platform(servers: Servers, connection: Connection) -> Platform:
    """The shipped configuration with this test's ledger and buckets."""
    mark = uuid4().hex[:8]
    buckets = servers.stack.config.buckets.model_copy(update={"evidence": f"evidence-{mark}"})
    settings = servers.stack.config.model_copy(update={"buckets": buckets})

    def connections(name: str) -> Connection:
        return connection if name == "pg_ledger" else servers.connections(name)

    made = Platform(settings, connections)
    made.evidence_site("primary")[0].ensure_bucket(buckets.evidence, versioned=True, locked=True)
    return made


def write_at_once(servers: Servers, connection: Connection, writers: int, each: int) -> None:
    """Processes that append at the same time; all must end well."""
    given = f"{_json(servers.connections('ledger_key'))}\n{_json(connection)}\n"
    running = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(n), str(each)], stdin=subprocess.PIPE, text=True)
        for n in range(writers)
    ]
    for process in running:
        assert process.stdin
        process.stdin.write(given)
        process.stdin.close()
    assert [process.wait(300) for process in running] == [0] * writers


def _json(connection: Connection) -> str:
    names = ("conn_type", "host", "port", "login", "password", "schema")
    return json.dumps({name: getattr(connection, name) for name in names})


@pytest.mark.full
def test_writers_at_once_make_one_chain_without_a_fork(
    servers: Servers, connection: Connection, ledger: PostgresqlLedger, key: keys.Signer
) -> None:
    write_at_once(servers, connection, writers=8, each=50)
    verdict = verify((entry.line for entry in ledger.entries()), [key.public], {})
    assert verdict.ok and verdict.records == 401
    for n in range(8):
        own = ledger.find("decision", f"writer {n}", limit=1000)
        assert [record.body["i"] for record in reversed(own)] == list(range(50))


def test_what_is_appended_is_found_newest_first(ledger: PostgresqlLedger) -> None:
    body = {"float": 1.5, "whole": 2.0, "text": "é \u2028 \x7f 😀", "deep": {"list": [None, True, []]}}
    first = ledger.append("snapshot", "a", body)
    second, other = ledger.append("snapshot", "b", {}), ledger.append("drill", "a", {})
    assert first.body == body and first.seq == 2 and first.at.tzinfo is not None
    assert ledger.find("snapshot") == [second, first]
    assert ledger.find("snapshot", "a") == [first] and ledger.find("drill") == [other]
    assert ledger.find("snapshot", limit=1) == [second]
    assert ledger.find("refusal") == []


def test_every_record_is_found_however_many_there_are_and_a_reader_may_stop(
    ledger: PostgresqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.ledger.postgresql._PAGE", 4)
    monkeypatch.setattr("rempart.ledger.postgresql._FIRST_PAGE", 3)
    for number in range(13):
        ledger.append("drill" if number % 2 else "denial", f"s{number % 3}", {"n": number})
    assert [record.body["n"] for record in ledger.each("drill")] == [11, 9, 7, 5, 3, 1]
    assert ledger.find("drill") == [*ledger.each("drill")]
    assert ledger.find("drill", limit=5) == ledger.find("drill")[:5]
    assert [record.body["n"] for record in ledger.find("denial", "s0")] == [12, 6, 0]


def test_the_first_altered_or_deleted_record_is_named_and_a_forged_end_is_not(
    servers: Servers, connection: Connection, ledger: PostgresqlLedger
) -> None:
    for number in range(6):
        ledger.append("drill", "a", {"n": number})
    with administer(servers, connection.schema) as session:
        session.execute("UPDATE evidence SET sig = (SELECT sig FROM evidence WHERE seq = 2) WHERE seq IN (4, 7)")
    assert ledger.first_altered() == ledger.first_altered(3) == 4
    assert ledger.first_altered(4) is None, "the last record may be forged: it is in `forged`"
    with administer(servers, connection.schema) as session:
        session.execute("SET session_replication_role = replica")
        session.execute("DELETE FROM evidence WHERE seq = 3")
    assert ledger.first_altered() == 3


def test_pages_go_backwards_by_number_kind_and_subject_and_each_record_verifies_there(ledger: PostgresqlLedger) -> None:
    for number in range(6):
        ledger.append("drill" if number % 2 else "denial", f"s{number % 3}", {"n": number})
    chain = list(ledger.entries())
    assert ledger.page(limit=3) == chain[:-4:-1]
    assert ledger.page(before=3) == chain[1::-1]
    assert [record.seq for record in ledger.page(kind="drill")] == [7, 5, 3]
    assert [record.seq for record in ledger.page(subject="s1", before=6)] == [3]
    assert ledger.page(kind="drill", subject="'; DROP TABLE evidence; --") == []
    newest, before = ledger.page(limit=2)
    assert all(record.ok for record in examine(newest, before, ledger.find("key")))


def test_a_writer_that_passes_by_the_lock_can_neither_fork_nor_leave_a_gap(
    connection: Connection, ledger: PostgresqlLedger, key: keys.Signer
) -> None:
    ledger.append("snapshot", "a", {})
    newest = ledger.append("snapshot", "b", {})
    hashes = [entry.hash for entry in ledger.entries()]
    now = datetime.now(UTC)
    forged = {
        "a second one after record 2": extend(Head(2, hashes[1], key.id), now, "snapshot", "x", {}, key),
        "a gap": extend(Head(4, hashes[2], key.id), now, "snapshot", "x", {}, key),
        "another beginning": introduce(Head(), now, key, key),
        "a beginning elsewhere": extend(Head(3, None, key.id), now, "snapshot", "x", {}, key),
        "an unknown record before": extend(Head(3, "0" * 64, key.id), now, "snapshot", "x", {}, key),
        "number 0": extend(Head(-1, None, key.id), now, "snapshot", "x", {}, key),
    }
    for what, entry in forged.items():
        with psycopg.connect(connection.postgresql_url()) as session, pytest.raises(psycopg.IntegrityError):
            values = [entry.text, entry.hash, entry.sig]
            session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", values)
            pytest.fail(what)
    wrong = extend(Head(3, hashes[2], key.id), now, "snapshot", "x", {}, key)
    with psycopg.connect(connection.postgresql_url()) as session, pytest.raises(psycopg.errors.CheckViolation):
        values = [wrong.text, "0" * 64, wrong.sig]
        session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", values)
    assert ledger.append("snapshot", "c", {}).seq == newest.seq + 1 == 4


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evidence SET sig = ''",
        "DELETE FROM evidence",
        "TRUNCATE evidence CASCADE",
        "DROP TABLE evidence CASCADE",
        "ALTER TABLE evidence DISABLE TRIGGER ALL",
        "CREATE TABLE other (x int)",
        "SET ROLE ledger_owner",
        "INSERT INTO evidence_unsigned (kind, subject, body) VALUES ('a', 'b', '{}')",
        "UPDATE evidence_all SET kind = 'x'",
        "INSERT INTO evidence (seq, record, hash, sig) VALUES (1, '{}', '', '')",
    ],
)
def test_the_role_can_add_and_read_and_nothing_else(
    connection: Connection, ledger: PostgresqlLedger, statement: str
) -> None:
    ledger.append("snapshot", "a", {})
    refusals = (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.GeneratedAlways,
        psycopg.errors.ObjectNotInPrerequisiteState,
    )
    with psycopg.connect(connection.postgresql_url()) as session, pytest.raises(refusals):
        session.execute(statement)


def test_a_ledger_without_a_key_can_only_be_read(connection: Connection, ledger: PostgresqlLedger) -> None:
    ledger.append("snapshot", "a", {})
    reader = PostgresqlLedger(connection)
    assert len(reader.find("snapshot")) == 1
    with pytest.raises(LedgerError, match="opened for reading"):
        reader.append("snapshot", "a", {})


def test_after_a_rotation_the_old_key_is_refused_and_a_restart_helps(
    connection: Connection, ledger: PostgresqlLedger, key: keys.Signer
) -> None:
    ledger.append("snapshot", "a", {})
    new = keys.signer(bytes(32))
    record = ledger.rotate(new)
    assert (record.subject, record.body["replaces"]) == (new.id, key.id)
    assert ledger.rotate(new) == record
    with pytest.raises(LedgerError, match=rf"its key is {new.id}.*") as refused:
        ledger.append("snapshot", "b", {})
    assert "rempart up" in refused.value.hint
    restarted = PostgresqlLedger(connection, lambda: new)
    restarted.append("snapshot", "b", {})
    verdict = verify((entry.line for entry in ledger.entries()), [key.public], {})
    assert verdict.ok and [use.id for use in verdict.keys] == [key.id, new.id]


OLD_FORM = """
SET ROLE ledger_owner;
DROP VIEW evidence_all; DROP TABLE evidence; DROP TABLE evidence_unsigned;
CREATE TABLE evidence (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL, subject text NOT NULL, body jsonb NOT NULL);
CREATE INDEX evidence_kind_subject ON evidence (kind, subject, seq DESC);
GRANT SELECT, INSERT ON evidence TO ledger;
INSERT INTO evidence (at, kind, subject, body)
SELECT '2026-01-01', 'promotion', 'bookings', jsonb_build_object('version', n::text) FROM generate_series(1, 3) n;
RESET ROLE;
"""
DIGEST = """
SET timezone = 'UTC';
SELECT encode(sha256(convert_to(string_agg(to_jsonb(u)::text, E'\\n' ORDER BY seq), 'UTF8')), 'hex')
FROM evidence_unsigned u;
"""


def test_records_of_the_form_before_are_kept_read_and_anchored(
    servers: Servers, connection: Connection, ledger: PostgresqlLedger, key: keys.Signer
) -> None:
    with administer(servers, connection.schema) as session:
        session.execute(OLD_FORM)
    prepare(servers, connection.schema)
    prepare(servers, connection.schema)
    assert [record.body["version"] for record in ledger.find("promotion")] == ["3", "2", "1"]
    ledger.append("promotion", "bookings", {"version": "4"})
    prepare(servers, connection.schema)
    found = ledger.find("promotion", "bookings")
    assert [record.body["version"] for record in found] == ["4", "3", "2", "1"]
    assert [record.seq for record in found] == [3, 0, -1, -2]
    assert found[-1].at == datetime(2026, 1, 1, tzinfo=UTC)
    (anchor,) = ledger.find("configuration", "evidence_unsigned")
    with administer(servers, connection.schema) as session:
        session.execute("SET timezone = 'UTC'")
        row = session.execute(DIGEST.partition(";")[2]).fetchone()
    assert row and anchor.seq == 2 and anchor.body["records"] == 3 and anchor.body["sha256"] == row[0]
    assert verify((entry.line for entry in ledger.entries()), [key.public], {}).ok


def test_a_dump_restores_the_ledger_in_content(
    servers: Servers, connection: Connection, ledger: PostgresqlLedger, key: keys.Signer, tmp_path: Path
) -> None:
    for i in range(5):
        ledger.append("snapshot", "a", {"i": i})
    programs = tools.find_tools()
    source = dataclasses.replace(servers.connections("pg_backup"), schema=connection.schema)
    with tools.frozen(source) as (session, snapshot):
        rows, digests = tools.row_counts(session), tools.digests(session)
        dump = [programs.folder / "pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={tmp_path / 'dump'}"]
        subprocess.run(dump, env=tools.libpq_environment(source), check=True)
    drill = servers.connections("pg_drill")
    name = f"drill_{uuid4().hex[:8]}"
    with tools.session(drill, "create") as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type] # built here
    target = dataclasses.replace(drill, schema=name)
    restore = [programs.folder / "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={name}"]
    subprocess.run([*restore, tmp_path / "dump"], env=tools.libpq_environment(target), check=True)
    with tools.session(target, "compare") as session:
        assert (tools.row_counts(session), tools.digests(session)) == (rows, digests)
    restored = PostgresqlLedger(target, lambda: key)
    assert restored.find("snapshot") == ledger.find("snapshot")
    assert verify((entry.line for entry in restored.entries()), [key.public], {}).records == 6
    assert restored.append("snapshot", "a", {"i": 6}).seq == 7
    with tools.session(drill, "drop") as session:
        tools.drop_database(session, name)


def test_the_witness_can_add_under_lock_and_do_nothing_else(servers: Servers, platform: Platform) -> None:
    witness, _ = platform.evidence_site("haven", write_only=True)
    owner, _ = platform.evidence_site("haven")
    bucket, key = platform.config.buckets.checkpoints, f"test-{uuid4().hex}"
    until = datetime.now(UTC) + timedelta(days=1)
    assert witness.write_new(bucket, key, b"one", retain_until=until)
    assert not witness.write_new(bucket, key, b"two", retain_until=until)
    first = owner.head(bucket, key)
    for forbidden in (
        lambda: witness.read(bucket, key),
        lambda: witness.head(bucket, key),
        lambda: list(witness.list(bucket)),
        lambda: witness.delete(bucket, key),
        lambda: witness.delete(bucket, key, version_id=first.version_id),
        lambda: witness.drop_bucket(bucket),
        lambda: witness.write_new(platform.config.buckets.backups, key, b"x"),
        lambda: witness.write(platform.config.buckets.landing, key, b"x"),
        lambda: owner.delete(bucket, key, version_id=first.version_id),
    ):
        with pytest.raises(SiteError) as refused:
            forbidden()
        assert not isinstance(refused.value, ObjectMissing)
    client = witness._client  # type: ignore[attr-defined] # the port has no call for these
    earlier = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(minutes=1)}
    locks = {"ObjectLockEnabled": "Enabled"}
    for attempt in (
        lambda: client.put_object_retention(Bucket=bucket, Key=key, VersionId=first.version_id, Retention=earlier),
        lambda: client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda: client.put_bucket_policy(Bucket=bucket, Policy="{}"),
        lambda: client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=locks),
        lambda: client.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/{key}"),
    ):
        with pytest.raises(client.exceptions.ClientError):
            attempt()
    # it may put another version over it: the one under lock stays
    witness.write(bucket, key, b"forged")
    assert owner.read(bucket, key) == b"forged"
    assert owner.read(bucket, key, version_id=first.version_id) == b"one"


def test_an_export_is_verified_from_its_objects_and_from_a_folder_before_and_after_a_rotation(
    servers: Servers, platform: Platform, key: keys.Signer, tmp_path: Path
) -> None:
    evidence.prove_sites(platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    result = export(platform)
    assert result.records == result.last == 8 and result.window_seconds is not None and result.window_seconds < 600
    again = export(dataclasses.replace(platform, _permitted=set(), sites={}))
    assert again.records == 0, "an unchanged ledger exports nothing, in a new process too"
    site, bucket = platform.evidence_site("primary")[0], platform.config.buckets.evidence
    for segment in result.segments:
        found = site.head(bucket, segment)
        with pytest.raises(SiteError):
            site.delete(bucket, segment, version_id=found.version_id)
        (tmp_path / "bucket").mkdir()
        (tmp_path / "bucket" / Path(segment).name).write_bytes(site.read(bucket, segment))
    assert export_to(platform, tmp_path / "folder").records == 9, "and what the export tells of itself"
    for place, records in (("bucket", 8), ("folder", 9)):
        verdict = verify_files(tmp_path / place, [key.public.hex()], tmp_path / "folder" / "checkpoints")
        assert verdict.ok and (verdict.records, verdict.covered) == (records, 8), (place, verdict)
    seed = base64.b64encode(bytes(range(32))).decode()
    new, given = Connection("ledger_key", "ledger", password=seed), platform.connections
    evidence.rotate_key(
        dataclasses.replace(platform, connections=lambda n: new if n == keys.NEXT_CONNECTION else given(n))
    )
    restarted = dataclasses.replace(platform, connections=lambda n: new if n == keys.CONNECTION else given(n))
    assert export(restarted).records == 2, "the record of the key, and the export before"
    export_to(restarted, tmp_path / "later")
    verdict = verify_files(tmp_path / "later", [str(tmp_path / "folder" / "public.pem")], None)
    assert verdict.ok and len(verdict.keys) == 2 and (verdict.covered, verdict.records) == (10, 11)
