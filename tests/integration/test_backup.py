"""A restore point of the running stack, and drills that prove it."""

import dataclasses
import json
import secrets
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from rempart.backup.drill import scratch
from rempart.backup.drill.drill_report import topics
from rempart.backup.points import points
from rempart.errors import BackupError, ObjectMissing
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.drill.drill import drill
from rempart.flows.drill.drill_sandbox import remove_leftovers
from rempart.settings import config
from rempart.settings.config import DATABASES

pytestmark = pytest.mark.tracking


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    """The stack with its own lake and artifacts, a backup bucket of the test's and a ledger in memory."""
    # the stack's ledger is that of all tests: its champions depend on which of them ran before
    monkeypatch.setattr(flow.postgresql, "decided_champions", lambda session: {})
    buckets = platform.config.buckets.model_copy(update={"backups": f"backup-{secrets.token_hex(4)}"})
    for name in ("primary", "haven"):
        site = platform.site(name, "personal")
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)  # and so it stays after the test
    settings = platform.config.model_copy(update={"buckets": buckets})
    return dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)


def scratch_databases(platform) -> set[str]:
    with psycopg.connect(platform.database("drill").postgresql_url()) as session:
        rows = session.execute("SELECT datname FROM pg_database WHERE datname LIKE 'drill%'").fetchall()
    return {row[0] for row in rows}


def test_a_restore_point_holds_every_database_and_object_and_proves_itself(standing, caplog):
    platform, site, bucket = standing, standing.site("haven", "personal"), standing.config.buckets.backups
    point = back_up(platform)
    assert points.list(site, bucket) == (point.id,)
    record = platform.ledger.find("restore-point", point.id)[0].body
    manifest = points.read(site, bucket, point.id, record["manifest_sha256"])
    assert {dump.name for dump in manifest.databases} == set(DATABASES)
    assert point.objects == len(manifest.objects)
    sealed = [*(held.sealed for held in manifest.objects), manifest.secrets.sealed]
    contents = {*(held.sha256 for held in manifest.objects), manifest.secrets.sha256}
    assert len({sealed_object.key for sealed_object in sealed}) == len(contents)
    for sealed_object in sealed:
        assert (
            site.retained_until(bucket, sealed_object.key, sealed_object.version)
            >= sealed_object.retained_until
            > platform.clock()
        )
    listed = {
        (name, info.key)
        for name in ("lake", "artifacts")
        for info in platform.site("primary", "personal").list(getattr(platform.config.buckets, name))
    }
    assert {(held.bucket, held.key) for held in manifest.objects} <= listed

    before = scratch_databases(platform)
    result = drill(platform)
    assert result.ok, result.checks
    assert result.point_id == point.id
    assert 0 < result.rto_seconds < 300
    assert result.rpo_seconds >= 0
    whats = " ".join(check.what for check in result.checks if check.ok)
    held = [dump for dump in manifest.databases if dump.tables]  # a platform that never materialized has no features
    assert {"airflow", "mlflow", "ledger"} <= {dump.name for dump in held}
    assert all(f"database {dump.name} is restored" in whats for dump in held)
    assert ("online features are equal in content" in whats) == ("feast_online" in {dump.name for dump in held})
    assert "the ledger verifies" in whats and "Airflow's restored database migrates" in whats
    assert all(f"champion {name} version {version} predicts" in whats for name, version in manifest.champions.items())
    # by its name a check gets into the drill's report: these alone are of no topic there
    nameless = {check.what for check in result.checks if not topics(check.what)}
    assert nameless <= {
        "the restored registry names the champions on record",
        "the register of erasures is signed, and the keys of its pseudonyms open",
        "the champions predict as before",
    }
    assert platform.ledger.find("drill", point.id)[0].body["ok"] is True
    json.dumps(dataclasses.asdict(result))
    assert "ok: the ledger verifies" in caplog.text

    assert scratch_databases(platform) <= before
    assert list(site.list(bucket, "drills/")) == []


def test_the_next_drill_removes_what_a_killed_one_left(standing):
    platform, site, bucket = standing, standing.site("haven", "personal"), standing.config.buckets.backups
    left = scratch.name_scratch(scratch.new_id(platform.clock(), "dead01"), ["airflow", "mlflow"])
    scratch.write(site, bucket, left)
    with psycopg.connect(platform.database("drill").postgresql_url(), autocommit=True) as session:
        for name in left.databases.values():
            session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    site.ensure_bucket(left.bucket, versioned=True)
    site.write(left.bucket, "mlflow/model", b"x")
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env={"REMPART_DRILL": left.id})
    try:
        assert set(left.databases.values()) <= scratch_databases(platform)
        remove_leftovers(platform, site, scratch.new_id(platform.clock(), "0a0b0c"))
        assert orphan.wait(120) != 0
    finally:
        orphan.kill()
    assert not set(left.databases.values()) & scratch_databases(platform)
    assert list(site.list(bucket, "drills/")) == []
    with pytest.raises(ObjectMissing):
        list(site.list(left.bucket))


@pytest.mark.full
def test_one_drill_at_a_time(standing):
    back_up(standing)
    with (
        scratch.only_drill(standing.database("drill")),
        pytest.raises(BackupError, match="Another drill"),
    ):
        drill(standing)


def test_without_a_point_there_is_nothing_to_drill(standing):
    with pytest.raises(BackupError, match="holds no restore point"):
        drill(standing)


@pytest.mark.full
def test_a_backup_to_the_active_site_goes_to_the_other_of_its_pair_or_is_refused(standing):
    home = standing.config.active_site
    settings = standing.config.model_copy(update={"backup": standing.config.backup.model_copy(update={"site": home})})
    point = back_up(dataclasses.replace(standing, config=settings))
    site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
    assert point.id in points.list(site, bucket)
    alone = settings.model_copy(update={"replication": []})
    with pytest.raises(config.ConfigError, match="also destroy the restore points"):
        back_up(dataclasses.replace(standing, config=alone))
