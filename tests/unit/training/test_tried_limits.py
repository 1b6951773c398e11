"""A try says if limit or baseline of the gate decides nothing, or hardly a model reaches it, and how far one is off."""

from __future__ import annotations

import pytest

from rempart.cli.views import trying
from rempart.flows.training import try_pipeline as flow
from tests.unit.training.stage import pipeline


@pytest.mark.parametrize(
    ("metric", "limit", "says"),
    [
        ("mae", -1, "No model reaches the limit: mae is never less than 0. Correct `gate.limit`."),
        ("log_loss", 0, "Only a model without any error reaches the limit, log_loss 0. Correct `gate.limit`."),
        ("mae", 0.1, "Hardly any model reaches the limit: it allows less than a fiftieth of the baseline's error."),
        ("mae", 9.1, "The limit decides nothing: the baseline asks for more, at most 9."),
        ("mae", 900, "The limit decides nothing: the baseline asks for more, at most 9."),
        ("mae", 5, ""),
        ("accuracy", 1.2, "No model reaches the limit: accuracy is never more than 1. Correct `gate.limit`."),
        ("accuracy", 1, "Only a model without any error reaches the limit, accuracy 1."),
        ("accuracy", 0.999, "Hardly any model reaches the limit"),
        ("accuracy", 0, "The limit decides nothing: the baseline asks for more, at least 0.64."),
        ("accuracy", 0.9, ""),
    ],
)
def test_a_limit_that_decides_nothing_or_that_hardly_a_model_reaches_is_told(
    metric: str, limit: float, says: str
) -> None:
    value, bound = (0.6, 0.64) if metric == "accuracy" else (10, 9)
    found = flow.Baseline(metric, value, value, limit, bound, 300, 100)
    lines = list(trying.lines(flow.Tried("stays_test", (), 400, (), (), found, ()), pipeline()))
    about = [line for line in lines if "limit" in line and "The gate's limit is" not in line]
    assert len(about) == bool(says) and all(line.startswith(f"  {says}") for line in about), about


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        (5, 4, None),
        (5, 6, "It misses the gate's limit: 6 is above 5."),
        (2, 6, "It misses the gate's limit: 6 is above 2, 3.0 times the error that it allows."),
        (8, 2, "The gate's limit is far from it: 8 allows 4.0 times its error."),
        (900, 2, None),
    ],
)
def test_a_model_that_misses_the_limit_or_is_far_better_is_told(limit: float, value: float, says: str | None) -> None:
    baseline, model = flow.Baseline("mae", 10, 10, limit, 9, 300, 100), flow.TriedModel({"mae": value}, 1.0, {})
    lines = list(trying.lines(flow.Tried("stays_test", (), 400, (), (), baseline, (), model=model), pipeline()))
    about = [line for line in lines if "It misses" in line or "is far from it" in line]
    assert len(about) == (says is not None) and all(line.startswith(f"  {says}") for line in about), about


@pytest.mark.parametrize(
    ("train_rows", "holdout_rows", "says"),
    [
        (
            300,
            100,
            "  `baseline_by` makes the baseline worse than the mean of all, so a model must beat the latter: write",
        ),
        (30, 30, "  `baseline_by` makes the baseline worse"),
        (
            15,
            285,
            "  Too few rows tell whether `baseline_by` helps: 30 to learn from and 30 held out are needed. Try more",
        ),
        (285, 15, "  Too few rows tell whether `baseline_by` helps"),
    ],
)
def test_groups_are_called_worse_than_none_only_by_enough_rows(train_rows: int, holdout_rows: int, says: str) -> None:
    found = flow.Baseline("mae", 12, 10, 5, 9, train_rows, holdout_rows)
    spec = pipeline()
    grouped = spec.model_copy(update={"gate": spec.gate.model_copy(update={"baseline_by": ("room",)})})
    lines = list(trying.lines(flow.Tried("stays_test", (), 400, (), (), found, ()), grouped))
    (about,) = [line for line in lines if "baseline_by" in line]
    assert about.startswith(says)
    assert ("rempart pipeline try stays_test FILE FILE" in about) is about.startswith("  Too few")
