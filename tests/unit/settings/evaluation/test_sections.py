"""`holdout`, `validation` and `backtest` in a pipeline file: what is taken, refused with its path, and warned of."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from rempart.features.training_set import plain_columns
from rempart.flows.training.candidates.orders import measuring
from rempart.flows.training.check_pipeline import warnings
from rempart.settings.evaluation.splits import SHARE, Holdout, Validation, validation_of
from rempart.training.job import Origins, Split
from tests.unit.training import stage

DAY = 86_400
BY_AGENT = {"holdout": {"share": 0.2, "by": ["agent"]}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"holdout": {}}, "give a `column` with `start` or `last`, or a `share`"),
        ({"holdout": {"share": 0.2}}, "or a `share` with either `by`"),
        ({"holdout": {"share": 0.2, "by": ["agent"], "stratify": "target"}}, "with either `by`"),
        ({"holdout": {"share": 0.2, "by": ["agent"], "last": "30d"}}, "give a `column`"),
        ({"holdout": {"column": "arrival", "share": 0.2}}, "are for a hold-out without `column`"),
        ({"holdout": {"column": "arrival"}}, "give either `start` .a date. or `last`"),
        ({"holdout": {"column": "nights", "last": "30d"}}, "holdout.column: column 'nights' must be date or timestamp"),
        ({"holdout": {"share": 0.2, "by": ["agnt"]}}, "holdout.by: column 'agnt' is not in the schema .did you mean"),
        ({"holdout": {"share": 0.2, "by": ["nights"]}}, "holdout.by: column 'nights' is nullable"),
        ({"holdout": {"share": 0.2, "by": ["price"]}}, "holdout.by: column 'price' must be"),
        ({"holdout": {"share": 0.2, "stratify": "target"}}, "holdout.stratify: a regression has no classes"),
        ({"validation": {}}, "give either `last` .such as 60d. or `share`"),
        ({"validation": {"last": "60d", "share": 0.1}}, "give either `last`"),
        ({"validation": {"share": 0.7}}, "validation.share"),
        ({"validation": {"share": 0.1, "by": ["agent"], "gap": "7d"}}, "`by` and `stratify` go with `share`, and with"),
        ({"validation": {"last": "90s"}}, "validation.last: column 'arrival' is a date; write whole days"),
        ({"validation": {"last": "30d", "gap": "12h"}}, "validation.gap: column 'arrival' is a date"),
        (BY_AGENT | {"validation": {"share": 0.1}}, "validation: the newest rows are those by `holdout.column`"),
        (BY_AGENT | {"backtest": {"every": "30d"}}, "backtest: it follows time, but the hold-out has no `column`"),
        ({"backtest": {"every": "0d"}}, "`every` and `window` must be longer than nothing"),
        ({"backtest": {"every": "30d", "origins": 1}}, "backtest.origins"),
        (
            {"backtest": {"every": "30d"}, "trainer": {"use": "tabular_network", "nodes": 2}},
            "backtest: it runs on one node, but trainer.nodes is 2",
        ),
    ],
)
def test_a_section_with_a_fault_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        stage.pipeline(**changes)


def test_without_a_section_nothing_is_validated_and_early_stopping_follows_the_axis_of_the_hold_out() -> None:
    early = {"early_stopping_rounds": 5}
    by_time, groups = Holdout(column="arrival", last=timedelta(30)), Holdout(share=0.2, by=["agent"])
    assert validation_of(None, by_time, {}) is None
    assert validation_of(None, by_time, early) == Validation(share=SHARE)
    assert validation_of(None, groups, early) == Validation(share=SHARE, by=["agent"])
    declared = Validation(share=0.3)
    assert validation_of(declared, by_time, early) == declared


def test_the_order_says_how_to_split() -> None:
    made = measuring(stage.pipeline(validation={"last": "60d", "gap": "7d"}, backtest={"every": "30d"}), {})
    assert made.validation == Split(column="arrival", last=60 * DAY, gap=7 * DAY)
    assert made.backtest == Origins(column="arrival", origins=5, every=30 * DAY)
    holdout = {"share": 0.2, "stratify": "target"}
    seasons = stage.pipeline(task="classification", holdout=holdout, validation={"share": 0.1, "stratify": "target"})
    assert measuring(seasons, {}).validation == Split(share=0.1, by=("stay_id",), stratify="season")


def test_columns_that_split_are_in_the_training_set() -> None:
    gate = {"metric": "mae", "limit": 12, "baseline_by": []}
    made = stage.pipeline(gate=gate, holdout={"share": 0.2, "by": ["agent"]}, validation={"share": 0.2, "by": ["room"]})
    assert plain_columns(made) == ["stay_id", "price", "agent", "room"]


def test_the_check_warns_of_a_small_part_and_of_early_stopping_without_one() -> None:
    assert not warnings(stage.pipeline(validation={"last": "60d"}))
    assert "10 days are little beside a hold-out of 60 days" in warnings(stage.pipeline(validation={"last": "10d"}))[0]
    early = stage.pipeline(trainer={"params": {"early_stopping_rounds": 5}})
    assert "the file has no `validation`, so early stopping measures on 15%" in warnings(early)[0]
