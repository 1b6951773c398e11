"""The table of processor time names the costliest modules first, and adds up all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import processor_time

ROOT = Path(__file__).parents[2]
SPENDS = """
import time
import pytest

@pytest.mark.parametrize("number", range(2))
def test_spends(number):
    until = time.process_time() + {seconds}
    while time.process_time() < until:
        pass
"""


def test_the_costliest_modules_come_first_and_the_sum_is_that_of_all() -> None:
    spent = {f"tests/test_{number}.py": float(number) for number in range(processor_time.SHOWN + 5)}
    *modules, whole = processor_time.table(spent)
    assert modules[0].split() == ["34.0", "s", "tests/test_34.py"] and len(modules) == processor_time.SHOWN
    assert whole.split() == [f"{sum(spent.values()):.1f}", "s", "35", "modules"]


def test_a_run_of_several_processes_tells_the_time_of_its_modules(tmp_path: Path) -> None:
    for name, seconds in (("little", 0.0), ("much", 0.3)):
        (tmp_path / f"test_{name}.py").write_text(SPENDS.format(seconds=seconds), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.processor_time", "-p", "no:cacheprovider", "-n", "2"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.partition("processor time by module")[2]
    lines = [line for line in table.splitlines() if " s  " in line]
    assert [line.split()[2] for line in lines] == ["test_much.py", "test_little.py", "2"]
    assert float(lines[0].split()[0]) >= 0.6
