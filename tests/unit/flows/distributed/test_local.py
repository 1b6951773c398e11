"""A Spark job beside Airflow: what its process gets, what is told of it, and that a lost driver runs once more."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.errors import SparkError, SparkInterrupted
from rempart.flows.distributed import local
from rempart.flows.distributed.local import LocalSpark
from rempart.settings.config import Connection
from rempart.spark import credentials, environment
from rempart.spark.order import SparkResult
from tests.memory_site import MemorySite
from tests.repositories import alive
from tests.unit.spark.orders import order

HELD = Connection("s3_primary", "aws", login="key", password="hush-hush", extra={"endpoint_url": "http://127.0.0.1:9"})
Start = Callable[..., LocalSpark]


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite("primary")
    made.ensure_bucket("lake", versioned=True)
    return made


@pytest.fixture
def backend(tmp_path: Path, site: MemorySite) -> Start:
    """A backend whose jobs run these lines instead; `order` holds the order, and `here` is a folder."""

    def made(lines: str, timeout: float = 60) -> LocalSpark:
        program = tmp_path / "job.py"
        head = (
            f"import json, os, signal, sys\nhere = {str(tmp_path)!r}\norder = json.loads(sys.stdin.buffer.readline())\n"
        )
        program.write_text(head + lines)
        return LocalSpark(site, lambda _: HELD, timedelta(seconds=timeout), (sys.executable, str(program)))

    return made


def _store(site: MemorySite) -> None:
    result = SparkResult(order_id=order().order_id, status="succeeded", decision="d" * 64)
    site.write("lake", order().key("result.json"), result.to_json())


def test_a_job_gets_its_order_and_its_credentials_and_nothing_of_airflow(
    backend: Start, site: MemorySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://hush")
    monkeypatch.setenv("SPARK_CONF_DIR", "/elsewhere")
    monkeypatch.setenv("_JAVA_OPTIONS", "-javaagent:x")
    _store(site)
    lines = f"""
file = os.environ[{credentials.VARIABLE!r}]
held = json.load(open(file))
facts = dict(mode=oct(os.stat(file).st_mode & 0o777), names=sorted(held["connections"]), secret=len(held["secret"]))
facts["leaked"] = [name for name in os.environ if name.startswith(("AIRFLOW", "SPARK_", "_JAVA"))]
facts["leaked"] += [argument for argument in sys.argv if "hush" in argument]
open(here + "/seen", "w").write(json.dumps([order["order_id"], file, facts]))
print(json.dumps(dict(at="now", stage="running", rows=3)))
"""
    with caplog.at_level(logging.INFO):
        backend(lines).run(order())
    order_id, file, facts = json.loads((tmp_path / "seen").read_text())
    assert order_id == order().order_id and not Path(file).exists()
    allowed = ["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"]
    assert facts == {"mode": "0o600", "names": ["s3_primary"], "secret": 64, "leaked": allowed}
    assert "running: rows 3" in caplog.text and "hush" not in caplog.text


def test_a_lost_driver_runs_once_more_and_its_result_counts(backend: Start, site: MemorySite, tmp_path: Path) -> None:
    _store(site)
    lines = """
first = not os.path.exists(here + "/again")
open(here + "/again", "a").write("x")
if first:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert backend(lines).run(order()).order_id == order().order_id
    assert (tmp_path / "again").read_text() == "xx"


def test_a_driver_that_is_lost_twice_is_a_failure_that_may_be_tried_again(backend: Start, tmp_path: Path) -> None:
    with pytest.raises(SparkInterrupted, match="ended twice") as lost:
        backend("open(here + '/again', 'a').write('x'); sys.exit(75)").run(order())
    assert lost.value.transient and (tmp_path / "again").read_text() == "xx"


def test_a_failure_is_told_by_its_last_lines_and_not_tried_again(backend: Start, tmp_path: Path) -> None:
    lines = """
open(here + "/again", "a").write("x")
print(json.dumps(dict(stage="failed", what="no such column")))
print("value of a row", file=sys.stderr)
sys.exit(1)
"""
    with pytest.raises(SparkError, match="failed: what no such column") as failed:
        backend(lines).run(order())
    assert (tmp_path / "again").read_text() == "x" and "value of a row" not in str(failed.value)


def test_a_process_that_cannot_say_why_it_ended_is_told_by_the_class_of_its_error(backend: Start) -> None:
    with pytest.raises(SparkError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        backend("import no_such_module").run(order())
    assert local.named("ValueError: Jeanne Martin\n  at x\n") == ["ValueError"]


def test_a_job_without_a_result_is_no_success(backend: Start) -> None:
    with pytest.raises(SparkError, match="stored no result"):
        backend("").run(order())


def test_a_job_that_takes_too_long_is_ended_with_what_it_started(backend: Start, tmp_path: Path) -> None:
    lines = """
import subprocess, time
child = subprocess.Popen(["sleep", "600"])
open(here + "/child", "w").write(str(child.pid))
time.sleep(600)
"""
    file = tmp_path / "child"
    for seconds in (5, 90):  # on a busy machine, it may be ended before it started anything
        with pytest.raises(SparkError, match="ran longer than"):
            backend(lines, timeout=seconds).run(order())
        if file.exists() and file.read_text():
            break
    child = int(file.read_text())
    for _ in range(1200):
        if not alive(child):
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("what the job started is still running")


def test_without_the_environment_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "project_root", lambda: tmp_path)
    with pytest.raises(SparkError, match="make setup-spark"):
        environment.python()
