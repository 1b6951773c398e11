"""The stack's heartbeats at a real site: the watch reads them with a key that allows nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rempart.backup.databases import postgresql
from rempart.backup.watch.heartbeat import Heartbeat, decode, encode, key_of, replication
from rempart.cli import app
from rempart.errors import DrillFailed, ObjectMissing, SiteError
from rempart.flows.backup.back_up import back_up
from rempart.flows.drill.drill import drill
from rempart.flows.monitoring.watch import open_site
from rempart.flows.monitoring.watch_file import ACCESS_KEY, SECRET_KEY, load
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import environment_connections, watcher
from tests.conftest import OwnContinuity

pytestmark = pytest.mark.tracking

PAIR = replication("primary", "haven")


@pytest.fixture
def standing(
    platform: Platform,
    proven_ledger: MemoryLedger,
    own_continuity: OwnContinuity,
    no_backups: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Platform:
    # the stack's ledger is that of all tests: its champions depend on which of them ran before
    monkeypatch.setattr(postgresql, "decided_champions", lambda session: {})
    return dataclasses.replace(platform, ledger_=proven_ledger, continuity_=own_continuity)


@pytest.fixture
def variables(platform: Platform) -> dict[str, str]:
    held = environment_connections(watcher("haven"))
    return {ACCESS_KEY: held.login, SECRET_KEY: held.password}


@pytest.fixture
def file(platform: Platform, tmp_path: Path) -> Path:
    """As `rempart watch init` writes it, without the drill."""
    made = tmp_path / "watch.yaml"
    done = CliRunner().invoke(app, ["watch", "init", "--out", str(made)])
    assert done.exit_code == 0, done.output
    plain = yaml.safe_load(made.read_text())
    del plain["kinds"]["drill"]
    made.write_text(yaml.safe_dump(plain))
    return made


@pytest.fixture
def look(file: Path, variables: dict[str, str]) -> Callable[[], Result]:
    return lambda: CliRunner().invoke(app, ["watch", "--once", "--file", str(file)], env=variables)


@pytest.mark.full
def test_a_backup_a_replication_and_a_drill_are_heard(standing: Platform, look: Callable[[], Result]) -> None:
    haven, bucket = standing.site("haven", "internal"), standing.config.buckets.backups
    for _ in range(3):  # a run of the stack's own may beat in between
        for kind in ("backup", PAIR):
            haven.delete(bucket, key_of(kind))
        if (done := look()).output.count("missing") == 2:
            break
    assert done.exit_code == 1 and done.output.count("missing") == 2, done.output
    point = back_up(standing)
    replicate(standing, "primary", "haven")
    done = look()
    assert done.exit_code == 0 and done.output.count("fresh") == 2, done.output
    assert point.id.encode() in haven.read(bucket, key_of("backup"))
    with suppress(DrillFailed):  # as it does where nothing was materialized yet: that is heard as well
        drill(standing, point.id)
    told = decode("drill", haven.read(bucket, key_of("drill")), [standing.signer().public]).facts
    record = standing.ledger.find("drill", point.id)[0].body
    assert told == {"point": point.id, "ok": record["ok"], "rto_seconds": record["rto_seconds"]}


def test_a_forged_or_removed_heartbeat_is_red_and_so_is_an_old_restore_point(
    standing: Platform, look: Callable[[], Result]
) -> None:
    haven, bucket = standing.site("haven", "internal"), standing.config.buckets.backups
    now = standing.clock()
    told = {"point": "p", "created_at": now.isoformat(), "consistent": True}
    beat(standing, PAIR, {"lag_seconds": 0.0})
    beat(standing, "backup", told)
    assert look().exit_code == 0

    haven.write(bucket, key_of("backup"), encode(Heartbeat("backup", now, told), signer(bytes(32))))
    done = look()
    assert done.exit_code == 1 and "forged" in done.output and "not trusted" in done.output, done.output

    haven.delete(bucket, key_of("backup"))
    done = look()
    assert done.exit_code == 1 and "RED backup" in done.output and "missing" in done.output, done.output

    old = now - timedelta(hours=2)  # backups go on, and none of them is new enough
    beat(standing, "backup", {**told, "created_at": old.isoformat()})
    done = look()
    assert done.exit_code == 1 and "behind" in done.output and "the objective is 1 h" in done.output, done.output

    beat(standing, "backup", told)
    assert look().exit_code == 0


def test_the_key_of_the_watch_may_read_heartbeats_and_nothing_else(
    standing: Platform, file: Path, variables: dict[str, str]
) -> None:
    beat(standing, "backup", {})
    bucket, key = standing.config.buckets.backups, key_of("backup")
    haven = standing.site("haven", "internal")
    other = haven.write(bucket, "points/other", b"x")
    watch = open_site(load(file), variables)
    assert watch.fetch(bucket, key)[1].startswith(b'{"heartbeat":')
    attempts: list[Callable[[], Any]] = [
        lambda: watch.read(bucket, "points/other"),
        lambda: list(watch.list(bucket)),
        lambda: list(watch.list(bucket, "heartbeats/")),
        lambda: watch.write(bucket, key, b"mine"),
        lambda: watch.delete(bucket, key),
        lambda: list(watch.list(standing.config.buckets.lake)),
        lambda: watch.write(standing.config.buckets.checkpoints, key, b"mine"),
    ]
    for attempt in attempts:
        with pytest.raises(SiteError) as refused:
            attempt()
        assert not isinstance(refused.value, ObjectMissing), refused.value
    haven.delete(bucket, "points/other", version_id=other.version_id)


def test_who_writes_heartbeats_can_neither_read_nor_remove_them(standing: Platform) -> None:
    beat(standing, "backup", {})
    witness, _ = standing.evidence_site("haven", write_only=True)
    bucket, key = standing.config.buckets.backups, key_of("backup")
    attempts: list[Callable[[], Any]] = [
        lambda: witness.read(bucket, key),
        lambda: witness.delete(bucket, key),
        lambda: witness.write(bucket, "points/other", b"x"),
    ]
    for attempt in attempts:
        with pytest.raises(SiteError) as refused:
            attempt()
        assert not isinstance(refused.value, ObjectMissing), refused.value


def test_a_site_that_does_not_answer_and_a_wrong_key_are_red_and_cannot_be_judged(
    file: Path, variables: dict[str, str]
) -> None:
    wrong = CliRunner().invoke(app, ["watch", "--once", "--file", str(file)], env={**variables, SECRET_KEY: "wrong"})
    assert wrong.exit_code == 2 and wrong.output.count("unreadable") == 2, wrong.output
    plain = yaml.safe_load(file.read_text())
    plain["site"]["endpoint"] = "http://127.0.0.1:9"
    file.write_text(yaml.safe_dump(plain))
    away = CliRunner().invoke(app, ["watch", "--once", "--file", str(file)], env=variables)
    assert away.exit_code == 2 and "EndpointConnectionError" in away.output, away.output
    assert variables[SECRET_KEY] not in wrong.output + away.output
