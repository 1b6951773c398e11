"""Which candidates wait for a person, and when their judgement is no longer true."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.approval.approve import outdated
from rempart.flows.retirement.plan import ModelFacts, VersionFacts, plan
from rempart.flows.shared import approvals, retirements
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.web.read_models.model_versions import model_state

AT = datetime(2026, 1, 1, tzinfo=UTC)
GATE = {"metric": "mae", "limit": 12.0, "approval": "person"}
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
