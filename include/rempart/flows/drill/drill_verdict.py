"""Step `report` of a drill: write the verdict on its steps as evidence, and file the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from rempart.backup.drill.checks import RestoreCheck, passed, within
from rempart.backup.points import points
from rempart.errors import BackupError, DrillFailed, RempartError
from rempart.flows.drill import drill_report, drill_steps
from rempart.flows.drill.drill_sandbox import REMOVED
from rempart.flows.drill.drill_steps import DrillSteps, Scenario
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Evidence
from rempart.settings.sections import BackupConfig

RPO = "RPO: the possible data loss is within the objective"
RTO = "RTO: restore and checks took no longer than the objective"
PROVED = "the proofs ran to their end"


@dataclass(frozen=True)
class DrillResult:
    """Result of a drill. `proved`: all checks of the restore point passed. `ok`: both objectives are met as well.

    `rto_seconds` is the duration of the restore and its proofs. `rpo_seconds` is the age of the newest complete point
    at the start (in a simulated attack: of the last clean point). It is None if there is no such point or if it failed.
    """

    ok: bool
    point_id: str
    rto_seconds: float
    rpo_seconds: float | None
    checks: tuple[RestoreCheck, ...]
    proved: bool = True
    scenario: Scenario = "routine"


def report(platform: Platform, drill_id: str) -> DrillResult:
    """Write the verdict of a drill as evidence of kind `drill`, and file its report.

    The verdict comes from the evidence of the steps. A restore is judged once: a later call files the report of that
    verdict again. Raises DrillFailed with the failed checks, including a missed objective; BackupError if the drill
    restored nothing, or if its step `prove` ran again after a passed verdict; SiteError, PlacementDenied if the report
    cannot be filed.
    """
    steps = drill_steps.read(platform.ledger, drill_id)
    if record := drill_steps.judged(platform.ledger, drill_id):
        if steps.prove is None and record.body["proved"]:
            raise BackupError(
                f"The step `prove` of drill {drill_id} ran again after the verdict (record {record.seq}): the "
                "verdict stands",
                "Clear the task `restore` of this run with its downstream tasks, or start a new drill.",
            )
        result = _of_record(record)
    else:
        result = verdict(platform.config.backup, steps)
        record = platform.ledger.append("drill", result.point_id, _body(steps, result))
        beat(platform, "drill", {"point": result.point_id, "ok": result.ok, "rto_seconds": result.rto_seconds})
    failed = [check for check in result.checks if check.ok is False]
    try:
        drill_report.file(platform, record)
    except RempartError as error:
        if result.ok:
            raise
        failed.append(RestoreCheck("the report is filed", False, error.what))
    if not result.ok:
        judged, remedy = "failed its checks", "until a drill passes, rely only on an older point."
        if result.proved:
            judged, remedy = "passed its checks, but its drill is red", "the report explains each red check."
        told = drill_steps.failure_lines(failed) or "  an objective could not be measured"
        raise DrillFailed(
            f"Restore point {result.point_id} {judged}:\n{told}", f"Follow docs/runbooks/restore-drill.md; {remedy}"
        )
    return result


def verdict(objectives: BackupConfig, steps: DrillSteps) -> DrillResult:
    """Return the verdict on a drill's steps. The two objectives are added last."""
    begun = steps.begun
    checks, took = list(steps.restore.checks), steps.restore.seconds
    if steps.prove:
        checks += steps.prove.checks
        took = round(took + steps.prove.seconds, 3)
    elif begun.opened:
        checks.append(RestoreCheck(PROVED, False, "the step `prove` of the drill did not end: read its log"))
    if steps.clean_up:
        checks += steps.clean_up.checks
    elif begun.opened:
        checks.append(RestoreCheck(REMOVED, False, "the step `clean up` of the drill did not end: read its log"))
    proved, recoverable = passed(checks), begun.recoverable
    if not proved and recoverable == points.created_at(begun.point):
        recoverable = None  # the newest complete point is this one, and it failed
    lost = round((begun.began - recoverable).total_seconds(), 3) if recoverable else None
    measured = [
        within(RPO, lost, objectives.rpo_objective),
        # a restore that did not end well took no time that could count
        within(RTO, took if proved and begun.opened else None, objectives.rto_objective),
    ]
    every = (*steps.restore.attack, *checks, *measured)
    ok = proved and passed(every) and all(check.ok is True for check in measured)
    return DrillResult(ok, begun.point, took, lost, every, proved, begun.scenario)


def _of_record(record: Evidence) -> DrillResult:
    body = {part.name: record.body[part.name] for part in fields(DrillResult)}
    return DrillResult(**{**body, "checks": tuple(RestoreCheck(**check) for check in body["checks"])})


def _body(steps: DrillSteps, result: DrillResult) -> dict[str, Any]:
    """Return the body of the drill's evidence: the result and the facts of its report."""
    took = {step.step: step.seconds for step in (steps.restore, steps.prove, steps.clean_up) if step}
    told = {"checks": [asdict(check) for check in result.checks], "began": _began(steps)}
    return {**asdict(result), **told, **steps.begun.facts, "drill": steps.restore.drill, "steps": took}


def _began(steps: DrillSteps) -> str:
    return steps.begun.began.isoformat(timespec="seconds")
