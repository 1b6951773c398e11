"""A user's own DAGs under the cluster policies, in a real DagBag: refused DAGs, their messages, and unaffected DAGs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.dag_files import NOT_COPIED

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
from datetime import timedelta
from airflow.sdk import DAG, task
args = {"owner": "sales", "execution_timeout": timedelta(minutes=5)}
"""
SQL = "from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator\n"
POD = "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator\n"

FILES = {
    "good": HEAD
    + SQL
    + POD
    + """
with DAG("good", tags=["classification:personal"], default_args=args):
    SQLExecuteQueryOperator(task_id="read", conn_id="warehouse", sql="select 1")
    KubernetesPodOperator(task_id="pod", kubernetes_conn_id="k8s_a", namespace="training", image="python:3.12")
    KubernetesPodOperator.partial(
        task_id="pods", kubernetes_conn_id="k8s_a", image="registry.example.eu/team/job:1"
    ).expand(arguments=[["a"], ["b"]])
    SQLExecuteQueryOperator.partial(task_id="each", sql="select 1").expand(conn_id=["warehouse", "s3_primary"])
""",
    "unclassified": HEAD
    + """
with DAG("unclassified", tags=["sales"], default_args=args):
    @task
    def work(): ...
    work()
""",
    "twice": HEAD
    + """
with DAG("twice", tags=["classification:public", "classification:personal"], default_args=args):
    @task
    def work(): ...
    work()
""",
    "misspelt": HEAD
    + """
with DAG("misspelt", tags=["classification:secret"], default_args=args):
    @task
    def work(): ...
    work()
""",
    "undeclared_by_default": HEAD
    + """
with DAG("undeclared_by_default", tags=["classification:personal"], default_args=args):
    @task
    def work(resources={"site_conn_id": "crm_eu"}): ...
    work()
""",
    "undeclared": HEAD
    + SQL
    + """
with DAG("undeclared", tags=["classification:internal"], default_args=args):
    SQLExecuteQueryOperator(task_id="read", conn_id="crm_us", sql="select 1")
""",
    "denied_registry": HEAD
    + POD
    + """
with DAG("denied_registry", tags=["classification:internal"], default_args=args):
    KubernetesPodOperator(task_id="pod", kubernetes_conn_id="k8s_a", namespace="training", image="gcr.io/x/y:1")
""",
    "too_sensitive": HEAD
    + SQL
    + POD
    + """
with DAG("too_sensitive", tags=["classification:sensitive"], default_args=args):
    SQLExecuteQueryOperator(task_id="read", conn_id="warehouse", sql="select 1")
    KubernetesPodOperator(task_id="pod", kubernetes_conn_id="k8s_a", image="registry.example.eu/team/job:1")
""",
    "nobody": """
from airflow.sdk import DAG, task
with DAG("nobody", tags=["classification:public"]):
    @task
    def work(): ...
    work()
""",
    "everything": SQL
    + POD
    + """
from airflow.sdk import DAG, task
with DAG("everything"):
    SQLExecuteQueryOperator(task_id="read", conn_id="crm_us", sql="select 1")
    KubernetesPodOperator(task_id="pod", image="gcr.io/x/y:1", in_cluster=True)
""",
    "hidden": HEAD
    + SQL
    + POD
    + """
from airflow.sdk import BaseOperator
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

class Load(BaseOperator):
    def __init__(self, *, warehouse_conn_id="load_default", **kwargs):
        super().__init__(**kwargs)
        self._hidden = warehouse_conn_id
    def execute(self, context): ...

with DAG("hidden", tags=["classification:internal"], default_args=args,
         on_failure_callback=SmtpNotifier(to="a@example.eu", smtp_conn_id="mail_us")):
    @task
    def names():
        return ["warehouse"]
    @task
    def use(target_conn_id): ...
    @task
    def default_of(mail_conn_id="mail_default"): ...
    default_of()
    SQLExecuteQueryOperator(task_id="template", conn_id="{{ params.db }}", sql="select 1")
    SQLExecuteQueryOperator.partial(task_id="listed", sql="select 1").expand(conn_id=["warehouse", "crm_us"])
    SQLExecuteQueryOperator.partial(task_id="told", sql="select 1").expand(conn_id=names())
    SQLExecuteQueryOperator.partial(task_id="any").expand_kwargs(names())
    SQLExecuteQueryOperator.partial(task_id="rows").expand_kwargs([{"conn_id": "crm_eu", "sql": "select 1"}])
    Load.partial(task_id="default").expand(doc_md=["a", "b"])
    Load(task_id="kept", warehouse_conn_id="kept_us")
    use("passed_us")
    use.override(task_id="mapped").expand(target_conn_id=["given_us"])
    use.override(task_id="unknown").expand(target_conn_id=names())
    SQLExecuteQueryOperator(task_id="params", conn_id="warehouse", sql="select 1",
                            hook_params={"proxy_conn_id": "proxy_us"})
    KubernetesPodOperator(task_id="templated", kubernetes_conn_id="k8s_a", image="{{ params.image }}")
    KubernetesPodOperator.partial(task_id="images", kubernetes_conn_id="k8s_a").expand(image=["gcr.io/x:1"])
    KubernetesPodOperator(task_id="elsewhere", kubernetes_conn_id="k8s_a", image="python:3.12", config_file="/x")
""",
    "one_of_two": HEAD
    + """
with DAG("clean_neighbour", tags=["classification:internal"], default_args=args):
    @task
    def work(): ...
    work()
with DAG("dirty_neighbour", default_args=args):
    @task
    def work(): ...
    work()
""",
}

READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
print(json.dumps({"errors": {k.rsplit("/", 1)[-1].removesuffix(".py"): v for k, v in bag.import_errors.items()},
                  "dags": sorted(bag.dags), "tags": {d.dag_id: sorted(d.tags) for d in bag.dags.values()},
                  "docs": {d.dag_id: d.doc_md for d in bag.dags.values()},
                  "tasks": {d.dag_id: [t.task_id for t in d.tasks] for d in bag.dags.values()}}))
"""


def read(home: Path, project: Path, folder: str = "dags") -> dict:
    """What a DagBag finds in a folder of the project, in a process of its own as the dag-processor has."""
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "REMPART_HOME": str(project),
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, str(project / folder)],
        env=env, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def configure(project: Path, **changes: object) -> None:
    """The shipped rempart.yaml with a connection, a registry and a pool in the EU, and other changes."""
    plain = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    place = {"operator": "acme", "region": "par"}
    plain["operators"]["acme"] = {
        "jurisdiction": "FR",
        "owner_jurisdiction": "FR",
        "regions": {"par": {"country": "FR"}},
        "services": {
            name: {"runs_on": "acme"} for name in ("managed-postgresql", "container-registry", "managed-kubernetes")
        },
    }
    plain["connections"] = {"warehouse": place | {"service": "managed-postgresql"}}
    plain["registries"] = {"registry.example.eu/team": place | {"mirror_of": ["docker.io"]}}
    plain["gpu_pools"] = {"a": place | {"kubernetes_connection": "k8s_a", "namespace": "training"}}
    (project / "rempart.yaml").write_text(yaml.safe_dump(plain | changes), encoding="utf-8")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A folder of a user's DAG files, each in its own file."""
    project = tmp_path_factory.mktemp("project")
    configure(project)
    (project / "dags").mkdir()
    for name, text in FILES.items():
        (project / "dags" / f"{name}.py").write_text(text, encoding="utf-8")
    return read(tmp_path_factory.mktemp("airflow"), project)


def test_dags_in_other_files_keep_running(users: dict) -> None:
    assert set(users["dags"]) == {"good", "clean_neighbour"}
    assert set(users["errors"]) == set(FILES) - {"good"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("unclassified", ["[classification] the DAG: no classification is stated", 'tags=["classification:personal"]']),
        ("twice", ["2 classifications are stated: classification:personal, classification:public"]),
        ("misspelt", ["'secret' is not a classification", "classification:sensitive"]),
        (
            "undeclared",
            ["[connection] task read: conn_id: connection 'crm_us' is not declared", "connections: {crm_us: {operator"],
        ),
        ("undeclared_by_default", ["task work: resources.site_conn_id: connection 'crm_eu' is not declared"]),
        ("denied_registry", ["[image] task pod: image: image 'gcr.io/x/y:1'", "registry 'gcr.io' is not declared"]),
        ("too_sensitive", ["[connection] task read", "[image] task pod", "SecNumCloud-3.2", "for sensitive data"]),
        ("nobody", ["[owner] task work: the task's owner is 'airflow'", "[timeout] task work", "execution_timeout"]),
        ("one_of_two", ["DAG dirty_neighbour breaks 1 rule "]),
    ],
)  # fmt: skip
def test_a_refusal_names_the_rule_the_task_and_the_remedy(users: dict, file: str, message: list[str]) -> None:
    error = users["errors"][file]
    assert error.startswith("AirflowClusterPolicyViolation: ")
    for words in [*message, "What to do: ", "docs/how-to/write-your-own-dag.md"]:
        assert words in error, error


def test_all_violations_of_a_dag_stand_in_one_message(users: dict) -> None:
    error = users["errors"]["everything"]
    for rule in ("classification", "connection", "image", "owner", "timeout", "cluster"):
        assert f"[{rule}]" in error, error
    assert "'crm_us'" in error and "'kubernetes_default'" in error and "gcr.io" in error


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("template", "conn_id is known only at run time"),
        ("listed", "conn_id: connection 'crm_us' is not declared"),
        ("told", "conn_id is known only at run time"),
        ("any", "conn_id is known only at run time"),
        ("rows", "conn_id: connection 'crm_eu' is not declared"),
        ("default", "warehouse_conn_id: connection 'load_default' is not declared"),
        ("kept", "warehouse_conn_id: connection 'kept_us' is not declared"),
        ("use", "target_conn_id: connection 'passed_us' is not declared"),
        ("default_of", "mail_conn_id: connection 'mail_default' is not declared"),
        ("mapped", "target_conn_id: connection 'given_us' is not declared"),
        ("unknown", "target_conn_id is known only at run time"),
        ("params", "hook_params.proxy_conn_id: connection 'proxy_us' is not declared"),
        ("templated", "image is known only at run time"),
        ("images", "image: image 'gcr.io/x:1' is not allowed for internal data"),
        ("elsewhere", "config_file chooses a Kubernetes cluster that rempart.yaml does not declare"),
    ],
)
def test_a_name_is_found_wherever_an_operator_keeps_it(users: dict, task: str, message: str) -> None:
    lines = [line for line in users["errors"]["hidden"].splitlines() if f"task {task}: " in line]
    assert any(message in line for line in lines), (lines, users["errors"]["hidden"])


def test_a_notifier_is_part_of_the_dag(users: dict) -> None:
    assert (
        "the DAG: on_failure_callback.smtp_conn_id: connection 'mail_us' is not declared" in users["errors"]["hidden"]
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The project's own DAGs, with one good pipeline and three whose data or DAG the rules refuse."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "dags", project / "dags", ignore=NOT_COPIED)
    shutil.copytree(ROOT / "include" / "pipelines", project / "include" / "pipelines")
    shipped = yaml.safe_load((ROOT / "rempart.yaml").read_text(encoding="utf-8"))
    del shipped["policy"]["public"], shipped["retention"]["internal"]
    configure(project, policy=shipped["policy"], retention=shipped["retention"])
    good = (ROOT / "include" / "pipelines" / "hotel_bookings.yaml").read_text(encoding="utf-8")
    for name, old, new in (
        ("secret", "classification: personal", "classification: sensitive"),
        ("unruled", "classification: personal", "classification: public"),
        ("unretained", "classification: personal", "classification: internal"),
        ("nobody", "classification: personal", "classification: personal\nowner: airflow"),
    ):
        text = good.replace("name: hotel_bookings", f"name: {name}").replace(
            "prefix: hotel_bookings/", f"prefix: {name}/"
        )
        text = text.replace(old, new)
        assert text != good
        (project / f"include/pipelines/{name}.yaml").write_text(text, encoding="utf-8")
    return read(tmp_path_factory.mktemp("airflow"), project)


def test_one_refused_pipeline_never_hides_another(ours: dict) -> None:
    assert ours["errors"] == {}
    for stage in ("ingest", "materialize_features", "train", "validate_model", "roll_back_model"):
        assert ours["tasks"][f"{stage}_hotel_bookings"] != ["explain"]
    assert {"backup_platform", "restore_drill", "replicate_primary_to_haven"} <= set(ours["dags"])


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("secret", ["[data] active_site 'primary'", "[replica]", "[restore-point] backup.site", "SecNumCloud-3.2"]),
        ("unruled", ["policy.public: not declared", "Declare policy.public in rempart.yaml"]),
        ("unretained", ["retention.internal is not declared", "Declare retention.internal"]),
        ("nobody", ["[owner] task ingest: the task's owner is 'airflow'"]),
    ],
)  # fmt: skip
def test_a_refused_pipeline_is_a_dag_that_tells_why(ours: dict, pipeline: str, message: list[str]) -> None:
    dag_id = f"ingest_{pipeline}"
    assert ours["tasks"][dag_id] == ["explain"] and "broken" in ours["tags"][dag_id]
    for words in [*message, "**What to do:**"]:
        assert words in ours["docs"][dag_id], ours["docs"][dag_id]


def test_each_of_our_dags_states_what_it_handles(ours: dict) -> None:
    for dag_id, tags in ours["tags"].items():
        assert sum(tag.startswith("classification:") for tag in tags) == 1, dag_id
    assert "classification:sensitive" in ours["tags"]["backup_platform"]
    assert "classification:personal" in ours["tags"]["train_hotel_bookings"]
