"""Which red verdicts start a training, and when a training did not help: properties over records of a ledger."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.ledger.port import Evidence
from rempart.monitoring import retraining
from rempart.monitoring.retraining import TrainingDecision
from rempart.settings.champions.retraining import Retraining

START = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
RULES = Retraining.model_validate({"on_drift": True, "cool_down": "7d", "at_most": {"trainings": 4, "days": 30}})
rules = st.builds(
    lambda hours, trainings, days: Retraining.model_validate(
        {"on_drift": True, "cool_down": f"{hours}h", "at_most": {"trainings": trainings, "days": days}}
    ),
    st.integers(0, 400),
    st.integers(1, 5),
    st.integers(1, 40),
)


def verdict(seq: int, at: datetime = START, outcome: str = "red", version: str = "3") -> Evidence:
    return Evidence(seq, at, "monitoring", "p", {"outcome": outcome, "version": version})


def started(seq: int, of: int, at: datetime = START, version: str | None = None) -> Evidence:
    return Evidence(seq, at, "retraining", "p", retraining.body(of, "3", version))


@given(rules=rules, gaps=st.lists(st.integers(0, 500), max_size=40))
def test_trainings_keep_the_cool_down_and_the_budget(rules: Retraining, gaps: list[int]) -> None:
    now, records, times = START, list[Evidence](), list[datetime]()
    for number, hours in enumerate(gaps):
        now += timedelta(hours=hours)
        newest = verdict(2 * number + 1, now)
        decision = retraining.decide(rules, "3", newest, records, now)
        assert decision.train == (decision.verdict == newest.seq)
        if decision.train:
            records.append(started(2 * number + 2, newest.seq, now))
            times.append(now)
            again = retraining.decide(rules, "3", newest, records, now + timedelta(minutes=5))
            assert again == decision  # a retry of the task
        else:
            assert "the cool-down ends on" in decision.why or "the next is possible on" in decision.why
    assert all(later - at >= rules.cool_down for at, later in itertools.pairwise(times))
    window = timedelta(days=rules.at_most.days)
    for at in times:
        assert sum(at - window < other <= at for other in times) <= rules.at_most.trainings


@given(rules=rules, hours=st.integers(0, 3000))
def test_each_refusal_ends(rules: Retraining, hours: int) -> None:
    now = START + timedelta(hours=hours)
    records = [started(10 + n, n, START + n * timedelta(hours=1)) for n in range(6)]
    if not retraining.decide(rules, "3", verdict(99, now), records, now).train:
        later = now + rules.cool_down + timedelta(days=rules.at_most.days, hours=6)
        assert retraining.decide(rules, "3", verdict(100, later), records, later).train


@given(outcome=st.sampled_from(["red", "green", "unknown"]), version=st.sampled_from(["2", "3"]), on=st.booleans())
def test_only_a_red_verdict_on_the_champion_starts_a_training(outcome: str, version: str, on: bool) -> None:
    rules = RULES.model_copy(update={"on_drift": on})
    decision = retraining.decide(rules, "3", verdict(7, START, outcome, version), [], START)
    assert decision.train == (on and outcome == "red" and version == "3")
    assert decision.why and (decision.verdict is not None) == decision.train


def test_the_reason_is_a_sentence_with_its_end() -> None:
    assert retraining.decide(RULES, None, verdict(7), [], START) == TrainingDecision(
        False, "the model has no champion with a verdict"
    )
    assert not retraining.decide(RULES, "3", None, [], START).train
    soon = retraining.decide(RULES, "3", verdict(9), [started(8, 7)], START + timedelta(days=1))
    assert soon.why == (
        "verdict 9 is red, but verdict 7 started a training on 2026-03-01 06:30 UTC: the cool-down ends on "
        "2026-03-08 06:30 UTC"
    )
    many = [started(10 + n, n, START + timedelta(days=n)) for n in (0, 7, 14, 21)]
    spent = retraining.decide(RULES, "3", verdict(99), many, START + timedelta(days=29))
    assert "drift started 4 trainings within 30 days" in spent.why and "possible on 2026-03-31 06:30" in spent.why


def decided(kind: str, seq: int, version: str = "4") -> Evidence:
    reasons = ["passed: mae 20 is at most 25", "refused: mae 26 is above 25"]
    return Evidence(seq, START, kind, "p", {"version": version, "reasons": reasons})


def test_a_refused_candidate_is_an_alarm_until_a_promotion_or_a_green_verdict() -> None:
    begun, done = started(8, 7), started(10, 7, version="4")
    assert retraining.not_better([begun], [], []) is None
    assert retraining.not_better([done, begun], [], []) is None  # the gate has not decided yet
    refused = retraining.not_better([done, begun], [decided("refusal", 11)], [verdict(7), verdict(12)])
    assert refused is not None
    assert (refused.verdict, refused.version, refused.reasons) == (7, "4", ("refused: mae 26 is above 25",))
    begun_again = started(13, 12)
    assert retraining.not_better([begun_again, done], [decided("refusal", 11)], []) == refused
    assert retraining.not_better([done], [decided("refusal", 11), decided("promotion", 14, "5")], []) is None
    assert retraining.not_better([done], [decided("refusal", 11)], [verdict(12, outcome="green")]) is None
    assert retraining.not_better([done], [decided("refusal", 11)], [verdict(6, outcome="green")]) == refused


def test_a_training_that_gives_the_champion_again_is_an_alarm() -> None:
    found = retraining.not_better([started(10, 7, version="3")], [decided("promotion", 5, "3")], [])
    assert found is not None and "nothing new to learn" in found.reasons[0]


def test_the_cause_of_a_version_is_the_newest_verdict_whose_training_gave_it() -> None:
    known = [started(12, 11, version="4"), started(11, 11), started(10, 7, version="4"), started(9, 8, version="5")]
    assert [retraining.cause(version, 7, known) for version in ("4", "5", "6")] == [11, 8, 7]
    assert retraining.cause("4", None, []) is None
