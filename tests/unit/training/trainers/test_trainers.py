"""Trainers: parameters, ONNX that predicts the same, and the example of a custom trainer."""

import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.models import onnx_format
from rempart.models.encoding import encode, features_of
from rempart.models.metrics import score, target_values
from rempart.training.trainers import gradient_boosting, trainers, tree_conversion
from rempart.training.trainers.built_in import BuiltIn
from tests.unit.training import stage

PIPELINE, TABLE = stage.pipeline(), stage.table()
FEATURES = features_of(PIPELINE)
INPUTS = encode(FEATURES, TABLE)
PRICE = TABLE["price"].to_numpy()


def fitted(use="gradient_boosting", params=None, task="regression", target=PRICE, classes=0):
    return trainers.train(use, INPUTS[:400], target[:400], params or {}, 1, task, INPUTS[400:], classes)


def test_the_built_in_trainer_learns_the_rule_and_survives_the_conversion():
    trained = fitted(params={"max_iter": 80})
    predicted = onnx_format.run(onnx_format.open_session(trained.body), INPUTS[400:], "regression", 0)
    assert score("regression", PRICE[400:], predicted)["mae"] < 6
    assert trained.largest_difference < 1e-3
    assert fitted(params={"max_iter": 80}).body == trained.body


@pytest.mark.parametrize("values", [("cheap", "fair", "dear"), ("cheap", "other")])
def test_a_classification_gives_the_same_probabilities(values):
    season = TABLE["season"].to_pylist()
    classes = np.array([float(values.index(s) if s in values else 1) for s in season])
    trained = fitted(params={"max_iter": 30}, task="classification", target=classes, classes=len(values))
    predicted = onnx_format.run(onnx_format.open_session(trained.body), INPUTS[400:], "classification", len(values))
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-5)
    assert trained.largest_difference < 1e-5 and score("classification", classes[400:], predicted)["accuracy"] > 0.8


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), missing=st.floats(0, 0.9), spread=st.sampled_from([1e-6, 1.0, 1e6]))
def test_trees_as_onnx_send_every_row_down_the_same_branches(seed, missing, spread):
    """Values drawn from few distinct float32 numbers, so that rows stand exactly at thresholds; and nulls."""
    random = np.random.default_rng(seed)
    inputs = (random.choice(random.normal(0, spread, 12), (300, 3))).astype(np.float32)
    inputs[random.random(inputs.shape) < missing] = np.nan
    target = np.nan_to_num(inputs[:, 0]) + random.normal(0, spread, 300)
    model = gradient_boosting.fit(inputs, target, {"max_iter": 10, "min_samples_leaf": 2}, seed, "regression", 0)
    ours = onnx_format.run(onnx_format.open_session(tree_conversion.convert(model, 3)), inputs, "regression", 0)
    np.testing.assert_allclose(ours, model.predict(inputs), rtol=1e-4, atol=1e-4 * spread)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depth": 3}, "no parameter 'depth'"),
        ({"max_iter": 2.5}, "'max_iter' must be a whole number"),
        ({"max_iter": True}, "'max_iter' must be a whole number"),
        ({"loss": "poisson"}, "'loss' must be one of"),
        ({"learning_rate": -1.0}, "'learning_rate' must be from"),
        ({"max_iter": 0}, "'max_iter' must be from 1"),
        ({"learning_rate": float("nan")}, "'learning_rate' must be from"),
        ({"loss": "quantile"}, "belong together"),
    ],
)
def test_a_wrong_parameter_is_named(params, message):
    with pytest.raises(TrainingError, match=message):
        fitted(params=params)


def test_the_example_trainer_predicts_as_onnx_too():
    trained = fitted("include/trainers/ridge.py:fit", {"alpha": 1.0})
    predicted = onnx_format.run(onnx_format.open_session(trained.body), INPUTS[400:], "regression", 0)
    assert score("regression", PRICE[400:], predicted)["mae"] < 6


def test_a_trainer_outside_include_or_without_the_function_is_refused():
    with pytest.raises(TrainingError, match="not a file under include"):
        fitted("include/../tests/unit/training/stage.py:fit")
    with pytest.raises(TrainingError, match="no function 'nothing'"):
        fitted("include/trainers/ridge.py:nothing")


def custom(tmp_path, monkeypatch, body):
    """A project whose only trainer is this code."""
    folder = tmp_path / "include" / "trainers"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(body)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return "include/trainers/mine.py:fit"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def fit(i, t, p, s): raise ValueError(f'secret {t[0]}')", r"raised ValueError in mine.py, line 1"),
        ("def fit(i, t, p, s): return {'weights': 1}", "returned a dict"),
        ("def fit(i, t, p, s): return b'not onnx'", "could never be loaded"),
    ],
)
def test_a_trainer_that_fails_is_explained_without_its_data(tmp_path, monkeypatch, body, message):
    use = custom(tmp_path, monkeypatch, body)
    with pytest.raises(TrainingError, match=message) as caught:
        fitted(use)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_another_code_is_another_version(tmp_path, monkeypatch):
    version = trainers.code_version(custom(tmp_path / "a", monkeypatch, "x = 1"))
    assert version != trainers.code_version(custom(tmp_path / "b", monkeypatch, "x = 2"))


def test_only_what_determines_a_model_is_in_its_code_version(tmp_path, monkeypatch):
    """A copy of the package, where one module after another gets a line more."""
    copy = tmp_path / "rempart"
    shutil.copytree(Path(trainers.__file__).parents[2], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(trainers, "__file__", str(copy / "training" / "trainers" / "trainers.py"))

    def versions():
        uses = ("gradient_boosting", "tabular_network", "include/trainers/ridge.py:fit")
        return [trainers.code_version(use) for use in uses]

    def changed(name):
        before = versions()
        with (copy / name).open("a") as file:
            file.write("# a line more\n")
        return [earlier != other for earlier, other in zip(before, versions(), strict=True)]

    for name in (
        "training/backends.py",
        "training/attempts/checkpoints.py",
        "training/entrypoint.py",
        "training/plots.py",
    ):
        assert changed(name) == [False, False, False]
    assert changed("models/encoding.py") == changed("training/outputs.py") == [True, True, True]
    assert changed("training/trainers/gradient_boosting.py") == [True, False, False]
    assert changed("training/trainers/network/fitting.py") == [False, True, False]


def test_features_are_left_out_by_pattern_and_a_pattern_without_match_is_an_error():
    kept, rest = trainers.left_out(FEATURES, {"leave_out": "stay__n*, stay__arrival_month", "max_iter": 5})
    assert [feature.name for feature in kept] == ["stay__lead", "stay__breakfast", "stay__room"] and rest == {
        "max_iter": 5
    }
    for pattern, message in (("nope*", "matches no feature"), ("*", "leaves no feature")):
        with pytest.raises(TrainingError, match=message):
            trainers.left_out(FEATURES, {"leave_out": pattern})


@pytest.mark.parametrize(
    ("code", "shares"),
    [
        ("def fit(inputs, target, params, seed, group): ...", True),
        ("import absent_here\n\ndef fit(inputs, target, params, seed, run, *, group): ...", True),
        ("def fit(inputs, target, params, seed): ...\n\ndef other(group): ...", False),
        ("def fit(", False),
    ],
)
def test_only_a_function_that_asks_for_the_group_runs_on_several_nodes(tmp_path, monkeypatch, code, shares):
    (tmp_path / "include" / "trainers").mkdir(parents=True)
    (tmp_path / "include" / "trainers" / "mine.py").write_text(code)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    use = "include/trainers/mine.py:fit"
    assert trainers.shares_work(use) == shares
    trainers.check(use, {}, "regression", nodes=1)
    if not shares:
        with pytest.raises(TrainingError, match=r"trainer.nodes is 2, but .* trains on one node"):
            trainers.check(use, {}, "regression", nodes=2)


@pytest.mark.parametrize("value", [2**53, -(2**53), 1e300, float("nan"), float("-inf")])
def test_a_number_that_json_does_not_keep_is_refused_before_a_job_is_ordered(value):
    with pytest.raises(TrainingError, match=r"trainer.params.alpha: \S+ is not a number from"):
        trainers.check("include/trainers/ridge.py:fit", {"alpha": value}, "regression")
    trainers.check("include/trainers/ridge.py:fit", {"alpha": 2**53 - 1, "solver": "svd"}, "regression")


def test_of_the_built_in_trainers_the_network_runs_on_several_nodes():
    trainers.check("tabular_network", {}, "regression", nodes=2)
    with pytest.raises(TrainingError, match="gradient_boosting trains on one node"):
        trainers.check("gradient_boosting", {}, "regression", nodes=2)


def test_a_trainer_is_one_module_and_one_entry(monkeypatch):
    """What a new trainer states of itself is all that parameters, a job's identity, its nodes and its fit need."""
    from sklearn.linear_model import Ridge

    def refuse(params, task):
        if set(params) - {"alpha"}:
            raise TrainingError("ridge knows alpha alone", "Correct trainer.params.")

    ridge = BuiltIn(
        lambda inputs, target, params, seed, task, classes, run: Ridge(**params).fit(inputs, target),
        refuse,
        lambda task: {"alpha": {"type": "number"}},
        modules=("gradient_boosting.py",),
        libraries=("numpy",),
    )
    monkeypatch.setitem(trainers.BUILT_IN, "ridge", ridge)
    assert trainers.params_schema("ridge", "regression")["properties"].keys() == {"alpha", "leave_out"}
    with pytest.raises(TrainingError, match="ridge knows alpha alone"):
        trainers.check("ridge", {"beta": 1}, "regression")
    with pytest.raises(TrainingError, match="ridge trains on one node"):
        trainers.check("ridge", {}, "regression", nodes=2)
    assert trainers.code_version("ridge") != trainers.code_version("gradient_boosting")
    inputs = np.nan_to_num(INPUTS)
    assert trainers.train("ridge", inputs, PRICE, {"alpha": 1.0}, 0, "regression", inputs[:9], 0).body


def test_a_trainer_that_is_not_known_names_those_that_are():
    with pytest.raises(TrainingError, match="trainer 'magic' does not exist") as refused:
        trainers.check("magic", {}, "regression")
    assert all(name in refused.value.hint for name in trainers.BUILT_IN)


def test_a_class_that_no_training_row_has_is_an_error():
    with pytest.raises(TrainingError, match="1 of the target's 3 declared classes"):
        fitted(task="classification", target=(PRICE > 100).astype(float), classes=3)


def test_nothing_is_held_back_from_the_training_rows():
    model = gradient_boosting.fit(INPUTS, PRICE, {"max_iter": 7}, 1, "regression", 0)
    assert model.n_iter_ == 7 and not model.do_early_stopping_
    assert target_values(stage_target(), TABLE).shape == (600,)


def stage_target():
    from rempart.models.encoding import Feature

    return Feature("price", "number")
