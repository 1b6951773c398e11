"""Which errors Airflow retries: a task raises every class of the tree, and Airflow's own task runner runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RAISE_EACH = """
import importlib, json, logging, re, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4
import structlog
from airflow.sdk import DAG, task
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TIRunContext
from airflow.sdk.execution_time import task_runner
import rempart
from rempart import errors
from rempart.orchestration import replication
from rempart.orchestration.dags import task_defaults
from rempart.settings.sections import DagDefaults

# the classes of errors.py, and those that a module defines for itself
package = Path(rempart.__file__).parent
for file in sorted(package.rglob("*.py")):
    if re.search(r"^class \\w+\\((%s)\\)" % "|".join(errors.__all__), file.read_text(encoding="utf-8"), re.M):
        importlib.import_module(".".join(("rempart", *file.relative_to(package).with_suffix("").parts)))
found, classes = [errors.RempartError], []
while found:
    classes.append(found.pop())
    found += classes[-1].__subclasses__()

class Supervisor:
    def send(self, msg):
        return None

task_runner.SUPERVISOR_COMMS = Supervisor()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
now = datetime.now(UTC)
run = DagRun(dag_id="d", run_id="r", logical_date=None, data_interval_start=None, data_interval_end=None, run_after=now,
    start_date=now, end_date=None, run_type=DagRunType.MANUAL, state=DagRunState.RUNNING, consumed_asset_events=[],
    partition_key=None)

def state(error, **policy):
    "Raise the error in a task with the defaults that every DAG of ours has; the state that Airflow gives the task."
    defaults = task_defaults(DagDefaults(), owner="mlops", retries=2, timeout=timedelta(minutes=1))
    with DAG("d", schedule=None, default_args=defaults) as dag:
        @task(**policy)
        def fails():
            raise error
        fails()
    ti = task_runner.RuntimeTaskInstance.model_construct(
        id=uuid4(), task_id="fails", dag_id="d", run_id="r", try_number=1, dag_version_id=uuid4(), map_index=-1,
        hostname=None, context_carrier=None, queue="default", task=dag.get_task("fails"), bundle_instance=None,
        start_date=now, max_tries=2, is_mapped=False,
    )
    ti._ti_context_from_server = TIRunContext(dag_run=run, max_tries=2, should_retry=True)
    found, _, raised = task_runner.run(ti, ti.get_template_context(), structlog.get_logger())
    assert raised is error, raised
    return found.value

def made(kind):
    error = kind.__new__(kind, "what", "hint")
    error.what, error.hint = "what", "hint"
    return error

print(json.dumps({
    "errors": {k.__qualname__: [k.transient, state(made(k))] for k in classes},
    "last step of a replication": {
        k.__qualname__: state(made(k), retry_policy=replication.NO_RETRY) for k in classes
    },
    "other": state(ValueError("what")),
}))
"""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict:
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "REMPART_HOME": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", RAISE_EACH], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_an_error_is_retried_exactly_if_its_class_says_that_a_retry_can_help(states: dict) -> None:
    found = {name: state for name, (_, state) in states["errors"].items()}
    assert found == {
        name: "up_for_retry" if transient else "failed" for name, (transient, _) in states["errors"].items()
    }
    assert len(found) > 50 and {"SessionExpired", "ErasedMeanwhile", "BodyAltered", "AirflowApiError"} <= found.keys()


def test_an_error_that_is_not_ours_is_retried(states: dict) -> None:
    assert states["other"] == "up_for_retry"


def test_the_last_step_of_a_replication_is_never_run_again_for_an_error_of_ours(states: dict) -> None:
    assert set(states["last step of a replication"].values()) == {"failed"}
