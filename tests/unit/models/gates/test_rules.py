"""Each rule of the gate: what passes, what is refused, and that an unknown figure never passes."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.models.encoding import Feature
from rempart.models.gates import groups, noise
from rempart.models.gates.candidate_figures import Band, CandidateFigures, Reads, Subgroup
from rempart.models.gates.measures import Measures
from rempart.models.gates.verdict import RuleResult, judge
from rempart.settings.pipeline import Gate

WHOLE = CandidateFigures({"log_loss": 0.5, "calibration_error": 0.02}, {"log_loss": 0.7, "overall_log_loss": 0.7})
NOW = {"size": 2_000_000, "latency": 0.002, "changes": {0.01: 0.03}}


def asked(*rules, **shown) -> RuleResult:
    """The result of the last rule of a gate whose short form passes."""
    gate = Gate.model_validate({"metric": "log_loss", "limit": 0.6, "baseline_by": [], "rules": list(rules)})
    verdict = judge(dataclasses.replace(WHOLE, **shown), gate)
    assert verdict.passed == all(result.outcome == "passed" for result in verdict.results)
    assert len(verdict.reasons) >= 2 and verdict.reasons[-1] == verdict.results[-1].reason
    return verdict.results[-1]


def samples(**figures):
    return {whose: {"log_loss": np.array(values)} for whose, values in figures.items()}


def test_a_limit_of_another_metric_is_asked_besides():
    rule = {"kind": "limit", "metric": "brier", "limit": 0.2}
    assert asked(rule, candidate={**WHOLE.candidate, "brier": 0.2}).outcome == "passed"
    assert asked(rule, candidate={**WHOLE.candidate, "brier": 0.21}).outcome == "refused"
    assert asked(rule).outcome == "unknown"


@pytest.mark.parametrize(("worse", "outcome"), [(40, "passed"), (60, "refused")])
def test_a_champion_is_beaten_only_if_enough_resamples_say_so(worse, outcome):
    rule = {"kind": "beats_champion", "confidence": 0.95}
    champion = [0.51] * (1000 - worse) + [0.49] * worse
    found = asked(rule, champion={"log_loss": 0.51}, samples=samples(candidate=[0.5] * 1000, champion=champion))
    assert found.outcome == outcome
    assert f"in {1 - worse / 1000:.1%} of the resamples" in found.reason and "95% are asked" in found.reason


def test_a_resample_without_a_figure_is_none_that_holds():
    rule = {"kind": "beats_baseline", "margin": 0, "confidence": 0.95}
    same = {"baseline": [0.7] * 100, "overall": [0.7] * 100}
    figures = samples(candidate=[0.5] * 90 + [math.nan] * 10, **same)
    assert asked(rule, samples=figures).outcome == "refused"
    assert asked(rule).outcome == "unknown"
    assert asked({**rule, "confidence": None}).outcome == "passed"
    assert asked(rule, samples=samples(candidate=[0.5] * 100, **same)).outcome == "passed"
    better = {"baseline": [0.7] * 100, "overall": [0.4] * 10 + [0.7] * 90}
    assert asked(rule, samples=samples(candidate=[0.5] * 100, **better)).outcome == "refused"


def test_without_a_champion_none_has_to_be_beaten():
    assert asked({"kind": "beats_champion"}).rule == "beats_baseline"


def test_the_calibration_is_asked_in_words():
    rule = {"kind": "calibration", "limit": 0.02}
    found = asked(rule, calibration=(Band("true", 10, 0.2, 0.3),))
    assert found.reason == "passed: predicted chances are off by 2.0% on average, at most the 2.0% allowed"
    assert found.as_json()["details"] == [{"of": "true", "rows": 10, "chance": 0.2, "share": 0.3}]
    assert asked({**rule, "limit": 0.01}).outcome == "refused"
    assert asked(rule, candidate={"log_loss": 0.5}).outcome == "unknown"


SUBGROUPS = {"kind": "subgroups", "columns": ["carrier"], "min_rows": 100, "ratio": 1.3}


def told(*found):
    return {"subgroups": {3: tuple(Subgroup(("carrier",), (name,), rows, value) for name, rows, value in found)}}


def test_a_subgroup_alone_refuses_and_is_named():
    found = asked(SUBGROUPS, **told(("AA", 900, 0.45), ("EV", 100, 0.66), ("HA", 99, 2.0)))
    assert found.reason == (
        "refused: 1 of 2 subgroups is worse than 1.3 times log_loss of all rows (log_loss 0.5; bound 0.65): "
        "carrier=EV (100 rows) with log_loss 0.66"
    )
    outcomes = {detail["group"]: detail["outcome"] for detail in found.details}
    assert outcomes == {"carrier=EV": "refused", "carrier=AA": "passed", "carrier=HA": "too few rows"}
    kept = asked(SUBGROUPS, **told(("AA", 900, 0.45), ("EV", 100, 0.65)))
    assert kept.outcome == "passed" and "the worst is carrier=EV (100 rows) with log_loss 0.65" in kept.reason


@pytest.mark.parametrize(
    "found",
    [{}, {"subgroups": {3: "no column"}}, told(("AA", 99, 0.1)), told(("AA", 900, math.nan)), told(("AA", 900, None))],
)
def test_subgroups_that_are_not_known_refuse(found):
    assert asked(SUBGROUPS, **found).outcome == "unknown"


def test_of_a_metric_where_higher_is_better_the_error_counts():
    rule = {**SUBGROUPS, "metric": "pr_auc", "ratio": 2}
    candidate = {**WHOLE.candidate, "pr_auc": 0.9}
    assert asked(rule, candidate=candidate, **told(("AA", 900, 0.8))).outcome == "passed"
    assert asked(rule, candidate=candidate, **told(("AA", 900, 0.79))).outcome == "refused"


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ({"kind": "size", "limit_mb": 2}, "passed"),
        ({"kind": "size", "limit_mb": 1.9}, "refused"),
        ({"kind": "latency"}, "passed"),
        ({"kind": "latency", "limit_ms": 1}, "refused"),
        ({"kind": "stability", "limit": 0.03}, "passed"),
        ({"kind": "stability", "limit": 0.029}, "refused"),
        ({"kind": "stability", "noise": 0.05, "limit": 0.03}, "unknown"),
    ],
)
def test_size_latency_and_stability_have_their_limits(rule, outcome):
    assert asked(rule, **NOW).outcome == outcome
    assert asked(rule).outcome == "unknown"


def test_two_judgements_of_one_candidate_have_the_same_reasons_whatever_the_time_it_took():
    first, second = (asked({"kind": "latency"}, latency=seconds) for seconds in (0.001, 0.002))
    assert first.reason == second.reason and first.value != second.value


@pytest.mark.parametrize("excluded", ["country", "agent", "guest__country"])
def test_an_excluded_column_refuses_through_whatever_feature_it_comes(excluded):
    columns = {"guest__country": frozenset({"country"}), "trend__mean": frozenset({"price", "agent"})}
    reads = Reads(frozenset(columns), columns)
    rule = {"kind": "excluded_features", "columns": [excluded]}
    found = asked(rule, reads=reads)
    assert found.outcome == "refused" and "which a person excluded" in found.reason
    assert asked({**rule, "columns": ["name"]}, reads=reads).outcome == "passed"
    unknown = dataclasses.replace(reads, features=reads.features | {"x__y"}, unknown=frozenset({"x__y"}))
    assert asked({**rule, "columns": ["name"]}, reads=unknown).outcome == "unknown"
    assert asked(rule).outcome == "unknown"


@given(
    st.sampled_from(["candidate", "baseline", "champion"]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(["log_loss", "calibration_error"]),
)
def test_a_figure_that_is_no_number_refuses_whoever_has_it(whose, bad, name):
    fine = {"log_loss": 0.5, "calibration_error": 0.01}
    shown = {"candidate": fine, "baseline": {**fine, "log_loss": 0.7, "overall_log_loss": 0.7}, "champion": {**fine}}
    shown[whose] = {**shown[whose], name: bad}
    rules = [{"kind": "calibration", "limit": 0.5}, {"kind": "beats_champion", "tolerance": 9, "confidence": None}]
    gate = Gate.model_validate({"metric": "log_loss", "limit": 9, "baseline_by": [], "rules": rules})
    assert not judge(CandidateFigures(**shown), gate).passed


@given(st.integers(1, 60), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_row_is_in_exactly_one_subgroup_of_each_set_of_columns(rows, intersections, random):
    columns = {"room": ["sea", "plain", "old", None], "pets": [True, False, None], "month": ["1", "2"]}
    table = pa.table({name: [random.choice(values) for _ in range(rows)] for name, values in columns.items()})
    listed = {"room": ["sea", "plain"], "pets": ["false", "true"], "month": ["1", "2"]}
    truth, predicted = np.arange(rows, dtype=float), np.zeros(rows)
    how = Measures("regression"), "mae"
    found = groups.subgroups(table, list(columns), intersections, 1, listed, how, truth, predicted)
    chosen = {group.columns for group in found}
    assert max(map(len, chosen)) == intersections and min(map(len, chosen)) == 1
    for each in chosen:
        parts = [group for group in found if group.columns == each]
        assert len({group.values for group in parts}) == len(parts)
        assert sum(group.rows for group in parts) == rows
        assert math.fsum(group.rows * group.value for group in parts) == pytest.approx(truth.sum())
    names = {name for group in found for name in group.values}
    assert "old" not in names, "a value that no file lists has no name"


def test_calendar_parts_are_subgroups_and_a_missing_column_is_an_error():
    day = 86_400_000_000
    days = pa.array([0] * 30 + [31 * day] * 40 + [60 * day] * 29, pa.timestamp("us", "UTC"))
    how = Measures("regression"), "mae"
    found = groups.subgroups(pa.table({"at": days}), ["at.month"], 1, 40, {}, how, np.ones(99), np.zeros(99))
    told = [(group.name, group.rows, group.value) for group in found]
    assert told == [("at.month=1", 30, None), ("at.month=2", 40, 1)]  # and nothing of the 29 rows of March
    with pytest.raises(KeyError):
        groups.subgroups(pa.table({"at": days}), ["room"], 1, 2, {}, how, np.ones(99), np.zeros(99))


def test_a_band_of_few_rows_is_not_told():
    chance = np.array([0.1] * 99 + [0.9])
    made = groups.calibration(
        Measures("classification", 2, 1), ("no", "yes"), (chance > 0.5) * 1.0, np.column_stack([1 - chance, chance])
    )
    assert [band.rows for band in made] == [99]


def test_the_bands_of_a_calibration_hold_every_row():
    chance = np.linspace(0, 1, 195)
    truth = (chance > 0.5).astype(float)
    made = groups.calibration(
        Measures("classification", 2, 1), ("no", "yes"), truth, np.column_stack([1 - chance, chance])
    )
    assert sum(band.rows for band in made) == 195 and {band.of for band in made} == {"yes"}
    assert made[0].share == 0 and made[-1].share == 1


def test_noise_moves_what_a_model_reads_of_numbers_and_nothing_else():
    features = (Feature("lead", "number"), Feature("room", "category", ("a", "b")), Feature("pets", "boolean"))
    random = np.random.default_rng(0)
    matrix = random.random((500, 4)).astype(np.float32)
    matrix[::7, 0] = np.nan
    sees = []

    def predict(given):
        sees.append(given)
        return np.nan_to_num(given[:, 0]).astype(float) * 10

    change = noise.changed(predict, features, matrix, 0.1)
    before, after = sees
    assert np.array_equal(before[:, 1:], after[:, 1:]) and np.array_equal(np.isnan(before), np.isnan(after))
    assert 0.03 < change < 0.12 and change == noise.changed(predict, features, matrix, 0.1)
    assert noise.changed(lambda given: given[:, 1], features, matrix, 0.1) == 0
    assert math.isnan(noise.changed(lambda given: given[:, 0], features, matrix, 0.1))
    rows = pa.table({"row": range(noise.MOST_ROWS + 5)})
    assert (
        noise.sample(rows).num_rows == noise.MOST_ROWS and noise.sample(rows.slice(6)).num_rows == noise.MOST_ROWS - 1
    )
    assert noise.sample(rows)["row"].to_pylist() == sorted(set(noise.sample(rows)["row"].to_pylist()))
    two = noise.changed(lambda given: np.column_stack([given[:, 1], 1 - given[:, 1]]), features, matrix, 0.1)
    assert two == 0


@pytest.mark.parametrize(
    ("rule", "covered", "width", "outcome", "told"),
    [
        (
            {"at_least": 0.85},
            0.85,
            40.0,
            "passed",
            "85.0% of the true values lie in their interval, at least the 85.0%",
        ),
        ({"at_least": 0.85}, 0.84, 40.0, "refused", "less than the 85.0% asked; an interval is 40 wide on average"),
        ({"at_least": 0.85, "max_width": 40}, 0.9, 40.0, "passed", "at most the 40 allowed"),
        ({"at_least": 0.85, "max_width": 39}, 0.9, 40.0, "refused", "more than the 39 allowed"),
        ({"at_least": 0.85}, 0.9, math.nan, "unknown", "is not a number"),
        ({"at_least": 0.85}, None, None, "unknown", "the model gives none, and an unknown value never passes"),
    ],
)
def test_intervals_must_cover_enough_and_be_no_wider_than_useful(rule, covered, width, outcome, told):
    more = {} if covered is None else {"coverage": covered, "width": width}
    gate = Gate.model_validate(
        {"metric": "log_loss", "limit": 0.6, "baseline_by": [], "rules": [{"kind": "coverage", **rule}]}
    )
    verdict = judge(dataclasses.replace(WHOLE, candidate={**WHOLE.candidate, **more}), gate)
    assert verdict.passed == (outcome == "passed") and verdict.results[-1].outcome == outcome
    assert any(told in reason for reason in verdict.reasons)
    if covered is not None and outcome != "unknown":
        assert (verdict.results[-1].value, verdict.results[-1].bound) == (covered, rule["at_least"])
