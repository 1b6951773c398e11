"""Background tasks give way to the tasks of pipelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import json, os, sys
from types import SimpleNamespace
from rempart.orchestration.run_listener import RunListener
for tags in json.loads(sys.argv[1]):  # a process each, as a task has one
    if forked := os.fork():
        os.waitpid(forked, 0)
        continue
    task = SimpleNamespace(dag=SimpleNamespace(tags=set(tags)))
    for _ in range(2):  # a task that was deferred starts again
        RunListener().on_task_instance_running(None, SimpleNamespace(task=task))
    print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
    os._exit(0)
"""
LOWER = {
    ("rempart", "backup", "personal"): True,
    ("rempart", "ingest", "personal"): False,
    ("rempart", "restore", "personal"): False,
    ("backup",): False,
}
"""Tags of a task's DAG, and whether the task has a lower priority."""


def test_a_task_that_nobody_waits_for_has_a_lower_priority() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(list(LOWER))], check=True, capture_output=True, text=True, timeout=60
    )
    here = os.getpriority(os.PRIO_PROCESS, 0)
    found = [int(line) for line in asked.stdout.splitlines()]
    assert dict(zip(LOWER, found, strict=True)) == {
        tags: max(here, 5) if lower else here for tags, lower in LOWER.items()
    }
