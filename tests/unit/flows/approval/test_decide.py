"""Which candidates wait for a person, what an answer makes of them, and when their judgement is no longer true."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ModelRefused, TrackingUnavailable
from rempart.flows.approval import decide as flow
from rempart.flows.approval.ask import ask
from rempart.flows.approval.decide import Decided, outdated
from rempart.flows.approval.directory import Directory
from rempart.flows.approval.rules import Person, Reply
from rempart.flows.retirement.plan import ModelFacts, VersionFacts, plan
from rempart.flows.shared import approvals, authors, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.validate import ValidationResult
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.settings import pipelines
from rempart.settings.approval.rule import Approval
from rempart.web.read_models.model_versions import model_state
from tests.switchovers import in_memory

AT = datetime(2026, 1, 1, tzinfo=UTC)
GATE = {"metric": "mae", "limit": 12.0}
NAME = "hotel_bookings"
PLAIN = pipelines.with_model(pipelines.named(NAME))
APPROVAL = Approval.model_validate({"by": "operator"})
PIPELINE = PLAIN.model_copy(update={"gate": PLAIN.gate.model_copy(update={"approval": APPROVAL})})
GATES = PIPELINE.gate.model_dump(mode="json")
ADA, BOB = Person(3, ("operator",)), Person(5, ("admin",))
PEOPLE = Directory((ADA, BOB), {"ada": 3, "bob": 5})
REASON = "error is even over the seasons"
STEPS = st.lists(
    st.tuples(st.sampled_from(["approval", "promotion", "refusal", "rollback"]), st.sampled_from("123")), max_size=12
)


def records(steps: list[tuple[Any, str]]) -> list[Evidence]:
    named = {True: "replaces", False: "version"}
    return [Evidence(seq, AT, kind, "m", {named[kind == "rollback"]: of}) for seq, (kind, of) in enumerate(steps, 1)]


@given(STEPS, st.randoms())
def test_a_version_waits_if_the_last_word_on_it_is_that_it_passed(steps: list[tuple[Any, str]], order: Any) -> None:
    last = {version: kind for kind, version in steps}
    shuffled = records(steps)
    order.shuffle(shuffled)
    assert approvals.waiting(shuffled).keys() == {version for version, kind in last.items() if kind == "approval"}


def test_a_judgement_holds_for_the_champion_and_the_rules_that_it_was_made_with() -> None:
    judged = {"previous": "2", "gate": GATE}
    assert outdated(judged, "2", GATE) is None
    assert outdated({**judged, "previous": None}, None, GATE) is None
    assert "judged against champion 2, and the champion is now 3" in str(outdated(judged, "3", GATE))
    assert "is now none" in str(outdated(judged, None, GATE))
    assert "rules of the gate" in str(outdated(judged, "2", {**GATE, "limit": 11.0}))


def test_a_version_that_waits_is_told_and_is_not_retired() -> None:
    ledger = MemoryLedger(clock=lambda: AT)
    passed = {"version": "2", "previous": "1", "gate": GATE, "metrics": {"mae": 9.0}, "reasons": ["passed: mae"]}
    ledger.append("promotion", "m", {"version": "1", "reasons": []})
    ledger.append("approval", "m", passed)
    assert approvals.on_record(ledger, "m").keys() == {"2"}
    state = model_state("m", [], [*ledger.find("promotion"), *ledger.find("approval")])
    assert [version.standing for version in state.versions] == ["awaits approval", "champion"]
    facts = ModelFacts("m", AT, AT - AT, 1, (VersionFacts("2", AT), VersionFacts("3", AT)), waiting=("2",))
    assert "it awaits approval" in plan(facts, "2").refusals[0]
    ledger.append("retirement", "m", retirements.body("2", "began", why="named by a person"))
    assert not approvals.on_record(ledger, "m")


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What stands in for MLflow: its alias by model, and the versions whose files were compared."""
    seen = dict[str, str | None]()

    def promote(tracking: None, name: str, version: str, *given: object) -> None:
        seen["alias"] = version

    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    monkeypatch.setattr(flow.registry, "promote", promote)
    monkeypatch.setattr(flow.registry, "refuse", lambda tracking, name, version, reasons: seen.update(refused=version))
    monkeypatch.setattr(flow.registry, "champion", lambda *given: seen.get("alias"))
    monkeypatch.setattr(
        flow.validate, "check_files", lambda tracking, ledger, name, version: seen.update(files=version)
    )
    return seen


class Clock:
    """The time of platform and ledger."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def platform(clock: Clock) -> Platform:
    return replace(in_memory(), ledger_=MemoryLedger(clock=clock), clock=clock)


def waits(platform: Platform, version: str, previous: str | None, *, author: int | None = 3) -> int:
    body = {"version": version, "previous": previous, "gate": GATES, "metrics": {"mae": 9.0}, "reasons": ["passed: 9"]}
    made = authors.Authors(frozenset({author} if author else ()), author is not None, "by a test")
    written = {"written_by": {"dag": "validate_model_hotel_bookings", "run": "r", "task": "validate"}}
    return platform.ledger.append("approval", NAME, {**body, "authors": made.as_json(), **written}).seq


def decide(
    platform: Platform,
    by: Person | None,
    version: str = "2",
    *,
    approves: bool = True,
    reason: str = REASON,
    **more: Any,
) -> Decided:
    given = Reply(approves, by, reason, more.pop("at", platform.clock()))
    return flow.Desk(platform, PIPELINE).decide(version, given, PEOPLE, **{"dry_run": False, **more})


def test_an_approval_is_a_promotion_that_names_who_why_and_what(
    tracked: dict[str, str | None], platform: Platform
) -> None:
    seq = waits(platform, "2", None)
    planned = decide(platform, BOB, dry_run=True)
    assert not planned.promoted and "becomes champion in place of none" in planned.told and planned.champion is None
    assert "alias" not in tracked and tracked["files"] == "2" and not platform.ledger.find("promotion")
    for _ in range(2):  # the second run changes nothing
        assert decide(platform, BOB).promoted
    (record,) = platform.ledger.find("promotion", NAME)
    assert record.body["approved_by"] == "user 5" and record.body["approval"] == seq
    assert record.body["reason"] == REASON and record.body["authors"]["users"] == [3]
    assert "written_by" not in record.body and record.body["reasons"][-1] == f"passed: approved by user 5: {REASON}"
    assert tracked["alias"] == "2" and not approvals.on_record(platform.ledger, NAME)


def test_an_answer_of_the_author_is_evidence_and_the_candidate_waits_on(
    tracked: dict[str, str | None], platform: Platform, clock: Clock
) -> None:
    seq = waits(platform, "2", None)
    for _ in range(2):  # a task that is repeated records the answer once
        refused = decide(platform, ADA, at=AT, judgement=seq)
        assert (refused.became, refused.awaits, refused.judgement, refused.answers) == ("waits", True, seq, 1)
    assert "does not count: user 3 is an author (by a test)" in refused.told and "alias" not in tracked
    (record,) = platform.ledger.find("answer", NAME)
    assert record.body["by"] == "user 3" and record.body["counted"] is None and record.body["answer"] == "approve"
    asked = ask(flow.Desk(platform, PIPELINE), "2")
    assert asked.waits and "user 3 is an author" in asked.body and "**Until:** 2026-01-03 00:00 UTC" in asked.body
    assert "operators and admins, but not the author, user 3." in asked.body
    assert f"`rempart model card {NAME} 2`" in asked.body
    clock.now += timedelta(hours=47)
    assert ask(flow.Desk(platform, PIPELINE), "2").seconds == 3605
    assert decide(platform, BOB, judgement=seq).promoted


def test_the_cockpit_tells_for_whom_a_version_waits_until_when_and_what_was_answered(
    tracked: dict[str, str | None], platform: Platform
) -> None:
    seq = waits(platform, "2", None)
    decide(platform, ADA)
    found = platform.ledger.find("approval"), platform.ledger.find("answer")
    state = model_state(NAME, [], found[0], found[1])
    assert state.versions[0].standing == "awaits approval"
    _, waiting, answered = state.versions[0].decisions[0].reasons
    assert waiting == "waits until 2026-01-03 00:00 UTC for operators and admins, but not the author, user 3"
    assert answered.startswith("user 3 answered 'approve' on 2026-01-01 00:00 UTC, which does not count: user 3 is an")
    decide(platform, BOB, judgement=seq)
    decided = [*found[0], *platform.ledger.find("promotion")]
    newest = model_state(NAME, [], decided, found[1]).versions[0].decisions[0]
    assert newest.kind == "promotion" and newest.reasons[-1] == f"passed: approved by user 5: {REASON}"


def test_two_people_promote_what_an_unknown_author_made(
    tracked: dict[str, str | None], platform: Platform, clock: Clock
) -> None:
    seq = waits(platform, "2", None, author=None)
    first = decide(platform, ADA)
    assert first.awaits and not first.promoted and "counts as the first of two" in first.told
    clock.now += timedelta(minutes=1)
    assert "approved already" in decide(platform, ADA).told
    assert decide(platform, BOB, judgement=seq).promoted
    (record,) = platform.ledger.find("promotion", NAME)
    assert record.body["approved_by"] == "user 3 and user 5"


def test_a_rejection_is_evidence_and_the_version_does_not_wait_again_by_itself(
    tracked: dict[str, str | None], platform: Platform
) -> None:
    waits(platform, "2", None)
    assert decide(platform, ADA, approves=False, dry_run=True).became == "rejected" and "refused" not in tracked
    done = decide(platform, ADA, approves=False, reason="too few bookings of groups")
    assert done.became == "rejected" and done.champion is None and tracked["refused"] == "2"
    (record,) = platform.ledger.find("refusal", NAME)
    assert (record.body["rejected_by"], record.body["reason"]) == ("user 3", "too few bookings of groups")
    assert "was rejected by user 3 on 2026-01-01" in flow.validate._rejected(platform.ledger, NAME, "2")
    waits(platform, "2", None)  # somebody named it
    assert not flow.validate._rejected(platform.ledger, NAME, "2")


def test_without_a_decision_in_time_the_platform_rejects_at_its_next_look(
    tracked: dict[str, str | None], platform: Platform, clock: Clock
) -> None:
    seq = waits(platform, "2", None)
    clock.now = AT + timedelta(hours=48)
    early = decide(platform, None, judgement=seq)  # Airflow's clock was ahead: it asks again
    assert early.awaits and not platform.ledger.find("refusal")
    clock.now = AT + timedelta(hours=90)  # nothing ran at the deadline
    assert ask(flow.Desk(platform, PIPELINE), "2").told.endswith("its time was over, so it was rejected")
    (record,) = platform.ledger.find("refusal", NAME)
    assert record.body["rejected_by"] == "the platform" and tracked["refused"] == "2"
    assert "nobody decided until 2026-01-03 00:00 UTC, 48h after" in record.body["reason"]
    assert decide(platform, BOB, judgement=seq).became == "settled before" and "alias" not in tracked
    with pytest.raises(ModelRefused, match="does not wait"):
        decide(platform, BOB)


def test_an_approval_after_its_time_rejects_and_one_given_in_time_counts_later(
    tracked: dict[str, str | None], platform: Platform, clock: Clock
) -> None:
    waits(platform, "2", None)
    waits(platform, "3", None)
    clock.now = AT + timedelta(hours=49)
    assert decide(platform, BOB).became == "rejected" and "alias" not in tracked
    assert decide(platform, ADA, "3", at=AT + timedelta(hours=47)).became == "rejected"  # no answer that counts
    waits(platform, "4", None)
    clock.now += timedelta(hours=60)
    assert decide(platform, BOB, "4", at=AT + timedelta(hours=96)).promoted  # Airflow was down when he had answered


def test_a_version_is_judged_anew_if_the_champion_is_another_one(
    tracked: dict[str, str | None], platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(platform, "2", "1")
    result = ValidationResult("2", False, ("passed: 9",), {}, {}, None, None, awaits=True)
    seen = dict[str, bool]()

    def judged(*given: object, **more: bool) -> ValidationResult:
        seen.update(more)
        return result

    monkeypatch.setattr(flow.validate, "validate", judged)
    done = decide(platform, BOB)
    assert not done.promoted and "was judged anew" in done.told and "It waits again" in done.told and done.awaits
    assert not platform.ledger.find("promotion") and "alias" not in tracked
    assert seen == {"anew": True}, "an answer names no version to skip the comparison with the champion"


def test_an_answer_to_an_older_judgement_promotes_nothing(
    tracked: dict[str, str | None], platform: Platform, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = waits(platform, "2", "1")

    def breaks_off(*given: object, anew: bool) -> None:
        clock.now += timedelta(seconds=9)
        waits(platform, "2", None)
        raise TrackingUnavailable("MLflow does not answer", "Try again.")

    monkeypatch.setattr(flow.validate, "validate", breaks_off)
    with pytest.raises(TrackingUnavailable):
        decide(platform, BOB, judgement=seen)
    again = decide(platform, BOB, judgement=seen)
    assert not again.promoted and "judged again after you were asked" in again.told and "alias" not in tracked
    assert again.awaits and decide(platform, BOB, judgement=again.judgement).promoted


def test_what_does_not_wait_or_has_other_files_is_not_promoted(
    tracked: dict[str, str | None], platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(platform, "2", None)
    with pytest.raises(ModelRefused, match=r"Version 3 of model hotel_bookings does not wait .* these do: 2"):
        decide(platform, BOB, "3")
    assert not ask(flow.Desk(platform, PIPELINE), "3").waits

    def differs(*given: object) -> None:
        raise ModelRefused("file 'model.onnx' differs", "Train again.")

    monkeypatch.setattr(flow.validate, "check_files", differs)
    with pytest.raises(ModelRefused, match="differs"):
        decide(platform, BOB)
    assert not platform.ledger.find("promotion") and "alias" not in tracked


@pytest.mark.parametrize(
    ("kind", "told"), [("refusal", "was refused meanwhile"), ("approval", "judged anew meanwhile")]
)
def test_what_was_judged_while_its_files_were_compared_is_not_promoted(
    kind: Any, told: str, tracked: dict[str, str | None], platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(platform, "2", None)
    newer = {"version": "2", "previous": None, "gate": GATES, "metrics": {"mae": 99.0}, "reasons": ["by a person"]}
    monkeypatch.setattr(flow.validate, "check_files", lambda *given: platform.ledger.append(kind, NAME, newer))
    with pytest.raises(ModelRefused, match=told):
        decide(platform, BOB)
    assert not platform.ledger.find("promotion") and "alias" not in tracked


def test_a_judgement_is_recorded_once_and_anew_with_other_figures() -> None:
    ledger = in_memory().ledger
    body = {"version": "2", "previous": "1", "gate": GATES, "reasons": ["passed: 9"], "baselines": {}}
    made = [
        flow.validate._await_approval(ledger, NAME, {**body, "metrics": {"mae": mae}}, authors.NOBODY)
        for mae in (9.0, 9.0, 8.0)
    ]
    assert made[0] == made[1] < made[2]
    assert [record.body["metrics"]["mae"] for record in ledger.find("approval", NAME)] == [8.0, 9.0]
