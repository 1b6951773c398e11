"""A6: a contradictory configuration, or a run parameter that leads outside its pipeline, is refused by name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.audit import licences
from rempart.errors import ConfigError, PipelineError, TrainingError
from rempart.flows.monitoring import watch_file
from rempart.flows.training import check_pipeline
from rempart.orchestration.run_parameters import contradictory, undecided, unknown
from rempart.settings import access, config, operators, pipelines, plain_yaml
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty import egress
from rempart.web import wording

ROOT = project_root()
SHIPPED = ROOT / "include" / "pipelines" / "hotel_bookings.yaml"


def shipped(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return data | changes


def with_twice(file: Path, folder: Path, line: str) -> Path:
    made = folder / file.name
    made.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    return made


def test_a6_a_key_that_stands_twice_is_refused_wherever_yaml_is_read(tmp_path: Path) -> None:
    appended = with_twice(SHIPPED, tmp_path, "classification: public")
    with pytest.raises(PipelineError, match="the key 'classification' is used twice") as refused:
        pipelines.load(appended)
    assert str(appended) in refused.value.what
    with pytest.raises(ConfigError, match="'active_site' is used twice"):
        config.load(with_twice(ROOT / "rempart.yaml", tmp_path, "active_site: haven"))
    catalogue = tmp_path / "operators"
    catalogue.mkdir()
    with_twice(ROOT / "include" / "operators" / "aws.yaml", catalogue, "jurisdiction: FR")
    with pytest.raises(ConfigError, match="is used twice"):
        operators.read_catalogue(catalogue)
    with pytest.raises(ConfigError, match="is used twice"):
        licences.read_review(with_twice(ROOT / "include" / "licences.yaml", tmp_path, "allowed: []\nallowed: []"))
    with pytest.raises(ConfigError, match="is used twice"):
        watch_file.load(with_twice(ROOT / "rempart.yaml", tmp_path, "sites: {}"))
    cluster = "clusters: [{name: a, cluster: {server: https://eu.test}, cluster: {server: https://us.test}}]"
    with pytest.raises(ConfigError, match="not a kubeconfig"):
        egress._kubernetes_server("k8s_a", cluster)
    assert wording.texts_of("en")["outcome"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1, b: 2}", "line 1: the key 'b' is used twice"),
        ("- {yes: 1, true: 2}", "is used twice"),
        ("1: a\n1.0: b", "is used twice"),
        ("a: &x [1]\nb: *x\na: *x", "line 3: the key 'a' is used twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2", "the key 'b' is used twice"),
        ("a: &a [*a]", "inside the value that it repeats"),
        ("[" * 200 + "]" * 200, "levels"),
        ("[" * 100_000, "nesting"),
        ("a: 2026-02-30", "does not have the form of its type"),
        ("a: " + "9" * 5000, "does not have the form of its type"),
        ("# " + "x" * plain_yaml.MAX_TEXT, "characters"),
        ("a: !!python/object/apply:os.system ['true']", "constructor"),
    ],
    ids=range(12),
)
def test_a6_yaml_outside_the_bounds_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        plain_yaml.load(text)


def test_a7_aliases_that_repeat_each_other_are_refused_before_they_are_written_out() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    began = time.monotonic()
    with pytest.raises(plain_yaml.YamlRefused, match="with aliases expanded"):
        plain_yaml.load(bomb)
    assert time.monotonic() - began < 120


def test_a6_an_override_by_a_merge_key_is_no_repetition() -> None:
    assert plain_yaml.load("x: &x {a: 1}\ny: {<<: *x, a: 2}") == {"x": {"a": 1}, "y": {"a": 2}}
    assert plain_yaml.load("") is None


def save(folder: Path, **pipelines: dict[str, Any]) -> Path:
    for name, data in pipelines.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data | {"name": name}, sort_keys=False))
    return folder


@pytest.mark.parametrize("other", ["hotel_bookings/", "hotel_bookings/north/"])
def test_a6_pipelines_whose_prefixes_overlap_are_refused_both(tmp_path: Path, other: str) -> None:
    source = shipped()["source"]
    folder = save(
        tmp_path,
        hotel_bookings=shipped(),
        copy=shipped(classification="public", source=source | {"prefix": other}),
        apart=shipped(source=source | {"prefix": "hotel_bookings_north/"}),
    )
    found = pipelines.load_all(folder)
    for name in ("copy", "hotel_bookings"):
        error = found[name]
        assert isinstance(error, PipelineError)
        assert "overlaps with" in error.what
    assert isinstance(found["apart"], ModelPipeline)


def test_a6_an_overlap_counts_though_the_rest_of_the_other_file_is_not_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path, hotel_bookings=shipped(), copy=shipped(classification="misspelt"))
    monkeypatch.setattr(pipelines, "pipelines_dir", lambda: folder)
    with pytest.raises(PipelineError, match="overlaps with 'hotel_bookings/' of pipeline 'copy'"):
        pipelines.named("hotel_bookings")


@pytest.mark.parametrize("prefix", ["/", "//", "a//b/", "/a/", "../", "a/../b/", "a", "x" * 300 + "/", "a/\n"])
def test_a6_a_prefix_is_a_plain_folder(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        ModelPipeline.model_validate(shipped(source=shipped()["source"] | {"prefix": prefix}))


@pytest.mark.parametrize(
    "prefix",
    ["salaries/", "hotel_bookings", "hotel_bookings_2/", "", "hotel_bookings/\n", "hotel_bookings/../salaries/"],
)
def test_a6_a_run_does_not_read_below_another_prefix_than_its_own(prefix: str) -> None:
    own = pipelines.load(SHIPPED)
    with pytest.raises(PipelineError, match="is not below 'hotel_bookings/'"):
        own.reading_from(prefix)
    assert own.reading_from("hotel_bookings/2016/").source.prefix == "hotel_bookings/2016/"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["schema"]["avg_price_per_room"].update(nullable=True), "prediction.target: .* is nullable"),
        (lambda d: d["schema"]["arrival_date"].update(nullable=True), "holdout.column: .* is nullable"),
        (lambda d: d["schema"]["lead_time"].update(nullable=True), "moments.booking: column 'lead_time' is nullable"),
        (lambda d: d["trainer"]["params"].update(max_iters=3), "no parameter 'max_iters'"),
        (lambda d: d["trainer"]["params"].update(num_iterations=-3), "'num_iterations' must be from 1"),
        (lambda d: d["trainer"]["params"].update(leave_out="agnt_*"), "'agnt_\\*' matches no feature"),
        (lambda d: d["trainer"]["params"].update(leave_out="*"), "leaves no feature"),
        (lambda d: d["trainer"].update(use="include/trainers/absent.py:fit", params={}), "absent.py is not a file"),
        (lambda d: d["expectations"].append({"expect": "expect_x", "reason": "x"}), "'expect_x' is not an expectation"),
    ],
    ids=range(9),
)
def test_a9_what_a_training_would_refuse_is_refused_when_the_file_is_checked(
    tmp_path: Path, change: Any, message: str
) -> None:
    data = shipped()
    change(data)
    save(tmp_path, hotel_bookings=data)
    with pytest.raises(PipelineError, match=message):
        check_pipeline.check(pipelines.load(tmp_path / "hotel_bookings.yaml"), thorough=False)


def test_faults_of_columns_and_of_rules_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shipped()
    data["features"]["booking"]["columns"].append("assigned_room_type")
    data["partition_by"] = "arival_date"
    data["expectations"] = [
        {"expect": "expect_column_values_to_be_betwen", "column": "adults", "reason": "x"},
        {"expect": "expect_column_values_to_be_in_set", "column": "adults", "valeu_set": [1], "reason": "x"},
    ]
    folder = tmp_path / "include" / "pipelines"
    folder.mkdir(parents=True)
    save(folder, hotel_bookings=data)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    with pytest.raises(PipelineError) as error:
        check_pipeline.load("hotel_bookings")
    _, *faults = error.value.what.splitlines()
    file = folder / "hotel_bookings.yaml"
    for fault, what in zip(
        faults,
        (
            "partition_by: column 'arival_date' is not in the schema (did you mean 'arrival_date'?)",
            "features.booking: column 'assigned_room_type' is known only from 'arrival', later than the view's moment",
            "expectations, rule 1.expect: 'expect_column_values_to_be_betwen' is not an expectation",
            "expectations, rule 2: 'expect_column_values_to_be_in_set' has no argument 'valeu_set'",
        ),
        strict=True,
    ):
        assert fault.startswith(f"{file}: ") and what in fault
    assert "Did you mean value_set?" in error.value.hint


def test_a9_a_run_with_a_wrong_parameter_is_refused_before_anything_is_read() -> None:
    with pytest.raises(TrainingError, match="matches no feature"):
        check_pipeline.check_trainer(pipelines.load(SHIPPED), {"leave_out": "nothing_*"})


def test_a6_a_parameter_that_a_dag_does_not_have_is_named() -> None:
    assert unknown({"dry_run": 1}, {"dry_run", "to"}) is None
    message = unknown({"dryrun": False, "to": "haven"}, {"dry_run", "to"})
    assert message is not None
    assert "Unknown run parameter 'dryrun': nothing was started" in message
    assert "dry_run, to" in message


def test_parameters_that_contradict_each_other_are_refused_before_a_run_is_made() -> None:
    assert contradictory({}) is contradictory({"again": "all"}) is contradictory({"accept_loss": "0" * 32}) is None
    assert contradictory({"again": "0" * 64, "accept_quarantined": True}) is None
    alone: list[dict[str, object]] = [{"accept_quarantined": True}, {"accept_quarantined": True, "again": None}]
    for conf in alone:
        assert "accept_quarantined needs `again`" in str(contradictory(conf))
    for more in ({"accept_quarantined": True}, {"accept_loss": "0" * 32}):
        told = str(contradictory({"again": "all", **more}))
        assert "takes no `accept_quarantined` and no `accept_loss`: nothing was started" in told


@pytest.mark.parametrize("conf", [{"again": "0" * 64, "accept_quarantined": True}, {"accept_loss": "0" * 32}])
def test_s1_a_program_that_starts_ingestions_decides_about_no_rows_and_no_loss(conf: dict[str, object]) -> None:
    may = {name for name in access.ROLES if undecided(conf, access.role(name).capabilities) is None}
    assert may == {"operator", "admin"}
    told = str(undecided(conf, access.role("caller").capabilities))
    assert list(conf)[-1] in told and "nothing was started" in told and "operator, admin" in told
    for plain in ({}, {"again": "all"}, {"again": "0" * 64, "accept_quarantined": False, "accept_loss": None}):
        assert undecided(plain, access.role("caller").capabilities) is None


ASK = """
import json, sys
from airflow import plugins_manager
from airflow.dag_processing.dagbag import DagBag
from airflow.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from airflow.sdk import timezone
plugins_manager._get_plugins() if hasattr(plugins_manager, "_get_plugins") else plugins_manager.ensure_plugins_loaded()
bag = DagBag(dag_folder=sys.argv[1])
told = {}
for dag_id, conf in json.loads(sys.argv[2]):
    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[dag_id]))
    try:
        dag.create_dagrun(run_id="r", run_after=timezone.utcnow(), conf=conf, run_type=DagRunType.MANUAL,
                          triggered_by=DagRunTriggeredByType.REST_API, state="queued", session=None)
        told[json.dumps(conf)] = "created"
    except ParamValidationError as error:
        told[json.dumps(conf)] = str(error)
    except Exception as error:
        told[json.dumps(conf)] = f"went on to {type(error).__name__}"
print(json.dumps(told))
"""


def test_a6_airflow_refuses_a_run_with_an_unknown_or_foreign_parameter(tmp_path: Path) -> None:
    asked = [
        ("restore_drill", {"pointt": "x"}),
        ("ingest_hotel_bookings", {"prefix": "salaries/"}),
        ("ingest_hotel_bookings", {"prefix": "hotel_bookings/2016/"}),
        ("train_hotel_bookings", {"trainer_params": {"num_iteration": 3}}),
        ("train_hotel_bookings", {"trainer_params": {"num_iterations": 3, "leave_out": "agent_trend__*"}}),
    ]
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(ROOT / "dags"), json.dumps(asked)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    typo, foreign, own, misspelt, right = json.loads(done.stdout.splitlines()[-1]).values()
    assert "'pointt'" in typo
    assert "Invalid input for param prefix" in foreign
    assert "Invalid input for param trainer_params" in misspelt
    assert "num_iteration" in misspelt
    assert own.startswith("went on") and right.startswith("went on")


def test_a6_nothing_reads_yaml_in_another_way() -> None:
    files = [file for folder in ("include", "dags", "plugins") for file in (ROOT / folder).rglob("*.py")]
    reading = re.compile(r"\byaml\.(safe_|full_|unsafe_)?load(_all)?\(|\byaml\.(C?SafeLoader|C?Loader)\b")
    found = {str(file.relative_to(ROOT)) for file in files if reading.search(file.read_text(encoding="utf-8"))}
    # a process that judges rows is sent expectations by its parent, in YAML so that dates stay dates
    assert found == {"include/rempart/settings/plain_yaml.py", "include/rempart/ingestion/judging/process.py"}
