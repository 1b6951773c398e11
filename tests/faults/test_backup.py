"""Faults that a restore point must survive, on the stack's real PostgreSQL and sites."""

import dataclasses
import multiprocessing
import secrets
import signal
import threading

import psycopg
import pytest

from rempart import config, sections
from rempart.backup import points, postgresql
from rempart.errors import BackupError, DatabaseUnavailable, DrillFailed
from rempart.flows.back_up import back_up
from rempart.flows.drill import drill
from rempart.flows.platform import Platform
from rempart.ledger.memory import MemoryLedger

pytestmark = pytest.mark.stack


@pytest.fixture
def standing(platform, proven_ledger, own_turns):
    """The stack's databases; empty buckets of the test's at both sites and a ledger in memory."""
    mark = f"fault-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    names = (buckets.lake, buckets.artifacts, buckets.backups)
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in names:
            site.ensure_bucket(name, versioned=True)
    settings = platform.config.model_copy(update={"buckets": buckets})
    yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_turns)
    for site in sites:
        for name in names:
            site.drop_bucket(name)


@pytest.fixture
def tools_that(tmp_path):
    """PostgreSQL's tools with a pg_dump that first runs a few lines of shell; `$file` is the dump's file."""
    real = postgresql.find_tools().folder

    def make(lines: str) -> postgresql.Tools:
        for name in ("pg_dump", "pg_restore"):
            script = tmp_path / name
            extra = 'for a in "$@"; do case $a in --file=*) file=${a#--file=};; esac; done\n' + lines
            script.write_text(f'#!/bin/sh\n{extra if name == "pg_dump" else ""}\nexec {real / name} "$@"\n')
            script.chmod(0o755)
        return postgresql.Tools(tmp_path)

    return make


def stored(platform) -> tuple[str, ...]:
    return points.list(platform.site("haven", "personal"), platform.config.buckets.backups)


@pytest.mark.parametrize(
    "fault",
    [
        'printf PGDMP-half > "$file"; exit 1',
        'printf PGDMP-half > "$file"; kill -9 $$',
        'printf PGDMP-half > "$file"; exit 0',  # a tool that hides its failure
    ],
    ids=["exits", "killed", "hides"],
)
def test_d1_a_dump_that_dies_half_way_leaves_no_point(standing, tools_that, fault):
    first = back_up(standing)
    faulty = tools_that(f'[ "$PGDATABASE" = feast_offline ] && [ "$file" ] && {{ {fault}; }}')
    with pytest.raises(BackupError, match="feast_offline"):
        back_up(standing, tools=faulty)
    assert stored(standing) == (first.id,)
    assert [r.subject for r in standing.ledger.find("restore-point")] == [first.id]


def test_d2_an_older_client_is_refused_before_it_dumps(standing, tools_that):
    older = tools_that('[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 12.22"; exit 0; }')
    with pytest.raises(BackupError, match="pg_dump 12 is older than the server"):
        back_up(standing, tools=older)
    assert stored(standing) == ()


def test_d3_a_table_that_stays_locked_ends_the_backup_in_bounded_time(standing, monkeypatch):
    monkeypatch.setattr(postgresql, "LOCK_WAIT_SECONDS", 1)
    with psycopg.connect(standing.database("feast_offline").postgresql_url()) as holder:
        holder.execute("CREATE TABLE locked_by_a_test (id int)")
        holder.commit()
        try:
            holder.execute("LOCK TABLE locked_by_a_test IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable, match="locked"):
                back_up(standing)
        finally:
            holder.rollback()
            holder.execute("DROP TABLE locked_by_a_test")
            holder.commit()
    assert stored(standing) == ()


def test_i7_an_altered_manifest_is_refused_and_restores_nothing(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    key = f"points/{point.id}/manifest.json"
    site.write(bucket, key, site.read(bucket, key).replace(b'"source": "primary"', b'"source": "another"'))
    with pytest.raises(DrillFailed, match="manifest"):
        drill(standing, progress=lambda line: None)
    evidence = standing.ledger.find("drill", point.id)[0].body
    assert evidence["ok"] is False
    assert [check["what"] for check in evidence["checks"]] == ["the manifest is the one on record"]


def test_i7_a_point_that_no_ledger_knows_is_refused(standing):
    back_up(standing)
    stranger = dataclasses.replace(standing, ledger_=MemoryLedger())
    with pytest.raises(DrillFailed, match="no record"):
        drill(stranger, progress=lambda line: None)


def test_i7_an_altered_dump_is_refused_and_the_scratch_space_removed(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    key = f"points/{point.id}/mlflow.dump"
    body = bytearray(site.read(bucket, key))
    body[len(body) // 2] ^= 1
    site.write(bucket, key, bytes(body))
    with pytest.raises(DrillFailed, match=r"database mlflow is restored.*SHA-256"):
        drill(standing, progress=lambda line: None)
    checks = {check["what"]: check["ok"] for check in standing.ledger.find("drill")[0].body["checks"]}
    assert checks["database mlflow is restored with the rows on record"] is False
    assert checks["database ledger is restored with the rows on record"] is True
    assert checks["the restored MLflow starts"] is None
    assert checks["the scratch space is removed"] is True
    assert list(site.list(bucket, "drills/")) == []


def test_i7_an_object_that_the_replica_lost_turns_the_drill_red(standing):
    primary, haven = standing.site("primary", "personal"), standing.site("haven", "personal")
    artifacts = standing.config.buckets.artifacts
    primary.write(artifacts, "mlflow/1/model.onnx", b"model")
    back_up(standing)
    haven.delete(artifacts, "mlflow/1/model.onnx", version_id=haven.head(artifacts, "mlflow/1/model.onnx").version_id)
    with pytest.raises(DrillFailed, match=r"artifacts are restored.*model\.onnx"):
        drill(standing, progress=lambda line: None)


def _back_up_in_child(settings, ledger, tools):
    back_up(Platform(settings, config.environment_connections, ledger_=ledger), tools=tools)


@pytest.mark.parametrize("database", ["airflow", "feast_offline", "ledger"])
def test_x1_killed_between_dumps_the_previous_point_stays_the_newest(standing, tools_that, database):
    first = back_up(standing)
    killing = tools_that(f'[ "$PGDATABASE" = {database} ] && [ "$file" ] && {{ kill -9 $PPID; exit 1; }}')
    child = multiprocessing.get_context("fork").Process(
        target=_back_up_in_child, args=(standing.config, standing.ledger_, killing)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert stored(standing) == (first.id,)
    second = back_up(standing)
    assert stored(standing) == (second.id, first.id)


def test_rows_that_arrive_while_dumping_change_neither_dump_nor_manifest(standing, tmp_path):
    """The counts in the manifest are those of the dump, because both see one snapshot."""
    connection = standing.database("feast_offline")
    source = postgresql.for_database(standing.database("backup"), "feast_offline")
    with psycopg.connect(connection.postgresql_url(), autocommit=True) as writer:
        writer.execute("CREATE TABLE grown_by_a_test (id int)")
        stop = threading.Event()

        def grow():
            while not stop.is_set():
                writer.execute("INSERT INTO grown_by_a_test SELECT generate_series(1, 100)")

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            with postgresql.frozen(source) as (session, snapshot):
                rows = postgresql.row_counts(session)
                file = tmp_path / "feast_offline.dump"
                postgresql.dump(postgresql.find_tools(), source, snapshot, len(rows), file)
        finally:
            stop.set()
            thread.join()
            writer.execute("DROP TABLE grown_by_a_test")
    drill_role = standing.database("drill")
    name = f"drill_test_{secrets.token_hex(4)}"
    with psycopg.connect(drill_role.postgresql_url(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
        try:
            target = postgresql.for_database(drill_role, name)
            postgresql.restore(postgresql.find_tools(), target, file)
            with postgresql.session(target, "count") as restored:
                assert postgresql.row_counts(restored) == rows
        finally:
            postgresql.drop_database(session, name)
