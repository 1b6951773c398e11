"""The contract of a job: refused orders, and that the same order is the same job."""

import json

import pytest

from rempart.errors import TrainingError
from rempart.sovereignty.job_permission import JobSite, Permission
from rempart.training.job import (
    PYTHON,
    Dataset,
    FeatureSpec,
    JobSpec,
    Origins,
    Output,
    Split,
    Tracking,
    TrainerSpec,
    Work,
    parse_result,
    parse_spec,
)

PLACE = JobSite(name="primary", connection="s3_primary", region="local-1")
PERMISSION = Permission(hosts={"primary": ("127.0.0.1",)}, until="2026-12-01", decision="d" * 64)


def spec(**changes) -> JobSpec:
    return JobSpec(
        **{
            "pipeline": "stays_test",
            "classification": "personal",
            "task": "regression",
            "target": FeatureSpec(name="price", type="number"),
            "features": (FeatureSpec(name="stay__lead", type="number"),),
            "dataset": Dataset(
                site=PLACE,
                bucket="lake",
                key="training/x.parquet",
                sha256="a" * 64,
                rows=10,
                held_out="b" * 64,
                examples="b" * 64,
            ),
            "trainer": TrainerSpec(use="gradient_boosting", params={"max_iter": 5, "learning_rate": 0.1}, seed=3),
            "tracking": Tracking(connection="mlflow", experiment="stays_test"),
            "output": Output(site=PLACE, bucket="artifacts", prefix="jobs/"),
            "snapshot": "s1",
            "code_version": "1",
            "permission": PERMISSION,
            **changes,
        }
    )


def result(**changes) -> str:
    good = {
        "version": 5,
        "decision": "c" * 64,
        "job_id": spec().job_id,
        "status": "succeeded",
        "metrics": {"train_mae": 1.0},
        "files": {"model.onnx": "b" * 64},
        "model_files": {"model.onnx": "b" * 64},
        "run_id": "r",
        "model_id": "m-1",
        "seconds": {"train": 1.0},
        "rows": 10,
    }
    return json.dumps({key: value for key, value in {**good, **changes}.items() if value is not None})


def test_a_spec_survives_a_round_trip():
    assert parse_spec(spec().to_json()) == spec()
    assert spec().key("result.json") == f"jobs/{spec().job_id}/result.json"


def test_what_does_not_change_the_outcome_does_not_change_the_job():
    moved = Output(site=PLACE, bucket="elsewhere", prefix="other/")
    assert spec(output=moved, snapshot="s2").job_id == spec().job_id
    assert spec(permission=None).job_id == spec().job_id


def test_where_the_processes_of_a_job_run_does_not_change_it():
    assert spec(nodes=2, processes=2).job_id == spec(nodes=4).job_id == spec(processes=4).job_id


def test_the_python_that_ordered_stands_in_the_spec_and_does_not_change_the_job():
    assert json.loads(spec().to_json())["python"] == PYTHON
    assert spec(python="3.99").job_id == spec().job_id
    assert parse_spec(spec(python="3.99").to_json()).python == "3.99"


@pytest.mark.parametrize("version", [1, 4, None])
def test_a_spec_and_a_result_of_another_version_are_refused_by_name(version):
    told = f"version {version} of the contract, but this program reads version 5"
    with pytest.raises(TrainingError, match=told) as refused:
        parse_spec(json.dumps(json.loads(spec().to_json()) | {"version": version}))
    assert "make images" in refused.value.hint
    with pytest.raises(TrainingError, match=told):
        parse_result(json.dumps(json.loads(result()) | {"version": version}), spec().job_id)


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": TrainerSpec(use="gradient_boosting", params={"max_iter": 6, "learning_rate": 0.1}, seed=3)},
        {"trainer": TrainerSpec(use="gradient_boosting", params={"max_iter": 5, "learning_rate": 0.1}, seed=4)},
        {"code_version": "2"},
        {"nodes": 2},
        {"processes": 2},
        {"validation": Split(column="arrival", share=0.15)},
        {"backtest": Origins(column="arrival", origins=3, every=86_400)},
        {"features": (FeatureSpec(name="stay__nights", type="number"),)},
        {
            "dataset": Dataset(
                site=PLACE,
                bucket="lake",
                key="training/x.parquet",
                sha256="c" * 64,
                rows=10,
                held_out="b" * 64,
                examples="b" * 64,
            )
        },
    ],
)
def test_what_changes_the_outcome_is_another_job(change):
    assert spec(**change).job_id != spec().job_id


def test_a_spec_from_before_there_were_several_nodes_is_the_same_job_on_one():
    before = {name: value for name, value in json.loads(spec().to_json()).items() if name != "nodes"}
    assert parse_spec(json.dumps(before)) == spec() and spec().nodes == 1
    assert spec(nodes=2).job_id != spec(nodes=3).job_id


def altered(**changes) -> bytes:
    return json.dumps({**json.loads(spec().to_json()), **changes}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (altered(command="rm"), "command: Extra inputs"),
        (altered(version=1), "version"),
        (altered(snapshot=None), "snapshot"),
        (altered(code_version="2"), "it was altered"),
        (altered(features=[]), "features"),
        (altered(nodes=0), "nodes"),
        (altered(nodes=2), "it was altered"),
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
    ],
)
def test_a_spec_with_a_fault_is_refused_by_name(body, message):
    with pytest.raises(TrainingError, match=message):
        parse_spec(body)


def test_a_good_result_is_read():
    assert parse_result(result(), spec().job_id).metrics == {"train_mae": 1.0}


def test_a_result_from_before_work_was_counted_is_read():
    assert parse_result(result(), spec().job_id).work == Work()
    counted = {"steps": 9, "done_here": 4, "resumed_from": 5, "total_over_attempts": 10}
    assert parse_result(result(work=counted), spec().job_id).work.total_over_attempts == 10


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (result(metrics={"mae": float("nan")}), "not finite"),  # T6
        (result(metrics={"mae": float("inf")}), "not finite"),
        (result(metrics={}), "metrics"),
        (result(metrics={"train_mae": "low"}), "metrics.train_mae"),
        (result(metrics={"train_mae": 1.0, "mae": 0.1}), "neither onnx_difference nor begins with train_"),
        (result(metrics={"train_mae": 1.0, "dataset_sha256": 7}), "neither onnx_difference nor begins with train_"),
        (result(run_id=None), "run_id"),
        (result(files={}), "model.onnx is missing"),
        (result(model_files={"model.onnx": "c" * 64}), "differs between the site and MLflow"),
        (result(status="failed"), "status"),
        (result(work={"steps": -1}), "work.steps"),
        (result(job_id="other"), "belongs to job other"),
        ("", "not JSON"),
    ],
)
def test_a_result_that_is_not_usable_is_refused(body, message):
    with pytest.raises(TrainingError, match=message):
        parse_result(body, spec().job_id)
