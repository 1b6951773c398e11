"""The gate's metric on a window, beside the hold-out: worse, equal, by segment, calibration; and the record of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rempart.ledger.canonical import canonical
from rempart.models import metrics
from rempart.monitoring import performance, verdict
from rempart.monitoring.performance import RowLosses
from rempart.monitoring.verdict import Window
from rempart.settings.champions.monitoring import Monitoring

RULES = Monitoring()
WINDOW = Window("snapshot", "s1", None, None, 1_000)


def errors(count: int, size: float, seed: int = 1, **groups: list[str]) -> RowLosses:
    return RowLosses(np.random.default_rng(seed).exponential(size, count), groups)


@pytest.mark.parametrize(
    ("metric", "task"), [("mae", "regression"), ("rmse", "regression"), ("accuracy", "c"), ("log_loss", "c")]
)
def test_the_mean_of_the_losses_is_the_gates_metric(metric: str, task: str) -> None:
    random = np.random.default_rng(1)
    if task == "regression":
        truth, predicted = random.normal(size=300), random.normal(size=300)
    else:
        truth, predicted = random.integers(0, 3, 300).astype(float), random.dirichlet([1, 1, 1], 300)
    mine = float(performance.losses(metric, truth, predicted).mean())
    assert performance.value_of(metric, mine) == pytest.approx(metrics.score(task, truth, predicted)[metric])


def test_a_worse_metric_is_at_fault_and_chance_is_not() -> None:
    holdout = errors(3_000, 20.0)
    assert not performance.judge("mae", errors(1_000, 20.0, 2), holdout, 20.0, RULES).worse
    found = performance.judge("mae", errors(1_000, 30.0, 2), holdout, 20.0, RULES)
    assert found.worse and found.overall.value == pytest.approx(30, rel=0.1) and found.overall.p < 1e-6
    assert not performance.judge("mae", errors(1_000, 30.0, 2), holdout, 20.0, Monitoring(worse=1.0)).worse
    better = performance.judge("mae", errors(1_000, 10.0, 2), holdout, 20.0, RULES)
    assert not better.worse and better.overall.p > 0.99


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_one_loss_that_is_no_number_is_red(broken: float) -> None:
    rooms = ["plain", "sea"] * 1_500
    holdout, window = (errors(3_000, 20.0, seed, room=rooms) for seed in (1, 2))
    assert not performance.judge("mae", window, holdout, 20.0, RULES).worse
    window.losses[7] = broken
    found = performance.judge("mae", window, holdout, 20.0, RULES)
    assert found.overall.worse and [f.segment for f in found.segments if f.worse] == ["room=sea"]
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert told.outcome == "red" and "on 3,000 rows, and was 20 on the hold-out" in told.reasons[0]
    assert json.loads(canonical(told.body()))["performance"]["value"] is None


def test_a_probability_that_is_no_number_is_wrong() -> None:
    truth, predicted = np.zeros(2), np.array([[0.9, 0.1], [np.nan, 0.1]])
    assert performance.losses("accuracy", truth, predicted).tolist() == [0.0, 1.0]
    assert not np.isfinite(performance.losses("log_loss", truth, predicted)[1])
    assert performance.calibration_error(truth, predicted) == pytest.approx((0.9 + 1.0 - 1) / 2)


def test_too_few_targets_are_unknown() -> None:
    found = performance.judge("mae", errors(50, 99.0), errors(3_000, 20.0), 20.0, RULES)
    assert found.overall.value is None and not found.worse
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert told.outcome == "unknown" and told.reasons == (
        "too few targets are known: 50 of 1,000 rows, 200 are needed",
    )
    few = verdict.conclude("3", Window("snapshot", "s1", None, None, 9), (), None, RULES.least_rows)
    assert (few.outcome, few.reasons[0][:15]) == ("unknown", "too few rows: 9")


@pytest.mark.parametrize("size", [1.0, 99.0])
def test_too_few_rows_of_the_hold_out_are_unknown(size: float) -> None:
    found = performance.judge("mae", errors(1_000, size), errors(1, 20.0), 20.0, RULES)
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert found.overall.value is None and told.outcome == "unknown"
    assert told.reasons == ("the hold-out has too few rows to compare with: 200 are needed",)


def test_a_segment_is_at_fault_by_itself() -> None:
    rooms = ["plain", "sea"] * 1_500
    holdout = errors(3_000, 20.0, room=rooms)
    sizes = np.where(np.array(rooms) == "sea", 30.0, 18.0)
    window = RowLosses(np.random.default_rng(2).exponential(sizes), {"room": rooms})
    found = performance.judge("mae", window, holdout, 20.0, RULES)
    assert not found.overall.worse and found.worse
    assert [(figure.segment, figure.worse) for figure in found.segments] == [("room=sea", True), ("room=plain", False)]
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert told.outcome == "red" and told.reasons[0].startswith("mae of room=sea is ")
    body = json.loads(canonical(told.body()))
    assert body["performance"]["segments"][0]["segment"] == "room=sea" and body["outcome"] == "red"


def test_a_segment_that_the_hold_out_lacks_is_compared_with_its_training_data_or_shown_without_a_reference() -> None:
    holdout = errors(2_000, 20.0, room=["plain"] * 2_000)
    training = errors(4_000, 5.0, 3, room=["plain", "sea"] * 2_000)  # the model fits what it learned from
    rooms = ["plain", "sea", "cellar"] * 1_000

    def judged(size: float, learned: RowLosses | None = training) -> dict[str, performance.Figure]:
        sizes = np.where(np.array(rooms) == "plain", 20.0, size)
        window = RowLosses(np.random.default_rng(2).exponential(sizes), {"room": rooms})
        found = performance.judge("mae", window, holdout, 20.0, Monitoring(worse=0.5), learned)
        assert found.segments[0].worse == (found.segments[0].segment == "room=sea" and size > 30)
        body = json.loads(canonical(verdict.conclude("3", WINDOW, (), found, RULES.least_rows).body()))
        assert "cellar" in str(body["performance"]["segments"])
        return {figure.segment: figure for figure in found.segments}

    usual = judged(20.0)
    assert [usual[f"room={name}"].reference for name in ("plain", "sea", "cellar")] == [
        "hold-out", "training data", "none",
    ]  # fmt: skip
    assert usual["room=sea"].recorded == pytest.approx(20, rel=0.1) and not usual["room=sea"].worse
    assert usual["room=cellar"].rows == 1_000 and usual["room=cellar"].recorded is None
    assert judged(45.0)["room=sea"].worse and not judged(45.0)["room=cellar"].worse
    assert judged(20.0, None)["room=sea"].reference == "none"
    perfect = RowLosses(np.zeros(4_000), training.groups)
    assert judged(20.0, perfect)["room=sea"].reference == "none"


@pytest.mark.parametrize("learned", [0.0, 0.001])
@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_classifier_that_knows_its_training_data_by_heart_has_a_reference_of_use(metric: str, learned: float) -> None:
    random, months = np.random.default_rng(1), [f"{month}" for month in range(12)]

    def rows(error: float, count: int, known: list[str]) -> RowLosses:
        losses = (random.random(count) < error).astype(float) if metric == "accuracy" else np.full(count, error)
        return RowLosses(losses, {"month": known * (count // len(known))})

    training = rows(learned, 12_000, months)
    if metric == "log_loss":  # in some months the model is three times as sure
        training.losses[::2] *= 3
    holdout = rows(0.2, 2_000, ["0"])
    recorded = 0.8 if metric == "accuracy" else 0.2
    for error, worse in ((0.2, False), (0.4, True)):
        window = rows(error, 3_000, months[1:7])
        found = performance.judge(metric, window, holdout, recorded, RULES, training).segments
        assert {figure.reference for figure in found} == {"training data"}
        assert [figure.recorded for figure in found] == [pytest.approx(recorded, abs=0.03)] * 6
        assert [figure.worse for figure in found] == [worse] * 6


def test_a_loss_that_is_no_number_is_red_also_without_a_reference() -> None:
    window = errors(3_000, 20.0, 2, room=["plain", "cellar"] * 1_500)
    window.losses[1] = np.nan
    found = performance.judge("mae", window, errors(3_000, 20.0, room=["plain"] * 3_000), 20.0, RULES)
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert any(
        reason == "mae of room=cellar is not a number on 1,500 rows, and neither the hold-out nor the training data "
        "has enough of these rows"
        for reason in told.reasons
    )


def test_probabilities_that_are_too_sure_are_at_fault() -> None:
    random = np.random.default_rng(1)
    sure = np.column_stack([np.full(2_000, 0.9), np.full(2_000, 0.1)])
    fits, off = ((random.random(2_000) > share).astype(float) for share in (0.9, 0.6))
    errors_of = [performance.calibration_error(truth, sure) for truth in (fits, off)]
    assert errors_of[0] < 0.03 and errors_of[1] == pytest.approx(0.3, abs=0.05)
    holdout, window = (
        RowLosses(performance.losses("log_loss", truth, sure), {}, error)
        for truth, error in zip((fits, off), errors_of, strict=True)
    )
    found = performance.judge("log_loss", window, holdout, float(holdout.losses.mean()), Monitoring(worse=9.0))
    assert found.miscalibrated and found.worse and not found.overall.worse
    told = verdict.conclude("3", WINDOW, (), found, RULES.least_rows)
    assert told.reasons[0].startswith("probabilities are off by 29")
