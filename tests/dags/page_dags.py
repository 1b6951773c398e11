"""The DAGs of a page of the documentation, read by Airflow in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def read_dags(script: str, project: Path, airflow_home: Path) -> Any:
    """Run a script with the folder of a project's DAGs as its argument; return the JSON that it prints."""
    env = os.environ | {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "REMPART_HOME": str(project),
    }
    command = [sys.executable, "-c", script, str(project / "dags")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
