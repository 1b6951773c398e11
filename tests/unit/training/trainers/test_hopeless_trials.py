"""A trial of a search tells its losses and ends where the order says; the model is what it would be without."""

import numpy as np
import pytest

from rempart.training.trainers import trainers
from rempart.training.trainers.built_in import Validation

COUNT = {"gradient_boosting": "max_iter", "lightgbm": "num_iterations", "xgboost": "num_boost_round"}
each = pytest.mark.parametrize("use", list(COUNT))
RANDOM = np.random.default_rng(5)
INPUTS = RANDOM.normal(size=(400, 3)).astype(np.float32)
TARGET = INPUTS[:, 0] + RANDOM.normal(0, 1, 400)


def fitted(use, limits, steps=40, **params):
    given = Validation(INPUTS[300:], TARGET[300:], limits=limits)
    params = {COUNT[use]: steps, "learning_rate": 0.1, **params}
    model = trainers.fitted(use, INPUTS[:300], TARGET[:300], params, 1, "regression", 0, None, given)
    body = model.to_onnx() if hasattr(model, "to_onnx") else trainers.to_onnx(model, 3)
    return body, given


@each
def test_to_be_watched_changes_no_model_and_tells_the_smallest_loss_so_far(use):
    plain, unwatched = fitted(use, None)
    watched, given = fitted(use, {})
    assert plain == watched and unwatched.curve() == () and given.stopped_at is None and given.chosen == {}
    steps, losses = zip(*given.curve(), strict=True)
    assert steps == (8, 16, 32, 40) and list(losses) == sorted(losses, reverse=True)


@each
def test_a_trial_whose_loss_is_above_the_limit_ends_there_with_the_model_so_far(use):
    _, whole = fitted(use, {})
    limit = dict(whole.curve())[16]
    short, ended = fitted(use, {16: limit * 0.99, 32: 0.0})
    assert ended.stopped_at == 16 and ended.curve() == whole.curve()[:2]
    assert short == fitted(use, None, steps=16)[0]
    assert fitted(use, {16: limit * 1.01})[1].stopped_at is None


@each
def test_early_stopping_still_chooses_the_iterations_of_a_watched_trial(use):
    plain, alone = fitted(use, None, steps=200, early_stopping_rounds=5)
    watched, given = fitted(use, {}, steps=200, early_stopping_rounds=5)
    assert plain == watched and given.chosen == alone.chosen and given.chosen[COUNT[use]] < 200
