"""The log of a running task holds the task's lines, and no error of a connection to a log server that never starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import json, sys
from types import SimpleNamespace
from airflow.logging_config import configure_logging
configure_logging()
import logging
from airflow.utils.log.log_reader import TaskLogReader
handler = TaskLogReader().log_handler
handler._render_filename = lambda ti, try_number: "d/attempt=1.log"
handler._get_executor_get_task_log = lambda ti: lambda *_: ([], [])
def told(state):
    ti = SimpleNamespace(state=state, try_number=1, hostname="127.0.0.1", triggerer_job=None, task=None, id="x",
                         dag_id="d", queued_by_job_id=None, executor=None)
    stream, _ = handler._read(ti, 1)
    return [str(line.event) for line in stream]
print(json.dumps([told(state) for state in sys.argv[1:]]))
"""


@pytest.mark.parametrize("ours", [True, False])
def test_a_running_tasks_log_asks_no_log_server(tmp_path: Path, ours: bool) -> None:
    log = tmp_path / "logs" / "d" / "attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text('{"timestamp": "2026-11-01T00:00:00Z", "level": "info", "event": "what the task wrote"}\n')
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path / "logs"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "9",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "9",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    if ours:
        env["AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS"] = "rempart.orchestration.shared_logs.LOGGING_CONFIG"
    done = subprocess.run(
        [sys.executable, "-c", READ, "running", "deferred"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    running, deferred = json.loads(done.stdout.strip().splitlines()[-1])
    assert "what the task wrote" in running and "what the task wrote" in deferred
    # without ours, to see that the test would notice
    assert any("served logs" in line for line in running) == (not ours)
    assert not ours or not any("served logs" in line for line in deferred)
