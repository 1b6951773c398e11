"""A cyber-attack on restore points, on the stack's real servers: the drill finds the last clean one and restores it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from rempart.backup.keys import platform_secrets
from rempart.backup.points import points
from rempart.deployment.setup import paths
from rempart.errors import BackupError, DrillFailed
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.backup.restore_points import proofs
from rempart.flows.drill.drill import drill
from rempart.flows.drill.drill_verdict import RPO, RTO
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import read_env_file
from tests.buckets import own_buckets

FERNET = "REMPART_AIRFLOW_FERNET_KEY"
pytestmark = pytest.mark.tracking
KEYS = [f"raw/hotel_bookings/{number}/week.csv" for number in range(8)]


@pytest.fixture
def standing(
    platform: Platform, proven_ledger: MemoryLedger, own_continuity: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    """Three databases without MLflow's, for it may know models of other buckets; buckets and a ledger of the test's."""
    monkeypatch.setattr(flow, "DATABASES", ("airflow", "continuity", "ledger"))
    # the ledger's database is that of all tests: another one may have promoted a model that this MLflow does not hold
    monkeypatch.setattr(flow.postgresql, "decided_champions", lambda session: {})
    with own_buckets(platform, "attack") as buckets:
        settings = platform.config.model_copy(update={"buckets": buckets})
        yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)


@pytest.mark.full
def test_i7_the_last_clean_point_is_found_behind_poisoned_ones_and_restored(standing: Platform) -> None:
    primary, haven = standing.site("primary", "personal"), standing.site("haven", "personal")
    lake, bucket = standing.config.buckets.lake, standing.config.buckets.backups
    for number, key in enumerate(KEYS):
        primary.write(lake, key, f"{number},a,b,c\n".encode() * 1500)
    clean = back_up(standing, suffix=lambda: "aaaaaaaa")
    hidden = back_up(standing, suffix=lambda: "bbbbbbbb")

    # whoever has the rights of the backup's connection: hides the newest, encrypts the lake, waits for the next backup
    haven.delete(bucket, f"points/{hidden.id}/manifest.json")
    for key in KEYS:
        primary.write(lake, key, os.urandom(12_000))
    poisoned = back_up(standing, suffix=lambda: "cccccccc")
    # and writes a point of his own
    stored = haven.read(bucket, f"points/{clean.id}/manifest.json")
    forged = dataclasses.replace(points.decode(stored), id=points.new_id(standing.clock(), "dddddddd"))
    points.write(haven, bucket, forged)

    with pytest.raises(DrillFailed, match=f"{clean.id} passed its checks, but its drill is red"):
        drill(standing, scenario="cyber-attack")
    record = standing.ledger.find("drill", limit=1)[0]
    assert record.subject == clean.id and record.body["proved"] and record.body["scenario"] == "cyber-attack"
    checks = {check["what"]: check for check in record.body["checks"]}
    red = [what for what, check in checks.items() if check["ok"] is False]
    assert red == ["the newest stored restore point is clean"]
    told = checks[red[0]]["detail"]
    assert f"{hidden.id}: its manifest was deleted" in told
    assert f"{poisoned.id}: 8 of 8 objects were replaced" in told and "8 objects that compressed before" in told
    assert f"{forged.id}: no verified link of the chain attests it" in told
    assert checks["a clean restore point is found"]["detail"].startswith(clean.id)
    seen = [check["ok"] for what, check in checks.items() if what.startswith("the attack is detected")]
    assert seen.count(True) == 4 and seen.count(None) == 1  # there is no champion to replace
    for name in ("airflow", "continuity", "ledger"):
        assert checks[f"database {name} is restored with the rows on record"]["ok"] is True
    for what in ("Airflow's restored database migrates to this release", RPO, RTO):
        assert checks[what]["ok"] is True, checks[what]
    assert list(haven.list(bucket, "drills/")) == []

    # the report is filed beside the evidence, and says what it rests on
    filed = standing.ledger.find("drill-report", clean.id)[0].body
    key = next(key for key in filed["sha256"] if key.endswith(".json"))
    site = standing.site(filed["site"], "internal")
    report = json.loads(site.read(filed["bucket"], key, sha256=filed["sha256"][key]))
    assert report["scenario"] == "cyber-attack" and report["evidence"][0]["record"] == record.seq

    # an objective that is missed is red, and says nothing against the point
    tight = standing.config.backup.model_copy(update={"rto_objective": timedelta(seconds=1)})
    strict = dataclasses.replace(standing, config=standing.config.model_copy(update={"backup": tight}))
    with pytest.raises(DrillFailed, match=r"passed its checks, but its drill is red:\n  RTO: .* the objective is 1 s"):
        drill(strict, clean.id)
    assert proofs(standing.ledger)[clean.id][0] is True


def test_an_attack_finds_its_point_by_itself(standing: Platform) -> None:
    with pytest.raises(BackupError, match="chooses the restore point itself"):
        drill(standing, "20260101T000000Z-aaaaaa", scenario="cyber-attack")


def test_d6_another_fernet_key_than_airflows_turns_the_drill_red(
    standing: Platform, stack: paths.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "DATABASES", ("airflow",))
    own, another = (Fernet(read_env_file(stack.secrets)[FERNET]), Fernet.generate_key().decode())
    what = "Airflow's encrypted connections and variables can be read"

    def verdict() -> tuple[bool | None, str]:
        body = standing.ledger.find("drill", limit=1)[0].body
        return next((check["ok"], check["detail"]) for check in body["checks"] if check["what"] == what)

    with psycopg.connect(standing.database("airflow").postgresql_url(), autocommit=True) as session:
        token = own.encrypt(platform_secrets.CANARY_VALUE.encode()).decode()
        session.execute("DELETE FROM variable WHERE key = %s", [platform_secrets.CANARY])
        insert = "INSERT INTO variable (key, val, is_encrypted) VALUES (%s, %s, true)"
        session.execute(insert, [platform_secrets.CANARY, token])
    assert drill(standing, back_up(standing).id).ok
    assert verdict()[0] is True and "rempart_drill_canary among them" in verdict()[1]

    in_use = platform_secrets.in_use
    monkeypatch.setattr(platform_secrets, "in_use", lambda *known: {**in_use(*known), FERNET: another})
    with pytest.raises(DrillFailed, match="cannot be decrypted with the Fernet key of the restore point"):
        drill(standing, back_up(standing).id)
    assert verdict()[0] is False and token not in verdict()[1] and another not in verdict()[1]
