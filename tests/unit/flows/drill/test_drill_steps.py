"""Steps of a drill share only the ledger: reading steps back, missing steps, and the content of a summary."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points import points
from rempart.errors import BackupError, DrillFailed, IntegrityError
from rempart.flows.drill import drill_sandbox, drill_steps
from rempart.flows.drill.drill_steps import BegunDrill, DrillSteps, StepResult
from rempart.flows.drill.drill_verdict import PROVED, RPO, RTO, verdict
from rempart.ledger.attributed import Writer
from rempart.settings import config
from tests.restorable import NOW, house

DRILL, POINT = "20990301t120000-abcdef", points.new_id(NOW, "abcdef")
GREEN, RED = RestoreCheck("database x is restored", True, "9 rows"), RestoreCheck("database y is restored", False, "8")
OBJECTIVES = config.load().backup
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9)
CHECKS = st.lists(st.builds(RestoreCheck, TEXTS, st.sampled_from([True, False, None]), TEXTS), max_size=3)


def begun(**other: object) -> BegunDrill:
    return dataclasses.replace(BegunDrill(POINT, "routine", "haven", NOW, NOW - timedelta(minutes=5), True), **other)


def restored(*checks: RestoreCheck, **other: object) -> StepResult:
    return StepResult(DRILL, "restore", POINT, 20.0, checks or (GREEN,), begun=begun(**other))


def proved(*checks: RestoreCheck) -> StepResult:
    return StepResult(DRILL, "prove", POINT, 10.0, checks or (GREEN,))


def removed() -> StepResult:
    return StepResult(DRILL, "clean up", POINT, 1.0, (RestoreCheck(drill_sandbox.REMOVED, True, ""),))


@given(CHECKS, CHECKS, st.lists(st.sampled_from(["mlflow", "ledger"]), unique=True))
def test_a_step_is_read_as_it_was_recorded(
    checks: list[RestoreCheck], attack: list[RestoreCheck], there: list[str]
) -> None:
    platform = dataclasses.replace(house().platform, writer=Writer("restore_drill", "run", "restore"))
    wanted = dataclasses.replace(restored(databases=tuple(there)), checks=tuple(checks), attack=tuple(attack))
    drill_steps.record(platform.ledger, wanted)
    assert drill_steps.read(platform.ledger, DRILL) == DrillSteps(wanted.begun, wanted)  # type: ignore[arg-type] # it has one


def test_only_what_followed_the_newest_restore_counts() -> None:
    platform = house().platform
    with pytest.raises(BackupError, match="no completed restore of drill"):
        drill_steps.read(platform.ledger, DRILL)
    for step in (restored(), proved(RED), proved(), removed()):
        drill_steps.record(platform.ledger, step)
    found = drill_steps.read(platform.ledger, DRILL)
    assert found.prove == proved() and found.clean_up == removed()
    drill_steps.record(platform.ledger, restored(RED))
    again = drill_steps.read(platform.ledger, DRILL)
    assert again.restore.checks == (RED,) and again.prove is None and again.clean_up is None
    platform.ledger.append("drill-step", DRILL, {"step": "prove", "checks": "all green"})
    with pytest.raises(IntegrityError, match="is not a valid step of a drill"):
        drill_steps.read(platform.ledger, DRILL)


def test_a_step_that_began_again_and_did_not_end_has_no_result() -> None:
    platform = house().platform
    for step in (restored(), proved(), removed()):
        drill_steps.begin(platform.ledger, DRILL, step.step)
        drill_steps.record(platform.ledger, step)
    assert drill_steps.read(platform.ledger, DRILL).prove == proved()
    drill_steps.begin(platform.ledger, DRILL, "prove")
    assert drill_steps.read(platform.ledger, DRILL).prove is None
    drill_steps.begin(platform.ledger, DRILL, "restore")
    with pytest.raises(BackupError, match="no completed restore of drill"):
        drill_steps.read(platform.ledger, DRILL)


def test_a_summary_of_a_step_holds_counts_and_a_red_step_raises() -> None:
    passing = StepResult(DRILL, "prove", POINT, 1.0, (GREEN, RestoreCheck("z", None, "not run")), (GREEN,))
    assert dataclasses.astuple(drill_steps.green(passing)) == (DRILL, "prove", POINT, 1.0, 2, 0, 1)
    with pytest.raises(DrillFailed, match=r"Step 'prove' .* failed:\n  database y is restored: 8"):
        drill_steps.green(dataclasses.replace(passing, attack=(RED,)))


def test_the_verdict_is_that_of_all_steps() -> None:
    whole = DrillSteps(begun(), restored(), proved(), removed())
    good = verdict(OBJECTIVES, whole)
    assert good.ok and good.proved and good.rto_seconds == 30.0 and good.rpo_seconds == 300.0
    assert [check.what for check in good.checks][-2:] == [RPO, RTO]
    for missing, what in (("prove", PROVED), ("clean_up", drill_sandbox.REMOVED)):
        bad = verdict(OBJECTIVES, dataclasses.replace(whole, **{missing: None}))
        assert not bad.ok and [check.what for check in bad.checks if check.ok is False] == [what]
        assert bad.checks[-1] == dataclasses.replace(bad.checks[-1], what=RTO, ok=None)
    red = verdict(OBJECTIVES, dataclasses.replace(whole, prove=proved(RED)))
    assert not red.ok and not red.proved


def test_what_was_not_attested_is_not_restored_and_its_age_counts_for_nothing() -> None:
    refused = restored(RED, opened=False, recoverable=points.created_at(POINT))
    assert refused.begun
    bad = verdict(OBJECTIVES, DrillSteps(refused.begun, refused))
    assert {check.what: check.ok for check in bad.checks} == {RED.what: False, RPO: None, RTO: None}
    assert bad.rpo_seconds is None and not bad.proved


def test_an_attack_that_was_not_seen_leaves_the_drill_red_and_the_point_proved() -> None:
    attacked = dataclasses.replace(restored(scenario="cyber-attack"), attack=(RED,))
    result = verdict(OBJECTIVES, DrillSteps(begun(scenario="cyber-attack"), attacked, proved(), removed()))
    assert result.proved and not result.ok and result.checks[0] == RED
