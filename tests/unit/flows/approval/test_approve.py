"""Which candidates wait for a person, and when their judgement is no longer true."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ModelRefused, TrackingUnavailable
from rempart.flows.approval import approve as flow
from rempart.flows.approval.approve import outdated
from rempart.flows.retirement.plan import ModelFacts, VersionFacts, plan
from rempart.flows.shared import approvals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.validate import ValidationResult
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.settings import pipelines
from rempart.web.read_models.model_versions import model_state
from tests.switchovers import in_memory

AT = datetime(2026, 1, 1, tzinfo=UTC)
GATE = {"metric": "mae", "limit": 12.0, "approval": "person"}
NAME = "hotel_bookings"
PIPELINE = pipelines.with_model(pipelines.named(NAME))
GATES = PIPELINE.gate.model_dump(mode="json")
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
    monkeypatch.setattr(flow.registry, "champion", lambda *given: seen.get("alias"))
    monkeypatch.setattr(
        flow.validate, "check_files", lambda tracking, ledger, name, version: seen.update(files=version)
    )
    return seen


def waits(platform: Platform, version: str, previous: str | None) -> int:
    body = {"version": version, "previous": previous, "gate": GATES, "metrics": {"mae": 9.0}, "reasons": ["passed: 9"]}
    written = {"written_by": {"dag": "validate_model_hotel_bookings", "run": "r", "task": "validate"}}
    return platform.ledger.append("approval", NAME, body | written).seq


def test_an_approval_is_a_promotion_that_names_who_and_what(tracked: dict[str, str | None]) -> None:
    platform = in_memory()
    seq = waits(platform, "2", None)
    planned = flow.approve(platform, PIPELINE, "2", by="user 3")
    assert not planned.promoted and "becomes champion in place of none" in planned.told
    assert "alias" not in tracked and tracked["files"] == "2" and not platform.ledger.find("promotion")
    for _ in range(2):  # the second run changes nothing
        assert flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False).promoted
    (record,) = platform.ledger.find("promotion", NAME)
    assert record.body["approved_by"] == "user 3" and record.body["approval"] == seq
    assert "written_by" not in record.body and record.body["reasons"][-1] == "passed: approved by user 3"
    assert tracked["alias"] == "2" and not approvals.on_record(platform.ledger, NAME)


def test_a_version_is_judged_anew_if_the_champion_is_another_one(
    tracked: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = in_memory()
    waits(platform, "2", "1")
    result = ValidationResult("2", False, ("passed: 9",), {}, {}, None, None, awaits=True)
    monkeypatch.setattr(flow.validate, "validate", lambda *given: result)
    done = flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False)
    assert not done.promoted and "was judged anew" in done.told and "It waits again" in done.told
    assert not platform.ledger.find("promotion") and "alias" not in tracked


def test_a_second_try_does_not_promote_what_the_first_one_judged_anew(
    tracked: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    date = [AT]
    platform = replace(in_memory(), ledger_=MemoryLedger(clock=lambda: date[0]))
    waits(platform, "2", "1")

    def breaks_off(*given: object) -> None:
        date[0] = AT + timedelta(seconds=9)
        waits(platform, "2", None)
        raise TrackingUnavailable("MLflow does not answer", "Try again.")

    monkeypatch.setattr(flow.validate, "validate", breaks_off)
    with pytest.raises(TrackingUnavailable):
        flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False, asked=AT)
    again = flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False, asked=AT)
    assert not again.promoted and "was judged after you asked" in again.told and "alias" not in tracked
    seen = AT + timedelta(seconds=60)
    assert flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False, asked=seen).promoted


def test_what_does_not_wait_or_has_other_files_is_not_promoted(
    tracked: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = in_memory()
    waits(platform, "2", None)
    with pytest.raises(ModelRefused, match=r"Version 3 of model hotel_bookings does not wait .* these do: 2"):
        flow.approve(platform, PIPELINE, "3", by="user 3", dry_run=False)

    def differs(*given: object) -> None:
        raise ModelRefused("file 'model.onnx' differs", "Train again.")

    monkeypatch.setattr(flow.validate, "check_files", differs)
    with pytest.raises(ModelRefused, match="differs"):
        flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False)
    assert not platform.ledger.find("promotion") and "alias" not in tracked


@pytest.mark.parametrize(
    ("kind", "told"), [("refusal", "was refused meanwhile"), ("approval", "judged anew meanwhile")]
)
def test_what_was_judged_while_its_files_were_compared_is_not_promoted(
    kind: Any, told: str, tracked: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = in_memory()
    waits(platform, "2", None)
    newer = {"version": "2", "previous": None, "gate": GATES, "metrics": {"mae": 99.0}, "reasons": ["by a person"]}
    monkeypatch.setattr(flow.validate, "check_files", lambda *given: platform.ledger.append(kind, NAME, newer))
    with pytest.raises(ModelRefused, match=told):
        flow.approve(platform, PIPELINE, "2", by="user 3", dry_run=False)
    assert not platform.ledger.find("promotion") and "alias" not in tracked


def test_a_judgement_is_recorded_once_and_anew_with_other_figures() -> None:
    ledger = in_memory().ledger
    body = {"version": "2", "previous": "1", "gate": GATES, "reasons": ["passed: 9"], "baselines": {}}
    for mae in (9.0, 9.0, 8.0):
        told = flow.validate._await_approval(ledger, NAME, {**body, "metrics": {"mae": mae}})
        assert told[0] == "passed: 9" and "rempart model approve hotel_bookings 2" in told[1]
    assert [record.body["metrics"]["mae"] for record in ledger.find("approval", NAME)] == [8.0, 9.0]
