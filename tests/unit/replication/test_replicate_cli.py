"""`rempart site replicate` and `rempart site verify-replica` on sites in memory: output and exit code."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import ReplicationError
from rempart.flows.shared import platform as platforms
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.settings.sections import Window
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[3]


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """As `open_platform` gives it to the command."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    sites = {name: MemorySite(name) for name in ("primary", "haven")}
    for site in sites.values():
        for bucket in ("lake", "artifacts", "backups"):
            site.ensure_bucket(bucket, versioned=True)
    made = Platform(
        config.load(ROOT / "rempart.yaml"),
        config.environment_connections,
        sites=dict(sites),
        ledger_=MemoryLedger(),
        continuity_=MemoryContinuity(),
    )
    monkeypatch.setattr(platforms, "open_platform", lambda: made)
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_a_replication_tells_its_progress_and_the_lag(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    done = run("site", "replicate", "primary", "haven")
    assert done.exit_code == 0, done.output
    assert "1 changes to copy to 'haven'" in done.output and "lag 0 s, 0 changes" in done.output
    assert platform.sites["haven"].read("lake", "a") == b"a"


def test_json_is_one_document(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    assert json.loads(run("site", "replicate", "primary", "haven", "--json").stdout)["copied"] == 1
    told = json.loads(run("site", "verify-replica", "primary", "haven", "--all", "--json").output)
    assert (told["replicas"], told["read"], told["damaged"]) == (1, 1, [])


def test_deletes_are_accepted_by_their_number(platform: Platform) -> None:
    primary, haven = platform.sites["primary"], platform.sites["haven"]
    for n in range(40):
        primary.write("lake", f"k{n:02}", b"x")
    assert run("site", "replicate", "primary", "haven").exit_code == 0
    for n in range(30):
        primary.delete("lake", f"k{n:02}")
    refused = run("site", "replicate", "primary", "haven")
    assert refused.exit_code == 1 and isinstance(refused.exception, ReplicationError)
    assert run("site", "replicate", "primary", "haven", "--accept-deletes", "-1").exit_code == 2
    assert run("site", "replicate", "primary", "haven", "--accept-deletes", "30").exit_code == 0
    assert len(list(haven.list("lake"))) == 10


def test_a_lag_above_the_objective_is_told_and_exits_with_1(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    later = datetime.now(UTC) + timedelta(hours=1)
    shut = Window(begin=(later + timedelta(hours=1)).time(), end=(later + timedelta(hours=2)).time())
    pair = platform.config.replication[0].model_copy(update={"window": shut})
    settings = platform.config.model_copy(update={"replication": [pair]})
    made = dataclasses.replace(platform, config=settings, clock=lambda: later)
    monkeypatch.setattr(platforms, "open_platform", lambda: made)
    done = run("site", "replicate", "primary", "haven")
    assert done.exit_code == 1 and "1 changes" in done.output
    assert "exceeds the objective of 900 s" in str(done.exception)


def test_what_is_damaged_is_healed_and_named(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"good")
    run("site", "replicate", "primary", "haven")
    body = platform.sites["haven"]._buckets["lake"]["a"]  # type: ignore[attr-defined]
    body[0] = (body[0][0], b"evil")
    done = run("site", "verify-replica", "primary", "haven", "--all")
    assert done.exit_code == 0, done.exception
    assert "replicas that differed from their source, replaced: 1\nlake/a" in done.output
    assert platform.sites["haven"].read("lake", "a") == b"good"
