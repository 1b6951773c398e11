"""The section `trainer.search`: what a person is told about a range or a limit that cannot be."""

import pytest
from pydantic import ValidationError

from rempart.settings.search.ranges import ParameterSearch
from tests.unit.training import stage

RANGES = {"max_leaf_nodes": {"low": 4, "high": 31, "log": True}, "learning_rate": {"low": 0.05, "high": 0.5}}
VALIDATION = {"last": "60d"}


def pipeline(search=None, **changes):
    given = {"params": {"max_iter": 20}, "search": {"params": RANGES, **(search or {})}}
    return stage.pipeline(**{"trainer": {**given, **changes.pop("trainer", {})}, "validation": VALIDATION, **changes})


def test_a_section_needs_only_ranges_and_keeps_whole_numbers_whole():
    search = pipeline().trainer.search
    assert (search.trials, search.at_once, search.generations, search.pruner) == (30, 4, 8, "median")
    assert search.time.total_seconds() == 3600 and search.gpu_hours is None
    assert type(search.params["max_leaf_nodes"].low) is int and type(search.params["learning_rate"].high) is float


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"low": 1}, "give `low` and `high`"),
        ({}, "give `low` and `high`"),
        ({"low": 2, "high": 2}, "`low` must be smaller than `high`"),
        ({"low": 0, "high": float("nan")}, "must be finite"),
        ({"low": 0, "high": 1, "log": True}, "`low` must be above 0"),
        ({"low": 0, "high": 1, "choose": [1, 2]}, "either `low` and `high`, or `choose`"),
        ({"choose": ["a", "a"]}, "names a value twice"),
        ({"choose": ["a"]}, "at least 2 items"),
        ({"choose": [1, 1.0]}, "names a value twice"),
        ({"choose": [True, 1]}, "names a value twice"),
        ({"choose": [0.5, float("nan")]}, "must be finite"),
        ({"choose": [1, 2**53]}, "at most 2"),
        ({"low": 1, "high": 10**20}, "at most 2"),
        ({"low": 1, "high": 10**400}, "at most 2"),
        ({"low": -1e308, "high": 1e308}, "their distance must be finite"),
    ],
)
def test_a_range_that_says_nothing_is_refused(declared, told):
    with pytest.raises(ValidationError, match=told):
        ParameterSearch.model_validate({"params": {"x": declared}})


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"trials": 1000, "at_once": 4}, "250 generations"),
        ({"time": "0s"}, "longer than nothing"),
        ({"gpu_hours": 0}, "greater than 0"),
        ({"pruner": "hyperband"}, "'median' or 'none'"),
    ],
)
def test_limits_that_cannot_be_are_refused(search, told):
    with pytest.raises(ValidationError, match=told):
        ParameterSearch.model_validate({"params": RANGES, **search})


def test_a_search_needs_a_validation_part_and_says_how_to_add_one():
    with pytest.raises(
        ValidationError, match=r"the file has no `validation`; add it, such as `validation: \{last: 60d"
    ):
        pipeline(validation=None)


def test_a_parameter_is_either_fixed_or_searched():
    with pytest.raises(
        ValidationError, match=r"trainer\.search\.params\.learning_rate: it stands in trainer.params, too"
    ):
        pipeline(trainer={"params": {"learning_rate": 0.1}})


def test_trials_run_on_one_node():
    with pytest.raises(ValidationError, match=r"trials run on one node, but trainer\.nodes is 2"):
        pipeline(trainer={"use": "tabular_network", "params": {}, "nodes": 2})
