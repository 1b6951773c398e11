"""Leftover processes of a killed service are found by their marker and ended; no other process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rempart.deployment.setup import launch, paths
from rempart.settings import config
from tests.repositories import alive

ROOT = Path(__file__).resolve().parents[4]

# A server whose child ignores TERM and lives in a session of its own, as LocalExecutor's workers do.
CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(120)
"""
SERVER = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def stack(tmp_path: Path) -> paths.Stack:  # not the running one
    return paths.Stack(ROOT, tmp_path, config.load(ROOT / "rempart.yaml"))


def start(marker: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=os.environ | {"REMPART_SERVICE": marker}, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    return server, psutil.Process(int(server.stdout.readline()))


@pytest.fixture
def servers(stack: paths.Stack) -> Iterator[dict[str, tuple[subprocess.Popen[str], psutil.Process]]]:
    made = {name: start(f"{stack.id}:{name}") for name in ("airflow-scheduler", "mlflow")}
    yield made
    for server, child in made.values():
        server.kill()
        server.wait()
        with suppress(psutil.NoSuchProcess):
            child.kill()


def test_the_descendants_of_a_killed_service_are_ended(
    stack: paths.Stack,
    servers: dict[str, tuple[subprocess.Popen[str], psutil.Process]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch.end, "__defaults__", (0.5,))
    server, child = servers["airflow-scheduler"]
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    time.sleep(0.1)
    assert child.is_running(), "the test's child died with its parent: it proves nothing"
    assert launch.reap(stack, "airflow-scheduler") == 1
    assert not alive(child.pid)
    other, its_child = servers["mlflow"]
    assert other.poll() is None and its_child.is_running()


def test_members_of_its_group_are_ended_though_their_environment_tells_nothing(
    stack: paths.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's task workers hide their environment from an ordinary user; here the child has no marker at all."""
    monkeypatch.setattr(launch.end, "__defaults__", (0.5,))
    program = SERVER.replace("start_new_session=True", "env={}")
    server = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    child = psutil.Process(int(server.stdout.readline()))
    try:
        launch.record_group(stack, "airflow-scheduler", server.pid)
        server.kill()
        server.wait()
        assert child.is_running()
        assert launch.reap(stack, "mlflow") == 0 and child.is_running()
        assert launch.reap(stack, "airflow-scheduler") == 1
        assert not alive(child.pid)
    finally:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_group_on_record_whose_number_is_another_processs_by_now_is_left_alone(stack: paths.Stack) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        launch.record_group(stack, "mlflow", other.pid)
        assert [process.pid for process in launch.leftovers(stack)] == [other.pid]
        record = stack.state / "groups" / "mlflow"
        group, born, boot = record.read_text().split()
        for stale in (f"{group} {int(born) - 500} {boot}", f"{group} {born} another-boot"):
            record.write_text(stale)
            assert launch.leftovers(stack) == []
    finally:
        other.kill()
        other.wait()


def test_a_record_is_replaced_whole_and_what_is_being_written_is_none(stack: paths.Stack) -> None:
    launch.record_group(stack, "mlflow", os.getpid())
    record = stack.state / "groups" / "mlflow"
    content = record.read_text()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        with record.open() as reader:  # it opened the record before the service was started again
            launch.record_group(stack, "mlflow", other.pid)
            assert reader.read() == content != record.read_text()
        (record.parent / ".site-primary.part").touch()
        assert [process.pid for process in launch.grouped(stack)] == [other.pid]
    finally:
        other.kill()
        other.wait()


def test_a_group_that_is_forgotten_is_nobodys_leftover(stack: paths.Stack) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        launch.record_group(stack, "watchdog", other.pid)
        launch.forget_group(stack, "watchdog")
        assert launch.leftovers(stack, "watchdog") == []
    finally:
        other.kill()
        other.wait()


def test_only_this_stacks_processes_are_found(
    stack: paths.Stack, servers: dict[str, tuple[subprocess.Popen[str], psutil.Process]], tmp_path: Path
) -> None:
    assert {p.pid for p in launch.leftovers(stack)} == {s.pid for s, _ in servers.values()} | {
        c.pid for _, c in servers.values()
    }
    neighbour = paths.Stack(ROOT, tmp_path / "other", stack.config)
    assert launch.leftovers(neighbour) == []


def test_a_service_never_ends_itself_or_its_ancestors(stack: paths.Stack) -> None:
    program = (
        "import sys; from pathlib import Path; from rempart.settings import config\n"
        "from rempart.deployment.setup import launch, paths\n"
        "root, var = map(Path, sys.argv[1:])\n"
        "print(launch.reap(paths.Stack(root, var, config.load(root / 'rempart.yaml')), 'mlflow'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(stack.root), str(stack.var)],
        env=os.environ | {"REMPART_SERVICE": f"{stack.id}:mlflow"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "0", done.stderr
