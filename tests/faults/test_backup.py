"""Faults that a restore point must survive, on the stack's real PostgreSQL and sites."""

import dataclasses
import json
import multiprocessing
import secrets
import signal
import threading

import psycopg
import pytest

from rempart import config, sections
from rempart.backup import chain, points, postgresql
from rempart.backup.stored_dumps import dump_into, restore_from
from rempart.errors import BackupError, DatabaseUnavailable, DrillFailed
from rempart.flows import back_up as flow
from rempart.flows.back_up import back_up
from rempart.flows.drill import drill
from rempart.flows.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.models import tracking

pytestmark = pytest.mark.stack


@pytest.fixture
def standing(platform, proven_ledger, own_turns, monkeypatch):
    """Four of the stack's databases; empty buckets of the test's at both sites and a ledger in memory."""
    monkeypatch.setattr(flow, "DATABASES", ("airflow", "mlflow", "feast_offline", "ledger"))
    mark = f"fault-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    names = (buckets.lake, buckets.artifacts)
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in names:
            site.ensure_bucket(name, versioned=True)
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)  # and so it stays after the test
    settings = platform.config.model_copy(update={"buckets": buckets})
    yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_turns)
    for site in sites:
        for name in names:
            site.drop_bucket(name)


@pytest.fixture
def tools_that(tmp_path):
    """PostgreSQL's tools with a pg_dump that first runs a few lines of shell; `$dumps` is empty unless it dumps."""
    real = postgresql.find_tools().folder

    def make(lines: str) -> postgresql.Tools:
        for name in ("pg_dump", "pg_restore"):
            script = tmp_path / name
            extra = 'for a in "$@"; do case $a in --snapshot=*) dumps=yes;; esac; done\n' + lines
            script.write_text(f'#!/bin/sh\n{extra if name == "pg_dump" else ""}\nexec {real / name} "$@"\n')
            script.chmod(0o755)
        return postgresql.Tools(tmp_path)

    return make


def stored(platform) -> tuple[str, ...]:
    return points.list(platform.site("haven", "personal"), platform.config.buckets.backups)


@pytest.mark.parametrize(
    "fault",
    [
        "printf PGDMP-half; exit 1",
        "printf PGDMP-half; kill -9 $$",
        "printf PGDMP-half; exit 0",  # a tool that hides its failure
    ],
    ids=["exits", "killed", "hides"],
)
def test_d1_a_dump_that_dies_half_way_leaves_no_point(standing, tools_that, fault):
    first = back_up(standing)
    faulty = tools_that(f'[ "$PGDATABASE" = feast_offline ] && [ "$dumps" ] && {{ {fault}; }}')
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
    site.write(bucket, key, site.read(bucket, key).replace(b'"source":"primary"', b'"source":"another"'))
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
    assert point.bytes_added > 0
    packs = [info for info in site.list(bucket, "restic/database-mlflow-") if "/data/" in info.key]
    for pack in packs:
        body = bytearray(site.read(bucket, pack.key))
        body[len(body) // 2] ^= 1
        site.write(bucket, pack.key, bytes(body))
    with pytest.raises(DrillFailed, match="database mlflow is restored"):
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


def test_i7_a_manifest_that_no_link_of_the_chain_vouches_for_is_refused(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    link = chain.key_of(1)
    assert json.loads(site.read(bucket, link))["link"]["point"] == point.id
    site.write(bucket, link, site.read(bucket, link).replace(b'"consistent":', b'"consistent" :'))
    with pytest.raises(DrillFailed, match="chain of restore points is broken at link 1"):
        drill(standing, progress=lambda line: None)
    site.delete(bucket, link)
    with pytest.raises(DrillFailed, match="No link of the chain vouches"):
        drill(standing, progress=lambda line: None)


def test_d5_an_artifact_that_is_deleted_between_dump_and_copy_makes_the_point_inconsistent(standing, monkeypatch):
    primary, artifacts = standing.site("primary", "personal"), standing.config.buckets.artifacts
    name, bring = f"lost-{secrets.token_hex(4)}", flow.bring
    key = f"models/{name}/MLmodel"
    with tracking.session(standing.tracking()) as client:
        client.create_registered_model(name)
        client.create_model_version(name, f"s3://{artifacts}/models/{name}")
    try:
        lost = f"model {name} version 1: artifacts/models/{name}/"
        primary.write(artifacts, key, b"model")
        primary.write(artifacts, "another", b"model")
        assert lost not in back_up(standing, suffix=lambda: "aaaaaa").dangling

        def delete_first(*arguments, **named):
            primary.delete(artifacts, key)
            standing.site("haven", "personal").delete(artifacts, key)
            return bring(*arguments, **named)

        monkeypatch.setattr(flow, "bring", delete_first)
        point = back_up(standing)
        assert lost in point.dangling
        site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
        links = chain.verify(chain.read(site, bucket), standing.trusted_keys())
        assert chain.of_point(links, point.id).consistent is False
        with pytest.raises(DrillFailed, match=r"nothing is missing that it refers to: .*" + name):
            drill(standing, point.id, progress=lambda line: None)
    finally:
        with tracking.session(standing.tracking()) as client:
            client.delete_registered_model(name)


def test_d5_a_drill_takes_the_newest_point_that_lacks_nothing(standing):
    whole = {"dangling": []}
    for number, lacks in enumerate((whole, whole, {"dangling": ["model hotel version 1: gone"]})):
        point = f"2026010{number + 1}T000000Z-aaaaaa"
        standing.site("haven", "personal").write(
            standing.config.buckets.backups, f"points/{point}/manifest.json", b"{}"
        )
        standing.ledger.append("restore-point", point, {"site": "haven", "manifest_sha256": "0" * 64, **lacks})
    with pytest.raises(DrillFailed, match="Restore point 20260102T000000Z-aaaaaa"):
        drill(standing, progress=lambda line: None)


def _back_up_in_child(settings, ledger, tools):
    back_up(Platform(settings, config.environment_connections, ledger_=ledger), tools=tools)


@pytest.mark.parametrize("database", ["airflow", "feast_offline", "ledger"])
def test_x1_killed_between_dumps_the_previous_point_stays_the_newest(standing, tools_that, database):
    first = back_up(standing)
    whoever = "kill -9 $(ps -o ppid= -p $PPID)"  # restic started pg_dump, and the backup restic
    killing = tools_that(f'[ "$PGDATABASE" = {database} ] && [ "$dumps" ] && {{ {whoever}; exit 1; }}')
    child = multiprocessing.get_context("fork").Process(
        target=_back_up_in_child, args=(standing.config, standing.ledger_, killing)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert stored(standing) == (first.id,)
    second = back_up(standing)
    assert stored(standing) == (second.id, first.id)


def test_rows_that_arrive_while_dumping_change_neither_dump_nor_manifest(standing, repository, empty_database):
    """The counts in the manifest are those of the dump, because both see one snapshot."""
    connection = standing.database("feast_offline")
    source, tools = postgresql.for_database(standing.database("backup"), "feast_offline"), postgresql.find_tools()
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
                stored = dump_into(tools, repository, source, snapshot, len(rows))
        finally:
            stop.set()
            thread.join()
            writer.execute("DROP TABLE grown_by_a_test")
    restore_from(tools, repository, stored.snapshot, empty_database, database="feast_offline", sha256=stored.sha256)
    with postgresql.session(empty_database, "count") as restored:
        assert postgresql.row_counts(restored) == rows
