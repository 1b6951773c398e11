"""A model that tells a window apart: by chance, by a combination, by a season, and what is usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from rempart.monitoring import domain, verdict
from rempart.monitoring.domain import WindowRows
from rempart.monitoring.verdict import Window
from rempart.settings.champions.monitoring import Monitoring

JANUARY = 2025 * 12
NAMES = ["one", "other", "third"]


def side(matrix: Any, months: Any) -> WindowRows:
    return WindowRows(np.asarray(months), lambda places: np.asarray(matrix[places], np.float32))


def normal(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, 3))


def year(seed: int = 1) -> WindowRows:
    return side(normal(4_800, seed), JANUARY + np.arange(4_800) % 12)


def test_nothing_moved_is_told_by_chance_alone() -> None:
    for seed in (2, 3):
        found = domain.separate(year(seed + 90), side(normal(400, seed), np.full(400, JANUARY + 12)), NAMES, 200)
        assert found is not None and found.spans == 6 and found.allowed is not None
        assert found.area < 0.57 and not found.moved


def test_a_combination_that_no_column_shows_is_found_and_named() -> None:
    seen = normal(1_000, 7)
    seen[:, 1] = 0.9 * seen[:, 0] + np.sqrt(1 - 0.81) * seen[:, 1]  # each column is as before
    found = domain.separate(year(), side(seen, np.full(1_000, JANUARY + 12)), NAMES, 200)
    assert found is not None and found.moved and found.low > 0.6
    assert {column.column for column in found.columns} == {"one", "other"}
    window = Window("snapshot", "s1", None, None, 1_000)
    for alarms, outcome in ((True, "red"), (False, "unknown")):
        told = verdict.conclude("3", window, (), None, 2_000, domain=found, domain_alarms=alarms)
        assert told.outcome == outcome and ("AUC" in told.reasons[0]) == alarms
        assert told.body()["domain"]["columns"][0]["column"] in ("one", "other")
    assert domain.separate(year(), side(seen, np.full(1_000, JANUARY + 12)), NAMES, 200) == found  # the same again


def test_an_alarm_that_could_not_be_judged_is_told() -> None:
    window, short = Window("snapshot", "s1", None, None, 1_000), side(normal(400, 1), np.full(400, JANUARY))
    unjudged = domain.separate(short, side(normal(400, 2), np.full(400, JANUARY + 1)), NAMES, 200)
    assert unjudged is not None and unjudged.allowed is None
    for found in (unjudged, None):
        told, quiet = (
            verdict.conclude("3", window, (), None, 30, domain=found, domain_alarms=alarms) for alarms in (True, False)
        )
        assert set(told.reasons) - set(quiet.reasons) == {
            "what a model tells by all columns at once is not known: the training data has too few earlier windows"
        }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 5.0])
def test_a_column_without_a_usable_value_tells_nothing_and_hides_nothing(value: float) -> None:
    learned, seen = normal(4_800, 1), normal(400, 2)
    learned[:, 2] = seen[:, 2] = value
    seen[:, 0] += 2
    months = JANUARY + np.arange(4_800) % 12
    found = domain.separate(side(learned, months), side(seen, np.full(400, JANUARY + 12)), NAMES, 200)
    assert found is not None and found.moved and [column.column for column in found.columns] == ["one"]


def test_months_that_always_differ_are_usual() -> None:
    months = JANUARY + np.arange(4_800) % 12
    drifting = normal(4_800, 1)
    drifting[:, 2] += months - JANUARY  # it grows with the history
    seen = normal(400, 2)
    seen[:, 2] += 12
    found = domain.separate(side(drifting, months), side(seen, np.full(400, JANUARY + 12)), NAMES, 200)
    assert found is not None and found.low > 0.6 and not found.moved


def test_a_missing_value_is_a_value_and_a_short_history_gives_no_alarm() -> None:
    seen = normal(400, 3)
    seen[:, 0] = np.nan
    short = side(normal(800, 1), JANUARY + np.arange(800) % 2)
    found = domain.separate(short, side(seen, np.full(400, JANUARY + 12)), NAMES, 200)
    assert found is not None and found.area > 0.9 and found.allowed is None and not found.moved
    few = side(seen[:50], np.full(50, JANUARY + 12))
    assert domain.separate(year(), few, NAMES, 200) is None
    assert domain.separate(year(), side(seen, np.full(400, JANUARY + 12)), [], 200) is None


def test_the_limit_is_above_all_that_was_seen_and_rarely_exceeded() -> None:
    assert domain.allowed([0.5, 0.6]) is None
    assert domain.allowed([0.9, 1.0, 1.0]) == pytest.approx(1.0)
    random = np.random.default_rng(4)
    runs = random.normal(0.55, 0.02, (4_000, 7))
    above = sum(last > domain.allowed(list(others)) for *others, last in runs.tolist())  # type: ignore[operator]
    assert 0 < above <= 0.01 * len(runs)


def test_off_is_a_word_in_yaml() -> None:
    for given, rule in (("{}", "report"), ("domain_classifier: off", "off"), ("domain_classifier: 'alarm'", "alarm")):
        assert Monitoring.model_validate(yaml.safe_load(given)).domain_classifier == rule
    with pytest.raises(ValidationError):
        Monitoring.model_validate({"domain_classifier": True})


def test_the_interval_is_that_of_simulated_curves() -> None:
    low, high = domain.interval(0.76, 150, 150)
    random, areas = np.random.default_rng(6), []
    truth = np.repeat([0, 1], 150)
    for _ in range(300):
        areas.append(domain._area(truth, random.normal(size=300) + truth))
    assert np.mean(areas) == pytest.approx(0.76, abs=0.01)
    assert (low, high) == (pytest.approx(np.quantile(areas, 0.025), abs=0.015), pytest.approx(0.81, abs=0.02))
    assert domain.interval(1.0, 50, 50) == (1.0, 1.0)
