"""The DAG of the drill as Airflow runs it: which tasks run after a failure, and how the run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from airflow.utils import db
from rempart.errors import DatabaseUnavailable, DrillFailed
from rempart.backup.drill.checks import RestoreCheck
from rempart.flows.drill import drill_prove, drill_restore, drill_sandbox, drill_verdict
from rempart.flows.drill.drill_steps import StepResult
from rempart.orchestration import runtime

db.upgradedb()  # as `airflow db migrate` does
runtime.platform = lambda: None
sys.path.insert(0, "dags")
import restore_drill

def states(ends):
    ran, ids = [], set()
    def step(name):
        def run(platform, drill_id, *arguments, **named):
            ran.append(name)
            ids.add(drill_id)
            end = ends.get(name)
            if end == "raises":
                raise DatabaseUnavailable("no server", "start it")
            red = (RestoreCheck("a check", False, "of the test"),) if end == "red" else ()
            return StepResult(drill_id, name, "point", 1.0, red)
        return run
    drill_restore.restore, drill_prove.prove = step("restore"), step("prove")
    drill_sandbox.clean_up = step("clean up")
    def report(platform, drill_id):
        step("report")(platform, drill_id)
        if ends:
            raise DrillFailed("red", "read")
        return drill_verdict.DrillResult(True, "point", 1.0, 1.0, ())
    drill_verdict.report = report
    made = restore_drill.dag.test()
    tasks = {ti.task_id: str(ti.state) for ti in made.get_task_instances()}
    return {"run": str(made.state), "tasks": tasks, "ran": ran, "ids": len(ids)}

for task in restore_drill.dag.tasks:
    task.retries = 0
print(json.dumps({name: states(ends) for name, ends in json.loads(sys.argv[1]).items()}))
"""
CASES: dict[str, dict[str, str]] = {
    "green": {},
    "a database is not as recorded": {"restore": "red"},
    "a proof fails": {"prove": "red"},
    "the restore cannot start": {"restore": "raises", "prove": "raises"},
    "the proofs are cut off": {"prove": "raises"},
    "the sandbox stays": {"clean up": "raises"},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    clean |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "REMPART_HOME": str(ROOT)}
    clean |= {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "PYTHONPATH": str(ROOT / "include")}
    clean["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(ROOT / "plugins")
    command = [sys.executable, "-c", RUN, json.dumps(CASES)]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_clean_up_and_report_run_whatever_happened_before(ended: dict[str, Any], case: str) -> None:
    assert ended[case]["ran"][-2:] == ["clean up", "report"] and ended[case]["ids"] == 1
    assert list(ended[case]["tasks"]) and set(ended[case]["tasks"]) == {"restore", "prove", "clean_up", "report"}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_red_where_a_step_is(ended: dict[str, Any], case: str) -> None:
    wrong = {name.replace(" ", "_") for name in CASES[case]}
    red = {name for name, state in ended[case]["tasks"].items() if state == "failed"}
    assert red == (wrong | {"report"} if wrong else set())
    assert ended[case]["run"] == ("failed" if wrong else "success")
