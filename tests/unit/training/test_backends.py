"""The local backend: a process that fails, hangs, prints nothing or leaves no result."""

import re
import sys
import time
from datetime import timedelta

import pytest

from rempart.errors import TrackingUnavailable, TrainingError
from rempart.settings.config import Connection
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.training.backends import LocalBackend, bare_environment, readable
from tests.repositories import alive
from tests.unit.training import stage
from tests.unit.training.test_job import result, spec


def backend(code: str, seconds: float = 20, site=None) -> LocalBackend:
    def connection(name):
        return Connection(name, "aws", password=f"secret-of-{name}", extra={"endpoint_url": "http://127.0.0.1:1"})

    command = (sys.executable, "-c", code)
    return LocalBackend(site or stage.memory_site(), connection, timedelta(seconds=seconds), command)


def test_a_failure_ends_with_the_last_lines():
    code = 'import sys; print(\'{"stage": "failed", "what": "no parameter x"}\'); sys.exit(1)'
    with pytest.raises(TrainingError, match=r"(?s)status 1.*failed: what no parameter x"):
        backend(code).run(spec())


def test_a_job_that_ends_well_without_a_result_is_a_failure():  # T5
    with pytest.raises(TrainingError, match="stored no result"):
        backend("pass").run(spec())


def test_a_result_with_a_number_that_is_none_is_a_failure():  # T6
    site = stage.memory_site()
    site.write("artifacts", spec().key("result.json"), result(metrics={"mae": float("nan")}).encode())
    with pytest.raises(TrainingError, match="not finite"):
        backend("pass", site=site).run(spec())


def test_a_service_that_does_not_answer_is_worth_a_retry():
    with pytest.raises(TrackingUnavailable, match="a service did not answer"):
        backend("import sys; sys.exit(75)").run(spec())


@pytest.mark.full
def test_a_job_past_its_time_is_ended_with_all_its_processes():
    start = "import subprocess, time; child = subprocess.Popen(['sleep', '600'])"
    code = f"{start}; print('up as', child.pid, flush=True); time.sleep(600)"
    for seconds in (8, 90):  # on a busy machine, it may be ended before it started anything
        with pytest.raises(TrainingError, match="ran longer than") as ended:
            backend(code, seconds=seconds).run(spec())
        if told := re.search(r"up as (\d+)", str(ended.value)):
            break
    child = int(told[1])
    deadline = time.monotonic() + 60
    while alive(child):
        assert time.monotonic() < deadline, "what the job started is still running"
        time.sleep(0.1)


def test_the_job_gets_the_connections_of_its_spec_and_no_others(monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW_CONN_PG_AIRFLOW", "postgresql://top-secret")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "top-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "top-secret")
    with pytest.raises(TrainingError):
        backend("import os; print(sorted(k for k in os.environ if 'AIRFLOW' in k or 'MLFLOW' in k))").run(spec())
    switches = [name for name in TELEMETRY_OFF if "AIRFLOW" in name or "MLFLOW" in name]
    assert caplog.messages == [str(sorted(["AIRFLOW_CONN_MLFLOW", "AIRFLOW_CONN_S3_PRIMARY", *switches]))]


def test_a_job_inherits_what_it_needs_and_nothing_that_nobody_thought_of(monkeypatch, caplog):
    for secret in ("REMPART_AIRFLOW_FERNET_KEY", "AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN", "DATABASE_URL", "ANY_NAME"):
        monkeypatch.setenv(secret, "top-secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with pytest.raises(TrainingError):
        backend("import os; print('top-secret' in os.environ.values(), os.environ['CUDA_VISIBLE_DEVICES'])").run(spec())
    assert caplog.messages == ["False 1"]
    assert bare_environment()["https_proxy"] == "http://proxy.example:3128" and "PATH" in bare_environment()


def test_lines_are_readable():
    assert readable('{"at": "x", "stage": "trained", "mae": 1.5}') == "trained: mae 1.5"
    assert readable("plain" * 100) == ("plain" * 100)[:300]
    assert readable("[1]") == "[1]"
    assert readable("[" * 100_000) == "[" * 300
