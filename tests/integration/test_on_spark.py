"""The tests of Spark, in the environment in which its jobs run: they need its Java, and no server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-spark" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.is_file(), reason="there is no .venv-spark: `make setup-spark` makes it")
def test_on_spark() -> None:
    command = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--confcutdir=tests/spark", "tests/spark"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTEST_"))}
    environment = {**kept, "REMPART_HOME": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
