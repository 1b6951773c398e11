"""docs/how-to/write-your-own-dag.md, executed: its configuration and DAG pass, and the refusal is the one shown."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.dags.page_dags import read_dags

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "write-your-own-dag.md").read_text(encoding="utf-8")

READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
bag = DagBag(dag_folder=sys.argv[1])
told = {"errors": {k.rsplit("/", 1)[-1]: v for k, v in bag.import_errors.items()}, "dags": sorted(bag.dags)}
task = bag.dags["invoices_due"].get_task("remind")
task.labels = {"rempart.eu/classification": "personal"}
told["pod"] = PodGenerator.serialize_pod(task.build_pod_request_obj(dry_run=True))
print(json.dumps(told))
"""


def block(language: str) -> str:
    """The page's one block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    project = tmp_path_factory.mktemp("project")
    (project / "dags").mkdir()
    shutil.copytree(ROOT / "include" / "operators", project / "include" / "operators")
    shipped = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    (project / "rempart.yaml").write_text(yaml.safe_dump(shipped | yaml.safe_load(block("yaml"))), encoding="utf-8")
    good = block("python")
    bad = good.replace('"sales", "classification:personal"', '"sales"').replace("warehouse", "crm")
    assert bad != good
    (project / "dags" / "good.py").write_text(good, encoding="utf-8")
    (project / "dags" / "bad.py").write_text(bad, encoding="utf-8")
    return read_dags(READ, project, tmp_path_factory.mktemp("airflow"))


def test_the_dag_of_the_page_passes(told: dict) -> None:
    assert told["dags"] == ["invoices_due"] and set(told["errors"]) == {"bad.py"}


def test_the_refusal_is_the_one_that_the_page_shows(told: dict) -> None:
    assert told["errors"]["bad.py"] == f"AirflowClusterPolicyViolation: {block('text').strip()}"


def test_its_pod_may_run(told: dict) -> None:
    (container,) = told["pod"]["spec"]["containers"]
    assert container["image"] == "rg.fr-par.scw.cloud/acme/docker.io/library/python:3.12-slim"
    assert told["pod"]["spec"]["securityContext"]["runAsUser"] == 1000
