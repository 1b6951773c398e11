"""Metrics by name: compared with figures by hand, and each with its own resampling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.models.gates import resampling
from rempart.models.gates.measures import Measures, bands, score
from rempart.models.gates.thresholds import choose_threshold
from rempart.settings.gates.metrics import FACTS, METRICS, by_row

NUMBERS = Measures("regression", cost=(3.0, 1.0), quantile=0.9)
TWO = Measures("classification", classes=2, positive=1, cost=(1.0, 10.0), beta=2.0)
THREE = Measures("classification", classes=3)


def rows(measures, n=300, seed=3):
    """True values, and predictions that know something, with chances that several rows share."""
    random = np.random.default_rng(seed)
    if measures.task == "regression":
        truth = random.normal(50, 10, n)
        return truth, truth + random.normal(0, 5, n)
    truth = random.integers(0, measures.classes, n).astype(float)
    raw = random.random((n, measures.classes)) + (truth[:, None] == np.arange(measures.classes)) * 0.6
    raw = np.round(raw, 1) + 0.1
    return truth, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("measures", [NUMBERS, TWO, THREE])
def test_every_metric_is_the_same_on_a_sample_that_has_each_row_once(measures):
    truth, predicted = rows(measures)
    names = [name for name in METRICS[measures.task] if name != "cost" or measures.cost]
    found = score(measures, names, truth, predicted)
    assert set(found) == set(names) and all(math.isfinite(value) for value in found.values())
    for name in names:
        again = resampling.statistic(measures, name, truth, predicted)(np.ones((1, len(truth))))
        assert again[0] == pytest.approx(found[name], rel=1e-9), name


@pytest.mark.parametrize("measures", [NUMBERS, TWO, THREE])
def test_every_metric_of_a_resample_is_that_of_its_rows(measures):
    truth, predicted = rows(measures, n=120)
    drawn = np.random.default_rng(5).integers(0, len(truth), len(truth))
    weights = np.bincount(drawn, minlength=len(truth)).astype(float)[None, :]
    for name in METRICS[measures.task]:
        if name == "calibration_error" or (name == "cost" and not measures.cost):
            continue  # the bands are those of all rows
        found = resampling.statistic(measures, name, truth, predicted)(weights)[0]
        assert found == pytest.approx(measures.value(name, truth[drawn], predicted[drawn]), rel=1e-9), name


def test_costs_are_those_of_the_user():
    assert NUMBERS.value("cost", np.array([10.0, 10.0]), np.array([8.0, 11.0])) == (3 * 2 + 1) / 2
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert TWO.value("cost", np.array([1.0, 0.0, 1.0]), chances) == (10 + 1) / 3
    assert math.isnan(THREE.value("cost", np.array([0.0]), np.eye(3)[:1]))


def test_calibration_compares_chances_with_what_came_true():
    chances = np.repeat([[0.8, 0.2], [0.4, 0.6]], 100, axis=0)
    truth = np.concatenate([np.arange(100) < 20, np.arange(100) < 50]).astype(float)
    assert TWO.value("calibration_error", truth, chances) == pytest.approx((0 + 0.1) / 2)
    always = np.tile([0.5, 0.5], (100, 1))  # in the order of time, half of the rows after the other
    assert TWO.value("calibration_error", (np.arange(100) < 50).astype(float), always) == 0


@pytest.mark.parametrize(
    ("measures", "name", "truth", "predicted"),
    [
        (TWO, "roc_auc", [1.0, 1.0], [[0.5, 0.5], [0.1, 0.9]]),
        (TWO, "pr_auc", [0.0, 0.0], [[0.5, 0.5], [0.1, 0.9]]),
        (TWO, "balanced_accuracy", [0.0, 0.0], [[0.5, 0.5], [0.9, 0.1]]),
        (NUMBERS, "mape", [0.0, 1.0], [1.0, 1.0]),
        (NUMBERS, "r2", [2.0, 2.0], [1.0, 2.0]),
        (NUMBERS, "pinball", [2.0, 2.0], [math.nan, 2.0]),
        (TWO, "brier", [0.0, 1.0], [[math.inf, 0.0], [0.5, 0.5]]),
    ],
)
def test_a_metric_that_is_undefined_is_no_number(measures, name, truth, predicted):
    assert math.isnan(measures.value(name, np.array(truth), np.array(predicted)))


def test_resamples_are_the_same_each_time_and_the_same_rows_for_everyone():
    truth, predicted = rows(TWO)
    made = {"candidate": predicted, "champion": predicted.copy()}
    first, again = (
        resampling.resampled(dict.fromkeys(made, TWO), ["pr_auc", "log_loss"], truth, made) for _ in range(2)
    )
    for name in ("pr_auc", "log_loss"):
        assert len(first["candidate"][name]) == resampling.RESAMPLES
        assert np.array_equal(first["candidate"][name], again["candidate"][name])
        assert np.array_equal(first["candidate"][name], first["champion"][name])
        spread = first["candidate"][name].std()
        assert spread > 0 and abs(first["candidate"][name].mean() - TWO.value(name, truth, predicted)) < 4 * spread
    other = resampling.resampled(dict.fromkeys(made, TWO), ["log_loss"], truth, made, seed=1)
    assert not np.array_equal(other["candidate"]["log_loss"], first["candidate"]["log_loss"])


def test_resamples_do_not_depend_on_how_many_are_measured_at_a_time(monkeypatch):
    truth, predicted = rows(NUMBERS, n=50)
    whole = resampling.resampled({"candidate": NUMBERS}, ["mae"], truth, {"candidate": predicted})
    monkeypatch.setattr(resampling, "_BYTES", 8 * 50 * 7)
    parts = resampling.resampled({"candidate": NUMBERS}, ["mae"], truth, {"candidate": predicted})
    assert np.allclose(whole["candidate"]["mae"], parts["candidate"]["mae"], rtol=1e-12)


def test_of_very_many_rows_some_are_chosen_and_a_prediction_that_is_no_number_has_no_figure(monkeypatch):
    monkeypatch.setattr(resampling, "MOST_ROWS", 40)
    truth, predicted = rows(NUMBERS)
    found = resampling.resampled({"candidate": NUMBERS}, ["mae"], truth, {"candidate": predicted})
    assert np.isfinite(found["candidate"]["mae"]).all()
    sure = resampling.resampled({"champion": NUMBERS}, ["mae"], truth, {"champion": np.full(len(truth), np.nan)})
    assert np.isnan(sure["champion"]["mae"]).all()


@pytest.mark.parametrize("n", [0, 1, resampling.FEWEST_ROWS - 1])
def test_few_rows_are_never_sure(n):
    truth, predicted = rows(NUMBERS, n=resampling.FEWEST_ROWS)
    assert resampling.resampled({"candidate": NUMBERS}, ["mae"], truth[:n], {"candidate": predicted[:n]}) == {}
    assert resampling.resampled({"candidate": NUMBERS}, ["mae"], truth, {"candidate": predicted})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_bands_keep_the_order_and_never_part_equal_chances(chances):
    chance = np.array(chances)
    band = bands(chance)
    order = np.argsort(chance, kind="stable")
    assert (np.diff(band[order]) >= 0).all() and np.min(band) >= 0 and np.max(band) < 10
    assert all(len(set(band[chance == value])) == 1 for value in set(chances))


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.4, 0.5, 0.7, 0.9])), min_size=1, max_size=40),
    st.floats(0.1, 20),
    st.floats(0.1, 20),
)
def test_the_threshold_has_the_lowest_cost_of_all(found, wrongly, missed):
    truth, chance = np.array([float(is_it) for is_it, _ in found]), np.array([value for _, value in found])

    def cost(threshold):
        taken = chance >= threshold
        return wrongly * (taken & (truth == 0)).sum() + missed * (~taken & (truth == 1)).sum()

    chosen = choose_threshold(truth, chance, (wrongly, missed))
    if 0 < truth.sum() < len(truth):
        assert cost(chosen) <= min(cost(value) for value in np.linspace(0, 1.1, 111)) * (1 + 1e-9)
    else:
        assert chosen == 0.5


def test_a_metric_without_losses_by_row_is_watched_by_one_that_has_them():
    assert by_row("rmse", "regression") == "rmse" and by_row("r2", "regression") == "mae"
    assert by_row("pr_auc", "classification") == "log_loss"
    assert all(facts.tasks and facts.meaning for facts in FACTS.values())
