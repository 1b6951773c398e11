"""The watch under faults: X1 killed while it notifies, X4 clocks ten minutes apart, K1 a key that no longer signs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.backup.watch.heartbeat import Heartbeat, encode, key_of
from rempart.flows.monitoring import watch, watch_init
from rempart.flows.monitoring.watch_file import ACCESS_KEY, SECRET_KEY, load
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import environment_connections, watcher
from tests.listeners import webhook

pytestmark = pytest.mark.stores

MINUTES = timedelta(minutes=10)


@pytest.fixture
def standing(platform: Platform) -> Platform:
    return dataclasses.replace(platform, ledger_=MemoryLedger())


@pytest.fixture
def variables(platform: Platform) -> dict[str, str]:
    held = environment_connections(watcher("haven"))
    return {ACCESS_KEY: held.login, SECRET_KEY: held.password}


@pytest.fixture
def file(platform: Platform, tmp_path: Path) -> Path:
    """A watch of the drill alone, which no schedule of the stack starts meanwhile."""
    made = watch_init.write(platform, tmp_path / "watch.yaml")
    plain = yaml.safe_load(made.read_text())
    plain["kinds"] = {"drill": {"max_interval": "8d"}}
    made.write_text(yaml.safe_dump(plain))
    return made


def state_of(file: Path, variables: dict[str, str], now: Any) -> str:
    settings = load(file)
    site = watch.open_site(settings, variables)
    return watch.run_round(settings, site, file.parent / "s", variables, lambda: now).verdicts[0].state


@pytest.mark.parametrize("off", [MINUTES, -MINUTES], ids=["ahead", "behind"])
def test_x4_a_platform_whose_clock_is_ten_minutes_off_is_named_as_that(
    standing: Platform, file: Path, variables: dict[str, str], off: timedelta
) -> None:
    beat(dataclasses.replace(standing, clock=lambda: standing.clock() + off), "drill", {"ok": True})
    assert state_of(file, variables, standing.clock()) == "skew"
    beat(standing, "drill", {"ok": True})
    assert state_of(file, variables, standing.clock()) == "fresh"


def test_x4_a_watch_whose_clock_is_ten_minutes_behind_names_it(
    standing: Platform, file: Path, variables: dict[str, str]
) -> None:
    beat(standing, "drill", {"ok": True})
    assert state_of(file, variables, standing.clock() - MINUTES) == "skew"


def test_k1_a_key_that_was_replaced_signs_nothing_that_is_believed(
    standing: Platform, file: Path, variables: dict[str, str]
) -> None:
    site, bucket, now = standing.site("haven", "internal"), standing.config.buckets.backups, standing.clock()
    site.write(bucket, key_of("drill"), encode(Heartbeat("drill", now, {"ok": True}), signer(bytes(31) + b"x")))
    assert state_of(file, variables, now) == "forged"


def test_x1_a_watch_that_is_killed_while_it_tells_tells_again_and_then_no_more(
    standing: Platform, file: Path, variables: dict[str, str]
) -> None:
    beat(standing, "drill", {"ok": False})
    command = [sys.executable, "-m", "rempart.cli", "watch", "--once", "--file", str(file)]
    with webhook() as hook:
        plain = yaml.safe_load(file.read_text())
        plain["alerts"] = {"on-call": {"by": "webhook", "url": hook.url}}
        file.write_text(yaml.safe_dump(plain))
        hook.answers.clear()
        killed = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)
        try:
            waited = time.monotonic()
            while not hook.posts and time.monotonic() - waited < 240:
                time.sleep(0.05)
        finally:
            killed.kill()
            killed.wait()
        assert len(hook.posts) == 1
        assert not (file.parent / "watch-state.json").exists()
        hook.answers.set()
        for _ in range(2):
            done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
            assert done.returncode == 1, done.stdout + done.stderr
        assert [post[0]["news"][0]["what"] for post in hook.posts] == ["red", "red"]
        assert set(json.loads((file.parent / "watch-state.json").read_text())["told"]["on-call"]) == {"drill"}
