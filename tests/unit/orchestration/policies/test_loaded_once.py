"""A process that forks for each task has loaded what ingestion imports; one that forks for DAG files has not."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKED = """
import os, sys
import airflow.sdk
{executor}
from rempart.orchestration.policies import cluster_policies
if (child := os.fork()) == 0:
    from rempart.ingestion import expectations
    print("great_expectations" in sys.modules and "rempart.flows.ingestion.reingest" in sys.modules)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("executor", "loaded"), [("import airflow.executors.local_executor", "True"), ("", "False")])
def test_only_a_process_that_runs_tasks_loads_great_expectations(executor: str, loaded: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED.format(executor=executor)], capture_output=True, text=True, check=True
    )
    *log, told = done.stdout.splitlines()
    assert told == loaded, done.stderr
    assert not [line for line in log if "great_expectations" in line]
