"""A user puts DAG files into dags/ of the running platform: the UI reports bad ones, all others keep running.

While they are there, tests of other processes read dags/, too. Those that copy it leave this folder out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rempart.airflow_api import AirflowApi
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from tests.dag_files import DROPPED
from tests.levels import unpaused

pytestmark = pytest.mark.stack

HEAD = '''"""A DAG of a user.

**When it fails**: it is a test's.
"""
from datetime import timedelta
from airflow.sdk import DAG, task
args = {"owner": "sales", "execution_timeout": timedelta(minutes=5)}
'''
FILES = {
    "user_clean": """
with DAG("user_clean", tags=["classification:internal"], default_args=args, doc_md=__doc__,
         is_paused_upon_creation=False):
    @task
    def work():
        return {"done": True}
    work()
""",
    "user_unclassified": """
with DAG("user_unclassified", default_args=args, doc_md=__doc__):
    @task
    def work(): ...
    work()
""",
    "user_undeclared": """
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
with DAG("user_undeclared", tags=["classification:personal"], default_args=args, doc_md=__doc__):
    SQLExecuteQueryOperator(task_id="read", conn_id="crm_us", sql="select 1")
""",
    "user_registry": """
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
with DAG("user_registry", tags=["classification:personal"], default_args=args, doc_md=__doc__):
    KubernetesPodOperator(task_id="pod", image="gcr.io/somebody/job:1")
""",
}


def wait(what: str, until: Callable[[], Any], timeout: float = 300) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := until()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(2)
    return found


def errors(api: AirflowApi) -> dict[str, str]:
    """What the UI shows of files that could not be imported, by the file's stem."""
    found = api.get("/api/v2/importErrors")["import_errors"]
    return {Path(error["filename"]).stem: error["stack_trace"] for error in found}


@pytest.fixture(scope="module")
def api(platform: Platform) -> AirflowApi:
    return AirflowApi(config.environment_connections("airflow_api"))


@pytest.fixture(scope="module")
def before(api: AirflowApi) -> set[str]:
    return set(api.dag_ids())


@pytest.fixture(scope="module")
def dropped(api: AirflowApi, before: set[str]) -> Iterator[dict[str, str]]:
    """The import errors after a user's files were dropped; the files and what Airflow knows of them go at the end."""
    folder = config.project_root() / "dags" / DROPPED
    folder.mkdir()
    try:
        for name, text in FILES.items():
            (folder / f"{name}.py").write_text(HEAD + text, encoding="utf-8")
        bad = set(FILES) - {"user_clean"}
        wait("the import errors", lambda: bad <= set(errors(api)))
        wait("the clean DAG", lambda: "user_clean" in api.dag_ids())
        yield errors(api)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        wait("the files are forgotten", lambda: not errors(api).keys() & FILES.keys() and set(api.dag_ids()) == before)
        shutil.rmtree(folder, ignore_errors=True)  # what a process compiled meanwhile


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("user_unclassified", ["[classification] the DAG: no classification is stated", "classification:personal"]),
        ("user_undeclared", ["[connection] task read: conn_id: connection 'crm_us' is not declared in rempart.yaml"]),
        ("user_registry", ["[image] task pod: image: image 'gcr.io/somebody/job:1'", "registry 'gcr.io' is not"]),
    ],
)  # fmt: skip
def test_the_ui_shows_the_rule_and_the_remedy(dropped: dict[str, str], file: str, message: list[str]) -> None:
    for words in [*message, f"DAG {file} breaks ", "What to do: ", "docs/how-to/write-your-own-dag.md"]:
        assert words in dropped[file], dropped[file]


@pytest.mark.full
def test_dags_in_other_files_keep_running(dropped: dict[str, str], before: set[str], api: AirflowApi) -> None:
    assert set(dropped) == set(FILES) - {"user_clean"}
    assert set(api.dag_ids()) == before | {"user_clean"}
    with unpaused(api, "user_clean"):
        run = api.trigger("user_clean")
        api.follow("user_clean", run, lambda line: None, timeout=300)
    assert api.result("user_clean", run, "work") == {"done": True}
    details = api.get("/api/v2/dags/ingest_hotel_bookings/details")
    assert not details["has_import_errors"] and "classification:personal" in str(details["tags"])
