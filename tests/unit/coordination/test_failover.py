"""The state machine of a switchover: for every order of answers and outcomes, no switch loses anything unreported."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.coordination.active import Active, backup_site, is_open, switchover_to, was_active
from rempart.coordination.failover import (
    BEFORE,
    Kind,
    Step,
    StepRefused,
    Switchover,
    SwitchoverFacts,
    next_step,
    outcome_of_drain,
)
from rempart.errors import ConfigError, FailoverError
from rempart.settings import config

FACTS = st.builds(SwitchoverFacts, st.booleans(), st.booleans(), st.booleans())


def drained(facts: SwitchoverFacts, *, arrived: bool, accepted: bool) -> dict:
    return outcome_of_drain(
        answered=facts.source_answers,
        complete=facts.source_answers and arrived,
        accepted=accepted,
        lag_seconds=None,
        known_at=None,
    )


@given(
    kind=st.sampled_from(("failover", "failback")),
    accepted_first=st.booleans(),
    continuity=st.lists(st.tuples(FACTS, st.booleans()), max_size=30),
)
def test_no_path_leads_from_a_drain_that_is_not_verified_to_a_switch_without_the_operators_word(
    kind: Kind, accepted_first: bool, continuity: list[tuple[SwitchoverFacts, bool]]
) -> None:
    switchover, taken = Switchover("j", kind, "primary", "haven", accepted_first), []
    message = accepted_first
    for facts, good in continuity:
        message = message or facts.accept_loss
        switchover = Switchover(**{**switchover.__dict__, "accept_loss": message})
        step = next_step(switchover, facts)
        if step is None:
            assert switchover.over
            break
        if isinstance(step, StepRefused):
            assert not (facts.target_answers and facts.source_answers), "with both sites there the way is open"
            continue
        assert facts.target_answers, "nothing moves to a site that does not answer"
        taken.append(step)
        if step == "switch":
            drain = switchover.steps["drain"]
            assert switchover.did("fence") and switchover.did("verify")
            assert drain["complete"] or (switchover.accept_loss and drain["unknown"])
        if step in BEFORE:
            assert kind == "failback" and "fence" not in taken, "pipelines still go on"
        outcome = drained(facts, arrived=good, accepted=message) if step == "drain" else {"ok": good}
        switchover = switchover.with_step(step, outcome)
    assert list(dict.fromkeys(taken)) == [step for step in switchover.plan if step in taken], "in order"


@given(done=st.lists(st.booleans(), min_size=7, max_size=7), kind=st.sampled_from(("failover", "failback")))
def test_with_both_sites_there_every_switchover_ends_and_keeps_what_was_done(done: list[bool], kind: Kind) -> None:
    switchover = Switchover("j", kind, "primary", "haven")
    for step, was in zip(switchover.plan, done, strict=False):
        if not was:
            break
        switchover = switchover.with_step(step, {"ok": True, "complete": True})
    before = set(switchover.steps)
    taken: list[Step] = []
    while (step := next_step(switchover, SwitchoverFacts(True, True))) is not None:
        assert not isinstance(step, StepRefused) and step not in before
        taken.append(step)
        switchover = switchover.with_step(step, {"ok": True, "complete": True})
    assert switchover.over and [*(s for s in switchover.plan if s in before), *taken] == list(switchover.plan)


def test_a_source_that_does_not_answer_needs_the_operators_word_before_anything_is_fenced() -> None:
    gone = next_step(Switchover("j", "failover", "primary", "haven"), SwitchoverFacts(False, True))
    assert isinstance(gone, StepRefused) and "--accept-loss" in gone.remedy
    assert (
        next_step(Switchover("j", "failover", "primary", "haven"), SwitchoverFacts(False, True, accept_loss=True))
        == "fence"
    )
    back = next_step(Switchover("j", "failback", "haven", "primary"), SwitchoverFacts(False, True, accept_loss=True))
    assert isinstance(back, StepRefused), "a failback first brings home what the active site has"


def test_a_source_that_answers_is_drained_whatever_was_accepted() -> None:
    fenced = Switchover("j", "failover", "primary", "haven", True).with_step("fence", {"ok": True})
    assert next_step(fenced, SwitchoverFacts(True, True, True)) == "drain"


def test_a_verification_that_failed_leads_back_to_the_drain() -> None:
    switchover = Switchover("j", "failover", "primary", "haven")
    for step in ("fence", "drain"):
        switchover = switchover.with_step(step, {"ok": True, "complete": True})
    switchover = switchover.with_step("verify", {"ok": False})
    assert next_step(switchover, SwitchoverFacts(True, True)) == "drain"


def test_what_an_accepted_loss_leaves_unknown_is_said() -> None:
    at = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
    message = outcome_of_drain(answered=False, complete=False, accepted=True, lag_seconds=12.4, known_at=at)
    assert message["ok"] and "2026-03-01 02:30:00 UTC with a lag of 12 s" in message["unknown"]
    message = outcome_of_drain(answered=False, complete=False, accepted=True, lag_seconds=None, known_at=None)
    assert "no replication is recorded" in message["unknown"]
    assert (
        outcome_of_drain(answered=True, complete=True, accepted=True, lag_seconds=0.0, known_at=at)["unknown"] is None
    )


def test_a_switchover_survives_json() -> None:
    switchover = Switchover("j", "failback", "haven", "primary", True).with_step(
        "diff", {"ok": True, "conflicts": ["a"]}
    )
    assert Switchover.from_json(switchover.as_json()) == switchover


def test_one_switchover_at_a_time_and_a_new_one_once_the_switch_is_done() -> None:
    here = Active(4, "primary")
    assert switchover_to(here, "primary", "failover", "n") is None
    going = Switchover("j", "failover", "primary", "haven").with_step("fence", {"ok": True})
    fenced = Active(5, "primary", "fenced", going)
    assert switchover_to(fenced, "haven", "failover", "n", accept_loss=True) == Switchover(
        "j", "failover", "primary", "haven", True, False, going.steps
    )
    with pytest.raises(FailoverError, match="a switchover from 'primary' to 'haven' is running"):
        switchover_to(fenced, "primary", "failback", "n")
    switched = Active(6, "haven", "active", going.with_step("switch", {"ok": True}))
    new = switchover_to(switched, "primary", "failover", "n")
    assert new is not None and (new.id, new.source) == ("n", "haven")
    finished = switchover_to(switched, "haven", "failover", "n")
    assert finished is not None and finished.id == "j", "what is left is to resume"


def test_pipelines_work_at_the_active_site_and_wait_at_a_fenced_one() -> None:
    assert is_open(Active(0, "primary")).site == "primary"
    with pytest.raises(FailoverError, match="moved to 'haven'") as told:
        is_open(Active(1, "primary", "fenced", Switchover("j", "failover", "primary", "haven")))
    assert told.value.transient


def test_restore_points_go_to_the_other_site_of_the_pair() -> None:
    loaded = config.load()
    assert backup_site(loaded, "primary") == "haven"
    assert backup_site(loaded, "haven") == "primary"
    alone = loaded.model_copy(update={"replication": []})
    with pytest.raises(ConfigError, match=r"backup\.site: 'haven' is the active site"):
        backup_site(alone, "haven")


def test_who_was_active_when_is_read_from_the_generations() -> None:
    def at(hour: int) -> datetime:
        return datetime(2026, 3, 1, hour, tzinfo=UTC)

    history = [Active(2, "haven", "active", None, at(5)), Active(1, "primary", "fenced", None, at(4))]
    told = [(hour, was_active(history, "primary", "haven", at(hour))) for hour in (1, 4, 5, 9)]
    assert told == [(1, False), (4, False), (5, True), (9, True)]
    assert was_active(history, "primary", "primary", at(1)) and was_active([], "primary", "primary", at(1))
    assert was_active(history, "haven", "primary", at(1)), "whatever the configuration says by now"
