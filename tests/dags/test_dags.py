"""The DAG files as Airflow sees them: their DAG ids and pages, and that a fault in one affects no other."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pods, used_project
from tests.dag_files import NOT_COPIED
from tests.derived_project import TRIPS, WEATHER, WET, write_project
from tests.labelled_project import ORDERS, PAYMENTS

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "backup_platform", "export_evidence", "fail_back", "fail_over", "ingest_hotel_bookings",
    "materialize_features_hotel_bookings", "monitor_hotel_bookings", "preview_quarantine_hotel_bookings",
    "probe_sites", "profile_data_hotel_bookings", "replicate_primary_to_haven", "restore_drill",
    "restore_to_sandbox", "retire_models", "roll_back_model_hotel_bookings", "score_hotel_bookings",
    "ship_predictions", "train_hotel_bookings", "validate_model_hotel_bookings", "verify_replicas",
}  # fmt: skip
HEAVY = {"boto3", "mlflow", "feast", "great_expectations", "kubernetes", "pandas", "pyarrow", "sklearn", "onnxruntime"}
HEAVY |= {"optuna"}

READ_DAGS = """
import json, os, sys
from datetime import timedelta
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import timezone
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction
def stored_links(dag):
    # what the API server knows of links: no code of ours runs there
    tasks = DagSerialization.to_dict(dag)["dag"]["tasks"]
    return {t["__var"]["task_id"]: t["__var"].get("_operator_extra_links", {}) for t in tasks}
def stored_timetable(dag):
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    return getattr(timetable, "timetable", timetable)
def waits(dag):
    # whether a platform that is new an hour after a time of the DAG's cron expression waits for the next time
    cron = stored_timetable(dag)
    if not isinstance(cron, trigger.CronTriggerTimetable):
        return None
    now = cron._align_to_prev(timezone.utcnow()) + timedelta(hours=1)
    trigger.utcnow = lambda: now
    asked = TimeRestriction(earliest=None, latest=None, catchup=dag.catchup)
    return cron.next_dagrun_info(last_automated_data_interval=None, restriction=asked).run_after > now
heavy = json.loads(sys.argv[2])
def told(bag):
    return {
        "errors": bag.import_errors,
        "heavy": sorted(m for m in heavy if m in sys.modules),
        "dags": {d.dag_id: {
            "doc": d.doc_md, "tags": sorted(d.tags), "paused": d.is_paused_upon_creation, "runs": d.max_active_runs,
            "params": {k: d.params.get_param(k).serialize().get("schema", {})
                          | {"description": d.params.get_param(k).description} for k in d.params},
            "links": stored_links(d), "waits": waits(d),
            "timetable": type(stored_timetable(d)).__name__,
            "assets": sorted(str(asset.uri) for asset in d.timetable.asset_condition.objects)
                      if hasattr(getattr(d.timetable, "asset_condition", None), "objects") else [],
            "tasks": [{"id": t.task_id, "owner": t.owner, "retries": t.retries, "policy": t.retry_policy is not None,
                       "weight": [t.priority_weight, str(getattr(t.weight_rule, "value", t.weight_rule))],
                       "timeout": t.execution_timeout and t.execution_timeout.total_seconds()} for t in d.tasks],
        } for d in bag.dags.values()},
    }
print(json.dumps(told(DagBag(dag_folder=sys.argv[1]))), flush=True)
for dag_id in json.loads(sys.argv[3]):  # a process each, which has from this one what it imports
    if forked := os.fork():
        if code := os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]):
            sys.exit(code)
        continue
    os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = dag_id
    print(json.dumps(told(DagBag(dag_folder=sys.argv[1]))), flush=True)
    os._exit(0)
"""

APPROVED = "approval: {by: operator, within: 36h, notify: [chat]}"
LEARNS = "retrain: {on_drift: true, on_features: false, cool_down: 7d, at_most: {trainings: 4, days: 30}}\n"
SEARCH = "search: {params: {cat_smooth: {low: 5, high: 100, log: true}}, trials: 10, at_once: 4}"
CHURN = """
from datetime import timedelta
from airflow.sdk import DAG, task

owned = {"owner": "sales", "execution_timeout": timedelta(minutes=5)}
with DAG("churn", schedule=None, tags=["rempart", "classification:public"], default_args=owned):
    for name in ("ingest", "train", "validate"):
        task(task_id=name)(lambda: None)()
"""
"""A DAG of the team's own, whose tasks have names of ours."""


def with_search(shipped: str) -> str:
    """The shipped pipeline as `searched`, with ten trials in three generations."""
    named = shipped.replace("hotel_bookings", "searched").replace("  seed: 7", f"  seed: 7\n  {SEARCH}")
    return f"{named}\nvalidation: {{last: 60d}}\n"


def read_dags(home: Path, project: Path, *tasks_of: str) -> list[dict]:
    """Parse a project's DAG folder in a process of its own, as the dag-processor does, then as a task of each DAG."""
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "REMPART_HOME": str(project),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    }
    asked = (str(project / "dags"), json.dumps(sorted(HEAVY)), json.dumps(tasks_of))
    done = subprocess.run(
        [sys.executable, "-c", READ_DAGS, *asked], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"errors"')]
    assert len(found) == 1 + len(tasks_of), done.stdout[-2000:]
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's DAGs with two pipelines that are not valid beside the good one."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=NOT_COPIED)
    shutil.copytree(ROOT / "include" / "pipelines", folder / "include" / "pipelines")
    shutil.copy(ROOT / "rempart.yaml", folder)
    shipped = (ROOT / "include" / "pipelines" / "hotel_bookings.yaml").read_text(encoding="utf-8")
    (folder / "include/pipelines/misspelt.yaml").write_text(
        shipped.replace("hotel_bookings", "misspelt").replace("holdout:", "holdoout:"), encoding="utf-8"
    )
    (folder / "include/pipelines/bad_cron.yaml").write_text(
        shipped.replace("hotel_bookings", "bad_cron").replace('"0 4 * * *"', '"every morning"'),
        encoding="utf-8",
    )
    again = shipped.replace("hotel_bookings", "learns_again").replace("start: 2017-06-01", "last: 90d")
    again = again.replace("champion_tolerance: 0.02", f"champion_tolerance: 0.02\n  {APPROVED}")
    (folder / "include/pipelines/learns_again.yaml").write_text(f"{again}\n{LEARNS}", encoding="utf-8")
    (folder / "include/pipelines/searched.yaml").write_text(with_search(shipped), encoding="utf-8")
    write_project(folder, TRIPS, WEATHER, WET, ORDERS, PAYMENTS, *used_project.PROJECT)
    (folder / "dags" / "churn.py").write_text(CHURN, encoding="utf-8")
    return folder


TASKS_OF = ("train_hotel_bookings", "ingest_misspelt", "replicate_primary_to_haven")
"""DAGs whose file a task reads, too."""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, project: Path) -> dict[str, dict]:
    """The DAGs as the dag-processor reads them, and as a task of each reads its own, by the DAG's id."""
    return dict(zip(("", *TASKS_OF), read_dags(tmp_path_factory.mktemp("airflow"), project, *TASKS_OF), strict=True))


@pytest.fixture(scope="module")
def parsed(read: dict[str, dict]) -> dict:
    return read[""]


def test_every_dag_of_the_catalogue_is_there_and_nothing_fails_to_import(parsed: dict) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) >= EXPECTED


def test_a_switch_to_another_site_gets_the_next_free_slot(parsed: dict) -> None:
    """While a site is silent, tasks that wait for it hold the slots, and many more wait for one."""
    weights = {dag: [task["weight"] for task in found["tasks"]] for dag, found in parsed["dags"].items()}
    assert weights["fail_over"] == weights["fail_back"] == [[1000, "absolute"]]
    heaviest = max(len(tasks) for tasks in weights.values())
    assert all(weight == 1 for dag, tasks in weights.items() if not dag.startswith("fail_") for weight, _ in tasks)
    assert heaviest < 1000, "a task of weight 1 counts with all tasks after it"


def test_a_derived_pipeline_starts_on_a_new_snapshot_of_any_of_its_inputs(parsed: dict) -> None:
    found = parsed["dags"]["ingest_wet_trips"]
    assert found["assets"] == ["rempart://trips/snapshot", "rempart://weather/snapshot"]
    assert {task["id"] for task in found["tasks"]} >= {"extract", "ingest"} and "broken" not in found["tags"]


def test_features_and_training_start_on_new_rows_and_on_new_labels(parsed: dict) -> None:
    dags = parsed["dags"]
    found = dags["materialize_features_orders"]["assets"]
    assert found == ["rempart://orders/snapshot", "rempart://payments/snapshot"]
    assert {"ingest_payments", "train_orders"} <= dags.keys() and "train_payments" not in dags


def test_features_start_on_new_features_of_pipelines_whose_views_they_use(parsed: dict) -> None:
    found = parsed["dags"]["materialize_features_sales"]["assets"]
    assert found == ["rempart://readings/features", "rempart://sales/snapshot", "rempart://stations/features"]


def test_a_red_verdict_starts_a_training_where_the_pipeline_says_so(parsed: dict) -> None:
    found = parsed["dags"]["train_learns_again"]
    assert found["assets"] == ["rempart://learns_again/drift", "rempart://learns_again/features"]
    assert [task["id"] for task in found["tasks"]] == ["decide_training", "train"]
    assert all(task["policy"] and task["owner"] == "mlops" for task in found["tasks"])
    assert [task["id"] for task in parsed["dags"]["train_hotel_bookings"]["tasks"]] == ["train"]


def test_a_candidate_is_asked_about_in_a_dag_of_its_own_which_waits_in_no_others_way(parsed: dict) -> None:
    dags = parsed["dags"]
    tasks = {task["id"]: task for task in dags["approve_model_learns_again"]["tasks"]}
    assert tasks.keys() == {"decide", "notify", "publish_champion", "keep_card", "ask_again"}
    assert all(task["policy"] and task["owner"] == "mlops" and task["timeout"] == 3600 for task in tasks.values())
    assert dags["approve_model_learns_again"]["runs"] > 1_000 and dags["approve_model_learns_again"]["assets"] == []
    assert set(dags["approve_model_learns_again"]["links"]["decide"]) == {"Model gate"}
    judges = {task["id"] for task in dags["validate_model_learns_again"]["tasks"]}
    assert judges == {"validate", "publish_champion", "keep_card", "ask_person"}  # without a card it is asked, too
    assert "approve_model_hotel_bookings" not in dags  # its gate promotes at once


GENERATIONS = ["ask_1", "trial_1", "ask_2", "trial_2", "ask_3", "trial_3"]


def test_a_search_has_a_task_for_each_generation_and_ends_with_a_candidate(parsed: dict) -> None:
    found = parsed["dags"]["search_searched"]
    assert {task["id"] for task in found["tasks"]} == {"freeze", *GENERATIONS, "choose", "train"}
    assert all(task["policy"] and task["owner"] == "mlops" and task["timeout"] == 1800 for task in found["tasks"])
    assert found["assets"] == [] and found["runs"] == 1 and "**When it fails**" in found["doc"]
    assert set(found["links"]["train"]) == {"MLflow run", "Placement"}
    assert "search_hotel_bookings" not in parsed["dags"]


def test_nothing_heavy_is_imported_when_dags_are_parsed(parsed: dict) -> None:
    assert parsed["heavy"] == []


@pytest.mark.parametrize("dag_id", sorted(EXPECTED))
def test_each_dag_tells_its_reader_what_it_needs(parsed: dict, dag_id: str) -> None:
    dag = parsed["dags"][dag_id]
    assert "**When it fails**" in dag["doc"] and "**Run again**" in dag["doc"]
    assert "rempart" in dag["tags"]
    assert dag["runs"] == 1
    for name, schema in dag["params"].items():
        assert schema["description"], f"{dag_id}: param {name} has no description"
        assert schema.get("type"), f"{dag_id}: param {name} accepts anything"
    for task in dag["tasks"]:
        assert task["owner"] == "mlops" and task["retries"] == 2 and task["policy"]
        assert 0 < task["timeout"] <= 3600


def test_a_pipeline_with_an_unknown_key_is_one_dag_that_tells_why(parsed: dict) -> None:
    broken = parsed["dags"]["ingest_misspelt"]
    assert broken["paused"] is None and "broken" in broken["tags"]
    assert "misspelt.yaml: holdoout: unknown key" in broken["doc"]
    assert "What to do" in broken["doc"]
    assert [task["id"] for task in broken["tasks"]] == ["explain"]
    assert not any(dag_id.endswith("_misspelt") and dag_id != "ingest_misspelt" for dag_id in parsed["dags"])


def test_a_schedule_that_is_no_cron_breaks_that_pipeline_alone(parsed: dict) -> None:
    broken = parsed["dags"]["ingest_bad_cron"]
    assert broken["paused"] is None and "broken" in broken["tags"]
    assert "bad_cron.yaml: schedules.ingest: 'every morning' is not a cron expression" in broken["doc"]


def test_what_runs_every_so_often_is_not_due_in_the_start_of_a_platform(parsed: dict) -> None:
    kinds = {dag_id: dag["timetable"] for dag_id, dag in parsed["dags"].items()}
    assert {dag_id for dag_id, kind in kinds.items() if kind == "Periodic"} == {
        "backup_platform",
        "export_evidence",
        "probe_sites",
        "replicate_primary_to_haven",
        "ship_predictions",
        "verify_replicas",
    }
    assert "DeltaTriggerTimetable" not in kinds.values()


def test_on_a_new_platform_a_cron_expression_waits_for_its_next_time(parsed: dict) -> None:
    told = {dag_id: dag["waits"] for dag_id, dag in parsed["dags"].items() if dag["waits"] is not None}
    assert told == dict.fromkeys(told, True)
    assert {"ingest_hotel_bookings", "restore_drill"} <= set(told)


@pytest.fixture(scope="module")
def in_pods(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The DAGs of a project whose jobs run in pods."""
    home = tmp_path_factory.mktemp("in-pods")
    shutil.copytree(ROOT / "include" / "pipelines", home / "include" / "pipelines")
    shipped = (home / "include/pipelines/hotel_bookings.yaml").read_text(encoding="utf-8")
    (home / "include/pipelines/searched.yaml").write_text(with_search(shipped), encoding="utf-8")
    pods.project(home)
    return read_dags(tmp_path_factory.mktemp("airflow-in-pods"), home)[0]


def test_where_jobs_run_in_pods_a_training_is_ordered_run_and_registered(in_pods: dict) -> None:
    assert in_pods["errors"] == {}
    train = in_pods["dags"]["train_hotel_bookings"]
    assert [task["id"] for task in train["tasks"]] == ["order", "run", "train"]
    assert all(task["policy"] and task["owner"] == "mlops" for task in train["tasks"])
    deadline, limit = 24 * 3600, 30 * 60
    assert next(task["timeout"] for task in train["tasks"] if task["id"] == "run") == deadline + limit
    shipped = {dag_id for dag_id in in_pods["dags"] if not dag_id.endswith("_searched")}
    assert shipped == EXPECTED | {"clean_up_pods"}
    assert "**When it fails**" in in_pods["dags"]["clean_up_pods"]["doc"]


def test_where_jobs_run_in_pods_so_do_the_trials_of_a_search(in_pods: dict) -> None:
    tasks = {task["id"]: task for task in in_pods["dags"]["search_searched"]["tasks"]}
    assert tasks.keys() == {"freeze", *GENERATIONS, "choose", "order", "run", "train"}
    assert {tasks[name]["timeout"] for name in ("trial_1", "trial_3", "run")} == {24 * 3600 + 30 * 60}
    assert all(task["policy"] and task["owner"] == "mlops" for task in tasks.values())


def test_a_pipeline_that_no_pool_may_run_is_a_dag_that_says_why(tmp_path: Path) -> None:
    home = pods.project(tmp_path / "home", gpu_pools=["gpu-us"])
    train = read_dags(tmp_path / "airflow", home)[0]["dags"]["train_hotel_bookings"]
    assert train["paused"] is None and "broken" in train["tags"]
    assert "pool gpu-us is never tried" in train["doc"]


def test_tasks_link_to_pages_of_the_cockpit(parsed: dict) -> None:
    dags = parsed["dags"]
    report = {"Data report": "_link_rempart_data_report", "Placement": "_link_rempart_placement"}
    assert dags["ingest_hotel_bookings"]["links"]["ingest"] == report
    assert set(dags["train_hotel_bookings"]["links"]["train"]) == {"MLflow run", "Placement"}
    gate = {"Model gate": "_link_rempart_model_gate"}
    assert dags["validate_model_hotel_bookings"]["links"] == {
        "validate": gate,
        "publish_champion": {},
        "keep_card": {},
    }
    assert set(dags["backup_platform"]["links"]["back_up"]) == {"Placement", "Restore point"}
    assert set(dags["replicate_primary_to_haven"]["links"]["conclude"]) == {"Placement"}


def test_a_dag_of_somebody_elses_gets_no_links_by_the_names_of_its_tasks(parsed: dict) -> None:
    assert parsed["dags"]["churn"]["links"] == {"train": {}, "validate": {}, "ingest": {}}


def test_schedule_retries_and_tags_stand_where_a_dag_is_defined() -> None:
    files = sorted((ROOT / "dags").glob("*.py"))
    for file in files:
        made = [
            node
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "DAG"
        ]
        assert made, f"{file.name} defines no DAG"
        for call in made:
            stated = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert {"schedule", "catchup", "max_active_runs", "tags", "default_args"} <= stated.keys(), file.name
            assert None not in stated, f"{file.name} hides arguments behind **"
            assert all(f"{name}=" in stated["default_args"] for name in ("owner", "retries", "timeout")), file.name


def test_dag_files_log_and_do_not_print() -> None:
    for file in (ROOT / "dags").glob("*.py"):
        names = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)]
        assert "print" not in {name.id for name in names}, file.name


@pytest.mark.parametrize("dag_id", TASKS_OF)
def test_a_task_reads_its_file_for_its_own_dag_alone(read: dict[str, dict], parsed: dict, dag_id: str) -> None:
    found = read[dag_id]["dags"]
    made_for_each = {name for name in parsed["dags"] if name.endswith(("_hotel_bookings", "_misspelt", "_bad_cron"))}
    made_for_each |= {name for name in parsed["dags"] if name.startswith("replicate_")}
    assert set(found) & made_for_each == {dag_id}
    assert found[dag_id] == parsed["dags"][dag_id]


def test_parameters_of_a_scheduled_dag_name_their_dialect(parsed: dict) -> None:
    """Airflow checks these schemas at each parse: the default dialect takes three times as long."""
    scheduled = [f"{stage}_hotel_bookings" for stage in ("ingest", "materialize_features", "train", "validate_model")]
    for dag_id in (*scheduled, "replicate_primary_to_haven", "restore_drill"):
        schemas = parsed["dags"][dag_id]["params"].values()
        assert {schema.get("$schema") for schema in schemas} == {"http://json-schema.org/draft-07/schema#"}


def strings(schema: dict) -> list[dict]:
    """Every schema of a text in the schema of a parameter."""
    below = [schema.get("items"), schema.get("additionalProperties"), schema.get("propertyNames")]
    found = [string for part in below if isinstance(part, dict) for string in strings(part)]
    kinds = schema.get("type", "string" if "pattern" in schema else [])
    return found + ([schema] if "string" in ([kinds] if isinstance(kinds, str) else kinds) else [])


def test_every_text_that_a_run_may_be_given_is_bounded_and_has_no_line_end(parsed: dict) -> None:
    """`$` matches before a last line end, too; a text without a bound goes into the database and the logs."""
    texts = [
        (f"{dag_id}.{name}", string)
        for dag_id, dag in parsed["dags"].items()
        for name, schema in dag["params"].items()
        for string in strings(schema)
    ]
    assert len(texts) > 10
    for where, schema in texts:
        pattern = schema.get("pattern")
        if pattern is None:
            assert "enum" in schema or schema.get("maxLength", 1_000_000) <= 1000, where
            continue
        assert pattern.startswith("^") and pattern.endswith(r"\Z"), where
        bounded = schema.get("maxLength", 1_000_000) <= 1000
        assert bounded or ("+" not in pattern and "*" not in pattern and ",}" not in pattern), f"{where}no limit"
