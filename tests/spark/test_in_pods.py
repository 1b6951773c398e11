"""A job in pods leaves what DuckDB leaves, whatever becomes of an executor, and needs no right but to pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from rempart.settings import config as configuration

ALLOWED = re.compile(r"(GET|POST|DELETE) /api/v1/namespaces/training-gpu-a/pods(/\S+)? (20\d|101|404|0)\Z")
"""404: an executor that is gone already; 0: a watch that goes on."""


def test_a_killed_executor_pod_changes_nothing(tmp_path: Path) -> None:
    root = configuration.project_root()
    environment = {**os.environ, "PYTHONPATH": f"{root / 'include'}:{root}", "REMPART_HOME": str(root)}
    command = [str(root / ".venv" / "bin" / "python"), "-m", "tests.spark.in_pods", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["spark"] == told["duckdb"]
    assert told["spark"]["accepted"] > 5_000
    # a driver, two executors, and perhaps one that replaced the killed one, all on nodes where the law holds
    executors = {name: node for name, node in told["pods"].items() if "-exec-" in name}
    assert told["killed"] in executors and len(executors) >= 2 and len(told["pods"]) == len(executors) + 1
    assert all(executors[pod] for pod in executors if pod != told["killed"]) and "oregon-1" not in told["pods"].values()
    (attempt,) = told["where"]["attempts"]
    assert attempt["outcome"] == "succeeded" and attempt["pool"] == "gpu-a" and attempt["cost"]["euros"] > 0
    assert {pod["role"] for pod in attempt["pods"]} == {"driver", "executor"}
    assert any(line.startswith("done: job_id") for line in told["log"])  # the driver's own
    assert told["twice"] == [] and told["shown"] is False
    assert [request for request in told["requests"] if not ALLOWED.match(request)] == []
