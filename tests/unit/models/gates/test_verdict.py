"""The gate: candidates that pass, candidates that are refused, and that a worse candidate never counts as better."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.models.gates import verdict
from rempart.models.gates.candidate_figures import CandidateFigures
from rempart.settings.gates.metrics import LOWER_IS_BETTER
from rempart.settings.pipeline import Gate

RULES = Gate(metric="mae", limit=25.0, baseline_by=[], baseline_margin=0.2, champion_tolerance=0.02)
numbers = st.floats(min_value=0, max_value=1e6)
shares = st.floats(min_value=0, max_value=1)


def judge(candidate, champion, baseline, gate, target=""):
    """A verdict by baselines of which that of all rows is the same, unless it is given."""
    overall = {f"overall_{name}": value for name, value in baseline.items() if not name.startswith("overall_")}
    return verdict.judge(CandidateFigures(candidate, {**overall, **baseline}, champion, target), gate)


def rules(metric, limit, margin, tolerance):
    return Gate(metric=metric, limit=limit, baseline_by=[], baseline_margin=margin, champion_tolerance=tolerance)


def test_a_good_first_candidate_passes_and_every_rule_says_why():
    verdict = judge({"mae": 22.4}, None, {"mae": 39.9}, RULES, "price")
    assert verdict.passed
    assert verdict.reasons == (
        "passed: mae of price 22.4 is at most 25 (the limit)",
        "passed: mae of price 22.4 is at most 31.92 (the naive baseline's 39.9 less 20%)",
    )


@pytest.mark.parametrize(
    ("candidate", "champion", "baseline", "message"),
    [
        (26.0, None, 39.9, "above 25 (the limit)"),
        (24.0, None, 29.0, "the naive baseline's 29 less 20%"),
        (24.0, 22.0, 39.9, "the champion's 22 on the same rows, with a tolerance of 2%"),
    ],
)
def test_each_rule_can_refuse(candidate, champion, baseline, message):
    verdict = judge({"mae": candidate}, {"mae": champion} if champion else None, {"mae": baseline}, RULES)
    assert not verdict.passed
    refused = [reason for reason in verdict.reasons if reason.startswith("refused")]
    assert len(refused) == 1 and message in refused[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whose", [0, 1, 2])
def test_a_number_that_is_none_refuses_whoever_has_it(bad, whose):
    metrics = [{"mae": 1.0, "rmse": 1.0}, {"mae": 1.0}, {"mae": 50.0}]
    metrics[whose] = {**metrics[whose], "rmse": bad}
    candidate, champion, naive = metrics
    verdict = judge(candidate, champion, naive, RULES)
    assert not verdict.passed and "not a number" in verdict.reasons[0]


@pytest.mark.parametrize("whose", [0, 1, 2])
def test_a_missing_metric_refuses(whose):
    metrics = [{"mae": 1.0}, {"mae": 1.0}, {"mae": 50.0}]
    metrics[whose] = {}
    candidate, champion, naive = metrics
    assert not judge(candidate, champion, naive, RULES).passed


def test_a_limit_that_is_no_number_refuses():
    assert not judge({"mae": 1.0}, None, {"mae": 50.0}, rules("mae", math.nan, 0.1, 0.1)).passed


def test_accuracy_is_better_when_higher():
    accuracy = rules("accuracy", 0.8, 0.2, 0.02)
    assert judge({"accuracy": 0.95}, {"accuracy": 0.96}, {"accuracy": 0.9}, accuracy).passed
    assert not judge({"accuracy": 0.91}, None, {"accuracy": 0.9}, accuracy).passed  # a fifth of its error must go
    assert not judge({"accuracy": 0.93}, {"accuracy": 0.96}, {"accuracy": 0.9}, accuracy).passed


@given(
    metric=st.sampled_from(sorted(LOWER_IS_BETTER)),
    mine=numbers,
    worse_by=numbers,
    champion=st.none() | numbers,
    baseline=numbers,
    limit=numbers,
    margin=st.floats(min_value=0, max_value=0.99),
    tolerance=shares,
)
def test_worse_never_turns_a_refusal_into_a_pass(metric, mine, worse_by, champion, baseline, limit, margin, tolerance):
    given_rules = rules(metric, limit, margin, tolerance)
    others = ({metric: champion} if champion is not None else None, {metric: baseline}, given_rules)
    worse = mine + worse_by if LOWER_IS_BETTER[metric] else mine - worse_by
    if judge({metric: worse}, *others).passed:
        assert judge({metric: mine}, *others).passed


@given(mine=numbers, champion=numbers, baseline=numbers)
def test_a_champion_never_makes_it_easier(mine, champion, baseline):
    if judge({"mae": mine}, {"mae": champion}, {"mae": baseline}, RULES).passed:
        assert judge({"mae": mine}, None, {"mae": baseline}, RULES).passed


def test_groups_that_are_worse_than_none_make_the_gate_no_easier():
    accuracy = rules("accuracy", 0.5, 0.1, 0.02)
    for gate, mine, grouped, overall in (
        (RULES, {"mae": 20.0}, {"mae": 40.0}, {"overall_mae": 24.0}),
        (accuracy, {"accuracy": 0.85}, {"accuracy": 0.8}, {"overall_accuracy": 0.9}),
    ):
        assert judge(mine, None, grouped, gate).passed
        refused = judge(mine, None, grouped | overall, gate)
        assert not refused.passed and "of all rows, better than" in refused.reasons[-1]
    better = judge({"mae": 20.0}, None, {"mae": 26.0, "overall_mae": 40.0}, RULES)
    assert better.passed and "(the naive baseline's 26 less 20%)" in better.reasons[-1]
    unknown = verdict.judge(CandidateFigures({"mae": 20.0}, {"mae": 40.0}), RULES)
    assert not unknown.passed and "the baseline's mae is missing" in unknown.reasons[-1]
