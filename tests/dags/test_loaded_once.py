"""A process that forks for each DAG file or task loads once what all of them import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rempart.settings.telemetry import TELEMETRY_OFF

ROOT = Path(__file__).parents[2]
FILES = ("ingest", "materialize_features", "train", "validate_model", "backup_platform")
IN_FORKED_PROCESSES = """
import json, os, runpy, sys
import airflow.settings, airflow.sdk

for file in sys.argv[1:]:
    if forked := os.fork():
        if code := os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]):
            sys.exit(code)
        continue
    before = set(sys.modules)
    runpy.run_path(file)
    from rempart.orchestration import runtime
    import rempart.flows.shared.platform, rempart.sites.s3.site, boto3
    print(json.dumps(sorted(set(sys.modules) - before)), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a process forked for each DAG file imports anew, by the file."""
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "REMPART_HOME": str(ROOT)}
    env |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    command = [sys.executable, "-c", IN_FORKED_PROCESSES, *(str(ROOT / "dags" / f"{file}.py") for file in FILES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(('["', "[]"))]
    return dict(zip(FILES, told, strict=True))


@pytest.mark.parametrize("file", FILES)
def test_a_forked_process_imports_nothing_of_the_platform_again(imported: dict[str, list[str]], file: str) -> None:
    """Also not the S3 client: nearly every task has one, and its import takes longer than the DAG file."""
    again = [name for name in imported[file] if name.partition(".")[0] in ("rempart", "boto3", "botocore", "psycopg")]
    assert again == []


IN_A_TASK = """
import gc, json, os, sys
import airflow.settings, airflow.sdk, airflow.executors.local_executor

forked = os.fork()
if forked:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
before = set(sys.modules)
from airflow.sdk.listener import get_listener_manager
get_listener_manager()
import great_expectations, mlflow, onnx, mlflow.store.artifact.artifact_repository_registry
from rempart.features import indexed_store, quick_feast, repository
from rempart.features.online_store import feast_store
from rempart.features.parquet_store import feast_store, training_sets
quick_feast.load()
import rempart.flows.ingestion.reingest, rempart.flows.training.materialize, rempart.flows.training.train
import rempart.flows.training.validate
print(json.dumps([gc.get_freeze_count() > len(gc.get_objects()), sorted(set(sys.modules) - before)]), flush=True)
os._exit(0)
"""


def test_a_task_of_a_pipeline_imports_no_package_again_and_the_collector_passes_them_over(tmp_path: Path) -> None:
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    env |= {"REMPART_HOME": str(ROOT), "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"), **TELEMETRY_OFF}
    command = [sys.executable, "-c", IN_A_TASK]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    passed_over, imported = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert passed_over, "the packages are no frozen objects: each task looks through them, and copies their memory"
