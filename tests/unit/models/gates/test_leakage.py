"""A copy of the target under any disguise is told, and features that only help are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.models.encoding import Feature
from rempart.models.gates import leakage
from rempart.models.gates.candidate_figures import CandidateFigures
from rempart.models.gates.verdict import judge
from rempart.settings.gates.rules import LeakageRule
from rempart.settings.pipeline import Gate

LIMIT = LeakageRule().limit
PRICE, CLASSES = Feature("price", "number"), ("no", "maybe", "yes")
SEASON = Feature("season", "category", CLASSES)


def told(column: Any, target: Any, kind: str = "number", values: tuple[str, ...] = ()) -> float:
    """The share that one column tells of a price, or of a season if the target is text."""
    of, task = (SEASON, "classification") if isinstance(target[0], str) else (PRICE, "regression")
    table = pa.table({"own__it": column, of.name: target})
    found = leakage.told_alone([Feature("own__it", kind, values)], of, task, table)  # type: ignore[arg-type]
    assert found is not None
    return found["own__it"]


def prices(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).lognormal(4, 1, rows)


DISGUISES = {
    "copy": lambda price: price,
    "affine": lambda price: 1.2 * price - 30,
    "falling": lambda price: -price,
    "logarithm": np.log,
    "rounded": np.round,
}


@pytest.mark.parametrize("disguise", DISGUISES)
@given(seed=st.integers(0, 2**20), rows=st.integers(120, 900))
@settings(max_examples=15, deadline=None)
def test_each_rising_or_falling_function_of_a_number_is_told(disguise: str, seed: int, rows: int) -> None:
    price = prices(rows, seed)
    assert told(DISGUISES[disguise](price), price) > LIMIT


@given(seed=st.integers(0, 2**20))
@settings(max_examples=15, deadline=None)
def test_a_copy_with_some_error_or_empty_cells_is_told(seed: int) -> None:
    dice, price = np.random.default_rng(seed), prices(3000, seed)
    assert told(price * dice.uniform(0.97, 1.03, len(price)), price) > LIMIT
    empty = pa.array(price, mask=dice.random(len(price)) < 0.4)
    assert told(empty, price) > LIMIT
    wave = np.where(price > 60, price, 4000 - price)  # neither rising nor falling
    assert told(wave, price) > LIMIT


@given(seed=st.integers(0, 2**20), rows=st.integers(100, 2000), strength=st.floats(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_feature_that_helps_is_not_told(seed: int, rows: int, strength: float) -> None:
    dice = np.random.default_rng(seed)
    feature = dice.normal(size=rows)
    noisy = strength * feature + dice.normal(size=rows)  # at most 94 % of the variance
    assert told(feature, noisy) <= LIMIT
    assert told(dice.permutation(noisy), noisy) < 0.5


@given(seed=st.integers(0, 2**20), rows=st.integers(500, 2000))
@settings(max_examples=15, deadline=None)
def test_what_tells_the_class_is_told_and_what_often_does_is_not(seed: int, rows: int) -> None:
    dice = np.random.default_rng(seed)
    score = dice.normal(size=rows)
    kinds = np.digitize(score, [-0.5, 0.7])
    target = [CLASSES[each] for each in kinds]
    names = ("a", "b", "c")
    assert told([names[each] for each in kinds], target, "category", names) > LIMIT
    assert told(score, target) > 0.9  # rows at the edges fall on either side
    closed = pa.array([None if each == "no" else 1.0 for each in target])
    assert 0.2 < told(closed, target) <= LIMIT
    assert told(score + dice.normal(size=rows), target) <= LIMIT
    assert told(dice.normal(size=rows), target) < 0.5
    two = [CLASSES[2 * int(each > 1)] for each in kinds]
    assert told(pa.array([None if each == "no" else 1.0 for each in two]), two) > LIMIT  # filled only if it came true


def nothing_told(column: Any, target: Any) -> bool:
    of, task = (SEASON, "classification") if isinstance(target[0], str) else (PRICE, "regression")
    table = pa.table({"own__it": column, of.name: target})
    return leakage.told_alone([Feature("own__it", "number")], of, task, table) is None


def test_of_few_rows_or_a_target_of_almost_one_value_nothing_is_told() -> None:
    price = prices(leakage.FEWEST - 1, 1)
    assert nothing_told(price, price)
    assert nothing_told(np.arange(200.0), np.full(200, 7.0))
    assert nothing_told(np.arange(200.0), ["no"] * 199 + ["yes"])
    assert told(np.full(200, 3.0), prices(200, 1)) < 0.1
    few = np.where(np.arange(300) % 10, 0.0, 1.0)
    assert nothing_told(few, few)  # an inspection that found each of 30 damages is not yet a copy of them
    assert nothing_told(few, ["yes" if each else "no" for each in few])
    known, damages = np.full(600, np.nan), prices(600, 2)
    known[:200], damages[:200] = few[:200], few[:200]  # a value that is known where almost nothing happens
    assert told(known, damages) <= LIMIT


@given(seed=st.integers(0, 2**20), rows=st.integers(200, 3000))
@settings(max_examples=15, deadline=None)
def test_a_number_that_counts_the_rows_tells_nothing_of_what_changes_slowly(seed: int, rows: int) -> None:
    season = np.sin(np.arange(rows) / rows * 14 + seed) + np.random.default_rng(seed).normal(0, 0.01, rows)
    assert told(np.arange(rows), season) <= LIMIT
    assert told(np.arange(rows), [CLASSES[2 * int(each > 0)] for each in season]) <= LIMIT
    assert told(season, season) > LIMIT


def test_of_many_rows_a_sample_is_measured() -> None:
    price = prices(leakage.SAMPLE * 3 + 1, 2)
    assert told(price, price) > 0.999


def result(told_alone: Any, *rules: Any) -> Any:
    gate = Gate.model_validate({"metric": "mae", "limit": 9, "baseline_by": [], "rules": list(rules)})
    figures = CandidateFigures({"mae": 1.0}, {"mae": 9.0, "overall_mae": 9.0}, target="price", told_alone=told_alone)
    verdict = judge(figures, gate)
    found = next((each for each in verdict.results if each.rule == "leakage"), None)
    assert verdict.passed == (found is None or found.outcome == "passed")
    return found


COPIED = {"own__paid": 0.9991, "own__rooms": 0.4}


def test_every_gate_refuses_a_copy_names_it_and_is_silent_otherwise() -> None:
    refused = result(COPIED)
    assert refused.outcome == "refused" and "own__paid (99.9%)" in refused.reason and "own__rooms" not in refused.reason
    assert "`allow` of a rule `leakage`" in refused.reason
    assert result({"own__rooms": 0.4}) is None and result(None) is None


def test_a_person_who_knows_says_so_in_the_file() -> None:
    allowed = result(COPIED, {"kind": "leakage", "allow": ["own__paid"]})
    assert allowed.outcome == "passed" and allowed.value == 0.4 and "other than own__paid" in allowed.reason
    assert result(COPIED, {"kind": "leakage", "limit": 1}).outcome == "passed"
    assert result({"own__rooms": 0.4}, {"kind": "leakage", "limit": 0.3}).outcome == "refused"
    assert result(None, {"kind": "leakage"}).outcome == "unknown"
    assert result(None, {"kind": "leakage", "limit": 1}).outcome == "passed"
