"""A server that follows the active site: it stops while the site is fenced, and starts at the next one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from rempart.coordination.active import Active, MemoryActiveSites
from rempart.coordination.failover import Switchover
from rempart.deployment.servers import mlflow_supervisor
from rempart.deployment.setup import credentials, environment, paths, services
from rempart.errors import DatabaseUnavailable
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]
SWITCHOVER = Switchover("j", "failover", "primary", "haven")


class Started:
    """Children that run until they are ended, or end by themselves with a status."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def __call__(self, site: str) -> subprocess.Popen[bytes]:
        code = "import sys, threading; threading.Event().wait(60)"
        self.children.append(subprocess.Popen([sys.executable, "-c", code]))
        self.at.append(site)
        return self.children[-1]


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to it"
        time.sleep(0.02)


def followed(sites: MemoryActiveSites, start: Started) -> tuple[threading.Thread, list[int]]:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(mlflow_supervisor.supervise(sites, start, 0.05)))
    thread.start()
    return thread, codes


def test_it_stops_at_a_fence_and_starts_where_the_site_is_next_and_ends_with_its_child(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sites, start = MemoryActiveSites("primary"), Started()
    thread, codes = followed(sites, start)
    until(lambda: start.at == ["primary"])
    assert not sites.settle(0), "while it runs it is a writer: no fence is complete"
    with sites.hold_lease("test") as lease:
        fenced = sites.advance(lease, sites.active(), Active(0, "primary", "fenced", SWITCHOVER))
        until(lambda: start.children[0].poll() is not None)
        until(lambda: sites.settle(0))
        time.sleep(0.2)
        assert start.at == ["primary"], "nothing runs while the site is fenced"
        sites.advance(lease, fenced, Active(0, "haven", "active", SWITCHOVER))
    until(lambda: start.at == ["primary", "haven"])
    start.children[1].kill()
    thread.join(60)
    assert codes == [-9], "a supervisor starts it again"
    assert "is fenced (generation 1)" in caplog.text


def test_while_the_database_is_away_the_server_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemoryActiveSites):
        gone = False

        @contextmanager
        def committing(self, began: Active, *, lasting: bool = False):  # type: ignore[no-untyped-def]
            with super().committing(began, lasting=lasting) as unchanged:

                def asked() -> bool:
                    if self.gone:
                        raise DatabaseUnavailable("no answer", "Wait.")
                    return unchanged()

                yield asked

    sites, start = Away("primary"), Started()
    thread, codes = followed(sites, start)
    until(lambda: start.at == ["primary"])
    sites.gone = True
    until(lambda: "no answer" in caplog.text)
    sites.gone = False
    time.sleep(0.3)
    assert start.at == ["primary"] and start.children[0].poll() is None
    start.children[0].kill()
    thread.join(60)
    assert codes == [-9]


def test_no_secret_is_in_a_command_line_and_each_site_has_its_own_keys(tmp_path: Path) -> None:
    stack = paths.Stack(ROOT, tmp_path, config.load(ROOT / "rempart.yaml"))
    secrets = credentials.plan(stack, {}, credentials.new_token, credentials.new_fernet_key)
    found = {site: environment.mlflow(stack, secrets, {}, site) for site in ("primary", "haven")}
    keys = {site: variables["AWS_SECRET_ACCESS_KEY"] for site, variables in found.items()}
    assert keys["primary"] != keys["haven"]
    assert {variables["MLFLOW_S3_ENDPOINT_URL"] for variables in found.values()} == {
        "http://127.0.0.1:18333",
        "http://127.0.0.1:18433",
    }
    line = " ".join((*mlflow_supervisor.command(stack, "127.0.0.1", 15000, "x"), *services.mlflow(stack).command))
    assert not any(key in line for key in keys.values())
    assert "s3://artifacts/mlflow" in line
    own = environment.of(stack, secrets, {}, "mlflow")
    assert not any(key in str(own) for key in keys.values()), "what follows the site reads them where they are kept"


def test_it_can_be_run_by_hand() -> None:
    command = [sys.executable, "-m", "rempart.cli", "run", "mlflow", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "active site" in done.stdout
