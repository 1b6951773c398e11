"""A restore is judged once: a task that runs again cannot change the verdict on it."""

from __future__ import annotations

import dataclasses

import pytest

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points import points
from rempart.errors import BackupError, DrillFailed
from rempart.flows.drill import drill_sandbox, drill_steps, drill_verdict
from rempart.flows.drill.drill_steps import BegunDrill, StepResult
from rempart.flows.shared.platform import Platform
from tests.restorable import NOW, house

DRILL, POINT = "20990301t120000-abcdef", points.new_id(NOW, "abcdef")
CHECKS = (RestoreCheck("database x is restored", True, "9 rows"),)
BEGUN = BegunDrill(POINT, "routine", "haven", NOW, NOW, True)
RESTORED = StepResult(DRILL, "restore", POINT, 20.0, CHECKS, begun=BEGUN)
PROVED = StepResult(DRILL, "prove", POINT, 10.0, CHECKS)
REMOVED = StepResult(DRILL, "clean up", POINT, 1.0, (RestoreCheck(drill_sandbox.REMOVED, True, ""),))


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(drill_verdict, "beat", lambda platform, kind, body: told.append(kind))
    monkeypatch.setattr(drill_verdict.drill_report, "file", lambda platform, record: None)
    return told


@pytest.fixture
def platform() -> Platform:
    found = house().platform
    for step in (RESTORED, PROVED, REMOVED):
        drill_steps.record(found.ledger, step)
    return found


def test_a_report_that_runs_again_files_the_same_verdict(platform: Platform, beats: list[str]) -> None:
    first = drill_verdict.report(platform, DRILL)
    assert first.ok and drill_verdict.report(platform, DRILL) == first
    assert len(platform.ledger.find("drill", POINT, limit=9)) == 1 and beats == ["drill"]


def test_an_old_green_restore_does_not_follow_a_red_drill(platform: Platform, beats: list[str]) -> None:
    drill_verdict.report(platform, DRILL)
    other = "20990308t120000-abcdef"
    red = dataclasses.replace(PROVED, drill=other, checks=(RestoreCheck("database x is restored", False, "8 rows"),))
    for step in (dataclasses.replace(RESTORED, drill=other), red, dataclasses.replace(REMOVED, drill=other)):
        drill_steps.record(platform.ledger, step)
    with pytest.raises(DrillFailed):
        drill_verdict.report(platform, other)
    drill_verdict.report(platform, DRILL)
    newest = platform.ledger.find("drill", POINT, limit=9)[0]
    assert newest.body["drill"] == other and newest.body["ok"] is False


def test_proofs_that_run_again_without_a_sandbox_say_nothing_against_the_point(
    platform: Platform, beats: list[str]
) -> None:
    drill_verdict.report(platform, DRILL)
    drill_steps.begin(platform.ledger, DRILL, "prove")
    with pytest.raises(BackupError, match="ran again after the verdict"):
        drill_verdict.report(platform, DRILL)
    assert [record.body["ok"] for record in platform.ledger.find("drill", POINT, limit=9)] == [True]


def test_a_restore_that_ran_again_is_judged_anew(platform: Platform, beats: list[str]) -> None:
    drill_verdict.report(platform, DRILL)
    for step in (RESTORED, PROVED, REMOVED):
        drill_steps.begin(platform.ledger, DRILL, step.step)
        drill_steps.record(platform.ledger, step)
    drill_verdict.report(platform, DRILL)
    assert len(platform.ledger.find("drill", POINT, limit=9)) == 2
