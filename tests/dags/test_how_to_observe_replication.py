"""docs/how-to/observe-replication.md, executed: its DAG passes the rules, and trains only on a fresh replica."""

from __future__ import annotations

import re
import shutil

import pytest

from rempart.settings.config import project_root
from rempart.settings.sections import ReplicationPair
from tests.dags.page_dags import read_dags

ROOT = project_root()
PAGE = (ROOT / "docs" / "how-to" / "observe-replication.md").read_text(encoding="utf-8")

READ = """
import json, sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from rempart.orchestration import assets
bag = DagBag(dag_folder=sys.argv[1])
task = bag.dags["train_at_haven"].get_task("is_fresh")
ours = assets.replica("primary", "haven")
(inlet,) = task.inlets
def fresh(*events):
    at = lambda age: datetime.now(UTC) - timedelta(minutes=age)
    found = [SimpleNamespace(timestamp=at(age), extra=extra) for age, extra in events]
    return task.python_callable(inlet_events={inlet: found})
print(json.dumps({
    "errors": bag.import_errors,
    "same": (inlet.name, inlet.uri) == (ours.name, ours.uri),
    "fresh": [
        fresh((60, {"seconds": 4.0, "lag_seconds": 0.0}), (5, {"seconds": 4.0, "lag_seconds": 0.0})),
        fresh((5, {"seconds": 4.0, "lag_seconds": 0.0}), (16, {"seconds": 4.0, "lag_seconds": 0.0})),
        fresh((5, {"seconds": 4.0, "lag_seconds": 601.0})),
        fresh((5, {"seconds": 700.0, "lag_seconds": 0.0})),
        fresh(),
    ],
}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    project = tmp_path_factory.mktemp("project")
    (project / "dags").mkdir()
    shutil.copytree(ROOT / "include" / "operators", project / "include" / "operators")
    shutil.copy(ROOT / "rempart.yaml", project)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (project / "dags" / "train_at_haven.py").write_text(block, encoding="utf-8")
    return read_dags(READ, project, tmp_path_factory.mktemp("airflow"))


def test_the_dag_of_the_page_passes_and_names_our_asset(told: dict) -> None:
    assert told["errors"] == {} and told["same"]


def test_it_goes_on_only_if_what_may_be_missing_is_younger_than_it_says(told: dict) -> None:
    assert told["fresh"] == [True, False, False, False, False]


def test_every_gauge_and_only_those_stand_on_the_page() -> None:
    text = (ROOT / "include/rempart/orchestration/replication.py").read_text(encoding="utf-8")
    gauges = re.search(r"GAUGES = \((.*)\)", text)
    assert gauges
    sent = {*re.findall(r'"(\w+)"', gauges[1]), "measured_at"}
    rows = [line for line in PAGE.splitlines() if line.startswith("| `rempart.replication.")]
    named = {name.removeprefix("rempart.replication.") for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert named == sent


def test_the_objective_of_the_example_is_the_default() -> None:
    assert ReplicationPair(source="a", target="b").lag_objective.total_seconds() == 15 * 60
