"""The PyTorch trainer: its parts without PyTorch are tested here, the rest in the trainer's own environment."""

import json
import subprocess
from itertools import pairwise

import numpy as np
import pytest

from rempart.errors import TrainingError
from rempart.models import onnx_format
from rempart.settings.config import load
from rempart.training.trainers import tabular_network, trainers
from rempart.training.trainers.network import conversion
from tests.unit.training import stage
from tests.unit.training.test_entrypoint import nowhere

TRAINER = stage.project_file(".venv-trainer/bin/python")
PARAMS = {"epochs": 30, "hidden": "32,16", "batch_size": 64, "learning_rate": 0.01}


def activated(values, layers):
    for number, (weight, bias) in enumerate(layers):
        values = values @ weight.T + bias
        values = np.maximum(values, 0) if number < len(layers) - 1 else values
    return values


@pytest.mark.parametrize(("task", "outputs"), [("regression", 1), ("classification", 3)])
def test_the_graph_computes_the_network_and_knows_its_statistics(task, outputs):
    random = np.random.default_rng(5)
    inputs = random.normal(40, 9, (200, 6)).astype(np.float32)
    inputs[:, 2] = 3
    inputs[random.random(200) < 0.2, 4] = np.nan
    statistics = conversion.scaling(inputs, random.normal(500, 40, 200), task)
    sizes = [statistics.width, 8, outputs]
    layers = [
        (random.normal(size=(b, a)).astype(np.float32), random.normal(size=b).astype(np.float32))
        for a, b in pairwise(sizes)
    ]
    session = onnx_format.open_session(conversion.convert(statistics, layers, task))
    unseen = random.normal(40, 90, (50, 6)).astype(np.float32)
    unseen[0] = np.nan
    raw = activated(conversion.standardised(unseen, statistics), layers)
    if task == "regression":
        wanted = raw[:, 0] * statistics.target_scale + statistics.target_mean
    else:
        wanted = np.exp(raw - raw.max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
    assert list(statistics.with_nulls) == [4] and statistics.scale[2] == 1
    np.testing.assert_allclose(onnx_format.run(session, unseen, task, outputs), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depth": 3}, "no parameter 'depth' for a regression"),
        ({"epochs": 2.5}, "'epochs' must be a whole number"),
        ({"epochs": True}, "'epochs' must be a whole number"),
        ({"epochs": 0}, "'epochs' must be a whole number"),
        ({"learning_rate": -1}, "'learning_rate' must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not a number"),
        ({"hidden": "64,"}, "'hidden' must be the sizes"),
        ({"hidden": "64,0"}, "'hidden' must be the sizes"),
        ({"hidden": True}, "'hidden' must be the sizes"),
        ({"precision": "int8"}, "'precision' must be one of"),
        ({"loss": "hinge"}, "'loss' must be one of"),
    ],
)
def test_a_wrong_parameter_is_named_without_pytorch(params, message):
    with pytest.raises(TrainingError, match=message):
        trainers.check("tabular_network", params, "regression")


def test_parameters_are_for_a_task():
    trainers.check("tabular_network", {"hidden": 64, "loss": "absolute_error", "weight_decay": 0}, "regression")
    with pytest.raises(TrainingError, match="no parameter 'loss' for a classification"):
        trainers.check("tabular_network", {"loss": "absolute_error"}, "classification")


def test_without_pytorch_the_error_says_where_to_run_it():
    with pytest.raises(TrainingError, match=r"(?s)needs torch.*version is none.*make setup-trainer"):
        tabular_network.fit(np.zeros((3, 2), np.float32), np.zeros(3), {}, 1, "regression", 0)


def test_the_platform_does_not_install_pytorch_and_the_trainer_installs_what_the_code_names():
    lines = stage.project_file("requirements-torch.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [tabular_network.TORCH]
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-trainer.txt"):
        assert not any(line.startswith("torch==") for line in stage.project_file(name).read_text().splitlines())


def test_the_trainers_lock_has_the_platforms_versions():
    def pins(name):
        return {
            tuple(line.split(" \\")[0].split("==", 1))
            for line in read(name)
            if "==" in line and not line.startswith(("#", " "))
        }

    def read(name):
        return stage.project_file(name).read_text().splitlines()

    platform = pins("requirements.txt")
    shared = {name for name, _ in platform}
    assert {pin for pin in pins("requirements-trainer.txt") if pin[0] in shared} <= platform


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """What network_attempts.py says of a regression and a classification."""
    if not TRAINER.is_file():
        pytest.skip("there is no .venv-trainer: `make setup-trainer` creates it")
    folder = tmp_path_factory.mktemp("attempts")
    for task in ("regression", "classification"):
        platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
        pipeline = stage.pipeline(task=task, trainer={"use": "tabular_network", "params": PARAMS, "seed": 7})
        spec = stage.ordered(platform, pipeline, stage.table())
        (folder / f"spec-{task}.json").write_bytes(spec.to_json())
        body = platform.sites["primary"].read(spec.dataset.bucket, spec.dataset.key)
        (folder / "dataset.parquet").write_bytes(body)
    command = [TRAINER, "-m", "tests.unit.training.network_attempts", folder]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=stage.project_file("."), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_learns_and_survives_the_conversion(attempts, task):
    whole = attempts[f"spec-{task}"]["whole"]
    if task == "regression":
        assert whole["metrics"]["train_mae"] < 12 and whole["metrics"]["onnx_difference"] < 0.01
    else:
        assert whole["metrics"]["train_accuracy"] > 0.7 and whole["metrics"]["onnx_difference"] < 1e-4
    made_with = whole["made_with"]
    assert made_with["torch"].startswith("2.") and made_with["device"] in ("cpu", "cuda") and made_with["precision"]


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_the_same_order_gives_the_same_weights_interrupted_or_not(attempts, task):
    message = attempts[f"spec-{task}"]
    assert message["whole"]["model"] == message["again"]["model"] == message["interrupted"]["model"]


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_no_update_is_computed_twice(attempts, task):
    message = attempts[f"spec-{task}"]
    steps, work = message["whole"]["work"]["steps"], message["interrupted"]["work"]
    assert message["whole"]["work"] == {
        "steps": steps,
        "done_here": steps,
        "resumed_from": 0,
        "total_over_attempts": steps,
    }
    assert work["total_over_attempts"] == work["steps"] == steps and work["resumed_from"] == steps // 2 + 3
    assert message["interrupted"]["left"] == []


def test_the_order_and_the_job_agree_on_the_code_although_only_one_has_pytorch(attempts):
    assert attempts["code"] == trainers.code_version("tabular_network")
    assert stage.CANARY not in json.dumps(attempts)
