"""Faults that a restore point must survive, on the stack's real PostgreSQL and sites."""

import dataclasses
import json
import multiprocessing
import secrets
import signal
import threading

import psycopg
import pytest

from rempart.backup.databases import postgresql
from rempart.backup.databases.stored_dumps import dump_into, restore_from
from rempart.backup.points import chain
from rempart.errors import BackupError, DatabaseUnavailable, DrillFailed
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.drill.drill import drill
from rempart.flows.drill.drill_verdict import RPO, RTO
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.models import tracking
from rempart.settings import config
from tests.faults.backed_up import Flipped, own_platform, small_platform, stored
from tests.registered import insert_version

pytestmark = pytest.mark.tracking


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    yield from own_platform(platform, proven_ledger, own_continuity, monkeypatch)


@pytest.fixture
def small(standing, monkeypatch):
    return small_platform(standing, monkeypatch)


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


@pytest.mark.parametrize(
    "fault",
    [
        "printf PGDMP-half; exit 1",
        pytest.param("printf PGDMP-half; kill -9 $$", marks=pytest.mark.full),
        pytest.param("printf PGDMP-half; exit 0", marks=pytest.mark.full),  # a tool that hides its failure
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


def test_i7_an_altered_manifest_is_refused_and_restores_nothing(small):
    point, site, bucket = back_up(small), small.site("haven", "personal"), small.config.buckets.backups
    key = f"points/{point.id}/manifest.json"
    first = site.head(bucket, key)
    site.write(bucket, key, site.read(bucket, key).replace(b'"source":"primary"', b'"source":"another"'))
    altered = dataclasses.replace(small, sites={**small.sites, "haven": Flipped(site, key, first.version_id)})
    with pytest.raises(DrillFailed, match="manifest"):
        drill(altered)
    evidence = small.ledger.find("drill", point.id)[0].body
    assert evidence["ok"] is False
    verdicts = {check["what"]: check["ok"] for check in evidence["checks"]}
    # nobody can count on the newest point, and nothing was restored whose time could count
    assert verdicts == {"the manifest equals its record": False, RPO: None, RTO: None}


@pytest.mark.full
def test_i7_a_point_that_no_ledger_knows_is_refused(small):
    back_up(small)
    stranger = dataclasses.replace(small, ledger_=MemoryLedger())
    with pytest.raises(DrillFailed, match="no record"):
        drill(stranger)


@pytest.mark.full
def test_i7_an_altered_dump_is_refused_and_the_scratch_space_removed(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    assert point.bytes_added > 0
    packs = [info for info in site.list(bucket, "restic/database-mlflow-") if "/data/" in info.key]
    for pack in packs:
        body = bytearray(site.read(bucket, pack.key))
        body[len(body) // 2] ^= 1
        site.write(bucket, pack.key, bytes(body))
    with pytest.raises(DrillFailed, match="database mlflow is restored"):
        drill(standing)
    checks = {check["what"]: check["ok"] for check in standing.ledger.find("drill")[0].body["checks"]}
    assert checks["database mlflow is restored with the rows on record"] is False
    assert checks["database ledger is restored with the rows on record"] is True
    assert checks["the restored MLflow starts"] is None
    assert checks["the sandbox is removed"] is True
    assert list(site.list(bucket, "drills/")) == []


@pytest.mark.full
def test_i7_an_object_that_the_replica_lost_turns_the_drill_red(small):
    primary, haven = small.site("primary", "personal"), small.site("haven", "personal")
    artifacts = small.config.buckets.artifacts
    primary.write(artifacts, "mlflow/1/model.onnx", b"model")
    back_up(small)
    haven.delete(artifacts, "mlflow/1/model.onnx", version_id=haven.head(artifacts, "mlflow/1/model.onnx").version_id)
    with pytest.raises(DrillFailed, match=r"artifacts equal their record.*model\.onnx"):
        drill(small)


@pytest.mark.full
def test_i11_a_bit_that_flips_in_a_link_turns_the_drill_red_and_the_next_backup_puts_the_link_back(small, caplog):
    point, site, bucket = back_up(small), small.site("haven", "personal"), small.config.buckets.backups
    link = chain.key_of(1)
    assert json.loads(site.read(bucket, link))["link"]["point"] == point.id
    first = site.head(bucket, link)
    on_top = site.write(bucket, link, site.read(bucket, link).replace(b'"consistent":', b'"consistent" :'))
    site.delete(bucket, link)
    drill(small)  # neither what lies on top nor the marker above it displaces the link
    broken = dataclasses.replace(small, sites={**small.sites, "haven": Flipped(site, link, first.version_id)})
    with pytest.raises(DrillFailed, match="chain of restore points: it is broken at link 1"):
        drill(broken)
    newer = back_up(broken)
    assert "restored link 1 of the chain at site 'haven'" in caplog.text
    drill(broken, newer.id)
    healed = site.head(bucket, link)
    assert healed.version_id not in (first.version_id, on_top.version_id)
    assert site.retained_until(bucket, link, healed.version_id) > small.clock()
    assert site.read(bucket, link) == site.read(bucket, link, version_id=first.version_id)


@pytest.mark.full
def test_d5_an_artifact_that_is_deleted_between_dump_and_copy_makes_the_point_inconsistent(standing, monkeypatch):
    primary, artifacts = standing.site("primary", "personal"), standing.config.buckets.artifacts
    name, bring = f"lost-{secrets.token_hex(4)}", flow.bring
    key = f"models/{name}/MLmodel"
    with tracking.session(standing.tracking()) as client:
        client.create_registered_model(name)
    insert_version(name, f"s3://{artifacts}/models/{name}")
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
        links = chain.verify(chain.read(site, bucket, standing.trusted_keys()), standing.trusted_keys())
        assert chain.of_point(links, point.id).consistent is False
        with pytest.raises(DrillFailed, match=r"no referenced object is missing: .*" + name):
            drill(standing, point.id)
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
        drill(standing)


def _back_up_in_child(settings, ledger, continuity, tools):
    back_up(Platform(settings, config.environment_connections, ledger_=ledger, continuity_=continuity), tools=tools)


@pytest.mark.parametrize(
    "database",
    [
        "continuity",
        pytest.param("feast_offline", marks=pytest.mark.full),
        pytest.param("ledger", marks=pytest.mark.full),
    ],
)
def test_x1_killed_between_dumps_the_previous_point_stays_the_newest(standing, tools_that, database):
    continuity = type(standing.continuity_)(standing.database("continuity"))  # of its own, for it is not given back
    first = back_up(standing)
    whoever = "kill -9 $(ps -o ppid= -p $PPID)"  # restic started pg_dump, and the backup restic
    killing = tools_that(f'[ "$PGDATABASE" = {database} ] && [ "$dumps" ] && {{ {whoever}; exit 1; }}')
    child = multiprocessing.get_context("fork").Process(
        target=_back_up_in_child, args=(standing.config, standing.ledger_, continuity, killing)
    )
    child.start()
    child.join(240)
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
