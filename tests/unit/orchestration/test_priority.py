"""Background tasks give way to the tasks of pipelines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

CODE = """
import json, os, sys
from types import SimpleNamespace
from rempart.orchestration.run_listener import RunListener
task = SimpleNamespace(dag=SimpleNamespace(tags=set(json.loads(sys.argv[1]))))
for _ in range(2):  # a task that was deferred starts again
    RunListener().on_task_instance_running(None, SimpleNamespace(task=task))
print(os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.parametrize(
    ("tags", "lower"),
    [
        (("rempart", "backup", "personal"), True),
        (("rempart", "ingest", "personal"), False),
        (("rempart", "restore", "personal"), False),
        (("backup",), False),
    ],
)
def test_a_task_that_nobody_waits_for_has_a_lower_priority(tags: Sequence[str], lower: bool) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(tags)], check=True, capture_output=True, text=True, timeout=60
    )
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(asked.stdout.split()[-1]) == (max(here, 5) if lower else here)
