"""LightGBM and XGBoost stop early on the validation part only, and choose the number of iterations."""

import numpy as np
import pytest

from rempart.training.protocol import learning
from rempart.training.trainers import constraints, trainers
from rempart.training.trainers.built_in import Patience, Validation
from tests.unit.training import stage
from tests.unit.training.attempts.test_resumption import Job, Killed
from tests.unit.training.protocol.test_learning import no_mlflow  # noqa: F401 - a fixture that is used by itself

COUNT = {"lightgbm": "num_iterations", "xgboost": "num_boost_round"}
each = pytest.mark.parametrize("use", list(COUNT))
RANDOM = np.random.default_rng(3)
INPUTS = RANDOM.normal(size=(500, 3)).astype(np.float32)
NOISY = INPUTS[:, 0] + RANDOM.normal(0, 1, 500)


def fitted(use, params, target, task, validation=None):
    inputs = INPUTS[:300], target[:300]
    return trainers.fitted(use, *inputs, {"learning_rate": 0.3, **params}, 1, task, 3, None, validation)


def loss(task, predicted, truth):
    if task == "regression":
        return ((predicted - truth) ** 2).mean()
    return -np.log(predicted[np.arange(len(truth)), truth.astype(int)]).mean()


@each
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_keeps_the_iterations_with_the_smallest_loss_and_chooses_their_number(use, task):
    target = NOISY if task == "regression" else np.digitize(NOISY, [-0.5, 0.5]).astype(float)
    given = Validation(INPUTS[300:], target[300:])
    model = fitted(use, {COUNT[use]: 60, "early_stopping_rounds": 6}, target, task, given)
    (best,) = given.chosen.values()
    assert given.chosen == {COUNT[use]: best} and 1 <= best < 54
    losses = []
    for number in range(1, best + 7):
        whole = fitted(use, {COUNT[use]: number}, target, task)
        losses.append(loss(task, whole.predict(INPUTS[300:]), target[300:]))
        if number == best:
            assert whole.to_onnx() == model.to_onnx()
    assert int(np.argmin(losses)) + 1 == best


@each
def test_classes_weigh_in_validation_what_they_weigh_in_the_fit(use):
    """Six of seven rows are of the first class: unweighted, the loss would only grow while the other is learned."""
    target = (np.quantile(NOISY, 0.86) < NOISY).astype(float)
    params = {COUNT[use]: 100, "learning_rate": 0.1, "class_weight": "balanced", "early_stopping_rounds": 5}
    given = Validation(INPUTS[300:], target[300:])
    trainers.fitted(use, INPUTS[:300], target[:300], params, 1, "classification", 2, None, given)
    weights = constraints.row_weights(params, target[:300], 2, target[300:])
    losses = []
    for number in range(1, given.chosen[COUNT[use]] + 6):
        tried = {name: value for name, value in params.items() if name != "early_stopping_rounds"} | {
            COUNT[use]: number
        }
        model = trainers.fitted(use, INPUTS[:300], target[:300], tried, 1, "classification", 2, None)
        chances = model.predict(INPUTS[300:])[np.arange(200), target[300:].astype(int)]
        losses.append(-(weights * np.log(chances)).sum())
    assert int(np.argmin(losses)) + 1 == given.chosen[COUNT[use]]


@each
def test_without_a_validation_part_the_parameter_changes_nothing(use):
    plain = fitted(use, {COUNT[use]: 4}, NOISY, "regression")
    again = fitted(use, {COUNT[use]: 4, "early_stopping_rounds": 1}, NOISY, "regression")
    assert plain.to_onnx() == again.to_onnx()


@each
def test_a_job_that_is_killed_in_its_second_training_gives_the_same_model(use):
    params = {COUNT[use]: 20, "learning_rate": 0.3, "early_stopping_rounds": 3}
    early = stage.pipeline(trainer={"use": use, "params": params}, validation={"last": "60d"})
    whole, job = Job(early), Job(early)
    wanted = whole.attempt()
    chosen = wanted.validation.chosen[COUNT[use]]
    assert 2 <= chosen <= 20 and wanted.metrics[f"{learning.VALIDATED}mae"] > 0
    with pytest.raises(Killed):
        job.attempt(every=0.0, killed_at=wanted.work.steps - 1)
    again = job.attempt(every=0.0)
    assert job.model() == whole.model() and again.validation == wanted.validation


def test_patience_ends_after_its_rounds_and_a_loss_that_is_no_number_is_never_the_best():
    patience = Patience(2, Validation(None, None))
    assert [patience.over(loss) for loss in (3.0, 2.0, float("nan"), 1.0, 1.0, 5.0)] == [False] * 5 + [True]
    assert patience.best == 4
