"""Ranges against the trainer's own table: what it cannot take is refused before any job."""

import pytest

from rempart.errors import TrainingError
from rempart.flows.training.check_pipeline import check_search
from rempart.settings.search.ranges import ParameterSearch
from rempart.training.search.space import Choices, Numbers, comparable, corners, space_of
from tests.unit.training import stage


def space(params, use="lightgbm", task="regression"):
    return space_of(ParameterSearch.model_validate({"params": params}), use, task)


def test_ranges_become_a_space_in_the_order_of_their_names():
    made = space(
        {
            "num_leaves": {"low": 7, "high": 127, "log": True},
            "lambda_l2": {"low": 0, "high": 10},
            "leave_out": {"choose": ["", "stay__*"]},
        }
    )
    assert made == (
        Numbers("lambda_l2", 0, 10, log=False, whole=False),
        Choices("leave_out", ("", "stay__*")),
        Numbers("num_leaves", 7, 127, log=True, whole=True),
    )
    assert list(corners(made)) == [
        {"lambda_l2": 0.0, "leave_out": "", "num_leaves": 7},
        {"lambda_l2": 10.0, "leave_out": "stay__*", "num_leaves": 127},
        {"lambda_l2": 0.0, "leave_out": "stay__*", "num_leaves": 7},
    ]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"num_leafs": {"low": 2, "high": 9}}, r"no parameter 'num_leafs' \(did you mean 'num_leaves'\?\)"),
        ({"num_leaves": {"low": 1, "high": 9}}, "`low` is 1, but the trainer takes 2 to"),
        ({"num_leaves": {"low": 2.5, "high": 9}}, "`low` is 2.5, but it must be a whole number"),
        ({"feature_fraction": {"low": 0.5, "high": 1.5}}, "`high` is 1.5, but the trainer takes"),
        ({"loss": {"low": 0, "high": 1}}, "it is no number; give `choose`"),
        ({"loss": {"choose": ["squared_error", "huber"]}}, "'huber' is not one of squared_error"),
        ({"num_leaves": {"choose": [7, True]}}, "True is not a whole number"),
        ({"num_leaves": {"choose": [7, 1]}}, "1 is not from 2 to"),
        ({"leave_out": {"choose": ["", 3]}}, "3 is not a text"),
    ],
)
def test_a_range_that_the_trainer_cannot_take_is_refused_by_name(params, told):
    with pytest.raises(TrainingError, match=told) as refused:
        space(params)
    assert "num_leaves" in refused.value.hint


def test_a_function_of_the_users_takes_any_name_and_tells_whole_numbers_by_its_bounds():
    made = space({"alpha": {"low": 1, "high": 3}, "beta": {"low": 0.1, "high": 3}}, use="include/trainers/ridge.py:fit")
    assert [each.whole for each in made] == [True, False]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"leave_out": {"choose": ["", "nothing__*"]}}, "matches no feature"),
        ({"loss": {"choose": ["squared_error", "quantile"]}}, "belong together"),
        ({"max_iter": {"low": 0, "high": 9}}, "trainer.search.params.max_iter: `low` is 0"),
    ],
)
def test_each_choice_is_tried_on_the_trainer_before_a_search(params, told):
    searched = stage.pipeline(trainer={"search": {"params": params}}, validation={"last": "60d"})
    with pytest.raises(TrainingError, match=told):
        check_search(searched)


def test_losses_of_trials_with_other_losses_are_not_compared():
    assert comparable(space({"num_leaves": {"low": 7, "high": 127}}))
    assert not comparable(space({"loss": {"choose": ["squared_error", "absolute_error"]}}))
