"""A drill with roles that may write only in its sandbox: a real PostgreSQL role, and a real S3 policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from rempart.backup.drill import scratch
from rempart.backup.points import points
from rempart.deployment.servers import object_sites
from rempart.errors import BackupError, ConnectionMissing, DrillFailed, RempartError
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.drill import drill_steps
from rempart.flows.drill.drill import drill
from rempart.flows.drill.drill_prove import prove
from rempart.flows.drill.drill_restore import restore
from rempart.flows.drill.drill_sandbox import clean_up
from rempart.flows.drill.drill_verdict import PROVED, report
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection
from tests.integration.own_servers import Servers, own_servers

HELD = ("continuity", "feast_offline", "ledger")
KEYS = [f"mlflow/{number}/model.onnx" for number in range(3)]
ROLE = {"login": "drillrole00000000000", "password": "of-a-test-000000000000000000"}
RUN = "20260105t030000-abcdef"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and two sites, each with an identity that reads everything and writes only what a drill owns."""
    known = object_sites.identities

    def identities(site: str, *arguments: Any) -> dict[str, Any]:
        plain = known(site, *arguments)
        own = ["drill-*", "drill-*/*", "backups/drills/*", "backups/heartbeats/*", "evidence/drills/*"]
        own += ["backups/restic/*/locks/*"]  # restic takes a lock while it reads
        reads = ["s3:GetObject*", "s3:GetBucket*", "s3:ListBucket*", "s3:GetObjectVersion*", "s3:GetObjectRetention"]
        allow = [
            {"Effect": "Allow", "Action": reads, "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]},
            {"Effect": "Allow", "Action": ["s3:*"], "Resource": [f"arn:aws:s3:::{place}" for place in own]},
        ]
        policy = {"name": "drill", "content": json.dumps({"Version": "2012-10-17", "Statement": allow})}
        keys = [{"accessKey": ROLE["login"], "secretKey": ROLE["password"]}]
        plain["identities"].append(
            {"name": f"{site}-drill", "credentials": keys, "actions": [], "policyNames": ["drill"]}
        )
        plain.setdefault("policies", []).append(policy)
        return plain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_sites, "identities", identities)
        with own_servers(tmp_path_factory.mktemp("rights"), ("postgresql", "site-primary", "site-haven")) as made:
            yield made


@pytest.fixture(scope="module")
def live(servers: Servers) -> Platform:
    """The platform with all its rights, a few artifacts, features, and a restore point."""
    platform = Platform(servers.stack.config, servers.connections)
    buckets = platform.config.buckets
    for name in ("primary", "haven"):
        site = platform.site(name, "personal")
        for bucket in (buckets.lake, buckets.artifacts):
            site.ensure_bucket(bucket, versioned=True)
        for bucket in (buckets.backups, buckets.evidence):
            site.ensure_bucket(bucket, versioned=True, locked=True)
        record = site.probe(buckets.doctor, platform.clock()).as_json()
        platform.ledger.append("capabilities", name, record)
    for key in KEYS:
        platform.site("primary", "personal").write(buckets.artifacts, key, key.encode() * 99)
    with psycopg.connect(platform.database("feast_offline").postgresql_url(), autocommit=True) as session:
        session.execute("CREATE TABLE stays AS SELECT n, n * 2 AS nights FROM generate_series(1, 500) n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "DATABASES", HELD)
        patch.setenv("REMPART_AIRFLOW_FERNET_KEY", "of-a-test")  # the platform's own secrets are in its environment
        back_up(platform)
    return platform


@pytest.fixture
def limited(servers: Servers, live: Platform) -> Platform:
    """The same platform with the rights of a drill: other databases are unknown, and the active site is only read."""

    def resolve(name: str) -> Connection:
        found = servers.connections(name)
        if name in ("s3_primary", "s3_haven"):
            return dataclasses.replace(found, **ROLE)
        if name == "pg_continuity":
            return dataclasses.replace(servers.connections("pg_backup"), name=name, schema="continuity")
        if name.startswith("pg_") and name not in ("pg_drill", "pg_ledger"):
            raise ConnectionMissing(f"No connection '{name}' in this test", "None.")
        return found

    return Platform(live.config, resolve)


def written(platform: Platform) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Every version of every object of the live buckets at both sites."""
    found = {}
    for name in ("primary", "haven"):
        site = platform.site(name, "personal")
        for bucket in (
            platform.config.buckets.lake,
            platform.config.buckets.artifacts,
            platform.config.buckets.backups,
        ):
            found[name, bucket] = {
                (info.key, str(info.version_id))
                for info in site.versions(bucket)
                if not info.key.startswith(("drills/", "heartbeats/")) and "/locks/" not in info.key
            }
    return found


def databases(servers: Servers) -> set[str]:
    with psycopg.connect(servers.superuser.postgresql_url()) as session:
        return {row[0] for row in session.execute("SELECT datname FROM pg_database").fetchall()}


def test_a_drill_needs_no_right_to_write_outside_its_sandbox(
    servers: Servers, live: Platform, limited: Platform
) -> None:
    before, there = written(live), databases(servers)
    result = drill(limited)
    assert result.ok, [check for check in result.checks if check.ok is not True]
    checks = {check.what: check for check in result.checks}
    assert checks["database feast_offline is restored with the rows on record"].detail == "1 table, 500 rows"
    assert checks["MLflow's artifacts equal their record"].detail.startswith("3 objects")
    assert checks["the ledger verifies up to the record that the point names"].ok
    assert checks["the sandbox is removed"].ok
    assert written(live) == before and databases(servers) == there
    # these rights are what they are said to be
    haven, buckets = limited.site("haven", "personal"), limited.config.buckets
    for bucket, key in ((buckets.artifacts, KEYS[0]), (buckets.lake, "x"), (buckets.backups, "points/x")):
        with pytest.raises(RempartError):
            haven.write(bucket, key, b"altered")
    for name in ("airflow", "feast_offline", "mlflow"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(dataclasses.replace(limited.connections("pg_drill"), schema=name).postgresql_url())


def test_the_steps_run_one_by_one_and_a_repeated_one_works_or_says_what_to_do(
    servers: Servers, live: Platform, limited: Platform
) -> None:
    def fresh() -> Platform:
        """As another process has it."""
        return dataclasses.replace(limited, sites={}, _permitted=set())

    haven, backups = live.site("haven", "personal"), live.config.buckets.backups
    with pytest.raises(BackupError, match="no completed restore of drill"):
        prove(fresh(), RUN)
    first = restore(fresh(), RUN)
    assert drill_steps.green(first).failed == 0 and first.begun and first.begun.opened
    assert {name for name in databases(servers) if RUN.replace("-", "_") in name} == {
        f"drill_{RUN.replace('-', '_')}_{name}" for name in HELD
    }
    with pytest.raises(BackupError, match=f"sandbox of drill {RUN} waits for the drill's next step"):
        drill(fresh())
    assert restore(fresh(), RUN).begun is not None  # again, from the start
    for _ in range(2):
        assert drill_steps.green(prove(fresh(), RUN)).failed == 0
    drill_steps.green(clean_up(fresh(), RUN))
    assert not {name for name in databases(servers) if name.startswith("drill")}
    assert scratch.recorded(haven, backups) == ()
    assert report(fresh(), RUN).ok and report(fresh(), RUN).ok
    with pytest.raises(BackupError, match=r"sandbox of drill .* was removed") as refused:
        prove(fresh(), RUN)
    assert "Clear the task `restore`" in refused.value.hint
    assert clean_up(fresh(), RUN).checks == ()
    with pytest.raises(BackupError, match="ran again after the verdict"):  # which stands, and no other is written
        report(fresh(), RUN)
    verdicts = [record for record in live.ledger.find("drill", limit=9) if record.body["drill"] == RUN]
    assert [record.body["ok"] for record in verdicts] == [True]


def test_a_step_that_did_not_end_leaves_the_drill_red(live: Platform, limited: Platform) -> None:
    drill_id = f"{RUN[:-6]}000001"
    restore(limited, drill_id)
    clean_up(limited, drill_id)
    with pytest.raises(DrillFailed, match=PROVED):
        report(limited, drill_id)
    body = live.ledger.find("drill", limit=1)[0].body
    assert body["ok"] is False and body["steps"].keys() == {"restore", "clean up"} and body["drill"] == drill_id


def test_what_a_drill_waits_for_is_removed_when_it_waited_too_long(
    servers: Servers, live: Platform, limited: Platform
) -> None:
    haven, backups = live.site("haven", "personal"), live.config.buckets.backups
    dead = f"{RUN[:-6]}00dead"
    restore(limited, dead)
    (space,) = scratch.recorded(haven, backups)
    scratch.write(haven, backups, dataclasses.replace(space, waits_until=None))  # its next step was killed
    assert drill(limited).ok
    assert scratch.recorded(haven, backups) == ()
    assert not {name for name in databases(servers) if name.startswith("drill")}


def test_a_record_that_was_changed_gets_nothing_of_the_platform_removed(live: Platform, limited: Platform) -> None:
    haven, backups = live.site("haven", "personal"), live.config.buckets.backups
    drill_id = f"{RUN[:-6]}00beef"
    plain = {"id": drill_id, "bucket": live.config.buckets.lake, "databases": ["mlflow"], "waits_until": None}
    haven.write(backups, f"drills/{drill_id}.json", json.dumps(plain).encode())
    try:
        with pytest.raises(RempartError, match="names something that no drill creates: nothing was removed"):
            drill(limited)
    finally:
        haven.delete(backups, f"drills/{drill_id}.json")
    assert points.list(haven, backups)
