"""Record each step of a drill as signed evidence, and read the steps back. No step relies on the return value of
another.

Steps may run in processes on different machines. They share only the id of the drill. Everything else comes from the
ledger and from the record of the sandbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, TypeVar

from rempart.backup.drill.checks import RestoreCheck
from rempart.errors import BackupError, DrillFailed, IntegrityError, RempartError
from rempart.ledger.port import Evidence, Ledger

logger = logging.getLogger(__name__)

T = TypeVar("T")
Scenario = Literal["routine", "cyber-attack"]
StepName = Literal["restore", "prove", "clean up"]


@dataclass
class Tally:
    """Collect checks and log each one."""

    checks: list[RestoreCheck] = field(default_factory=list)

    def add(self, check: RestoreCheck) -> None:
        self.checks.append(check)
        logger.log(logging.WARNING if check.ok is False else logging.INFO, "%s", check.line)

    def attempt(self, what: str, step: Callable[[], T]) -> T | None:
        """Return the value of a step.

        If the step raises an error, add a failed check with the error and return None.
        """
        logger.info("%s ...", what)
        try:
            return step()
        except RempartError as error:
            self.add(RestoreCheck(what, False, error.what))
            return None

    def judge(self, what: str, step: Callable[[], RestoreCheck]) -> None:
        """Add the check that a step returns. If the step raises an error, add a failed check with the error."""
        self.judge_all(what, lambda: [step()])

    def judge_all(self, what: str, step: Callable[[], Iterable[RestoreCheck]]) -> None:
        """Add the checks that a step returns. If the step raises an error, add a failed check with the error."""
        for check in self.attempt(what, lambda: list(step())) or ():
            self.add(check)


@dataclass(frozen=True)
class BegunDrill:
    """The start of a drill's restore, and its result in the sandbox.

    `opened`: the ledger and the chain attest the point, so it was restored. `recoverable` is the time of the newest
    complete point at the start. `facts` are the report's facts, as plain JSON.
    """

    point: str
    scenario: Scenario
    site: str
    began: datetime
    recoverable: datetime | None
    opened: bool = False
    databases: tuple[str, ...] = ()
    artifacts: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """Result of a step: its checks, and those of a simulated attack. The step `restore` sets `begun`."""

    drill: str
    step: StepName
    point: str
    seconds: float
    checks: tuple[RestoreCheck, ...]
    attack: tuple[RestoreCheck, ...] = ()
    begun: BegunDrill | None = None


@dataclass(frozen=True)
class StepSummary:
    """Counts of a step's checks, for people who look at a task. No later step reads them."""

    drill: str
    step: StepName
    point: str
    seconds: float
    passed: int
    failed: int
    not_run: int


@dataclass(frozen=True)
class DrillSteps:
    """The recorded steps of a drill.

    A step is missing if it did not run since the restore, or if its last run did not end.
    """

    begun: BegunDrill
    restore: StepResult
    prove: StepResult | None = None
    clean_up: StepResult | None = None


def begin(ledger: Ledger, drill_id: str, step: StepName, site: str | None = None) -> None:
    """Write evidence that a step begins, so that the result of an earlier run no longer counts for this one.

    `site`: where it makes the sandbox.
    """
    ledger.append("drill-step", drill_id, {"step": step, "begins": True, "site": site})


def begun_at(ledger: Ledger, drill_id: str) -> str | None:
    """Return the site at which the newest restore of a drill began to make the sandbox; None if none went so far."""
    began = (entry.body for entry in ledger.find("drill-step", drill_id) if entry.body.get("begins"))
    return next((str(body["site"]) for body in began if body["site"]), None)


def record(ledger: Ledger, result: StepResult) -> StepResult:
    """Write evidence of kind `drill-step`. Return the result. Raises LedgerError, DatabaseUnavailable."""
    body = asdict(result)
    if begun := body["begun"]:
        for name in ("began", "recoverable"):
            begun[name] = begun[name].isoformat() if begun[name] else None
        begun["databases"] = list(begun["databases"])
    for name in ("checks", "attack"):
        body[name] = list(body[name])
    ledger.append("drill-step", result.drill, body)
    return result


def read(ledger: Ledger, drill_id: str) -> DrillSteps:
    """Return the recorded steps of a drill: its newest restore, and the steps after it.

    Raises BackupError if the ledger has no restore of the drill, or if the restore did not end.
    """
    step_results: dict[str, StepResult | None] = {}
    for entry in ledger.find("drill-step", drill_id):  # newest first
        if entry.body.get("begins"):
            step_results.setdefault(str(entry.body["step"]), None)
            continue
        result = _decoded(entry)
        step_results.setdefault(result.step, result)
        if result.begun and step_results["restore"]:
            return DrillSteps(result.begun, result, step_results.get("prove"), step_results.get("clean up"))
    raise BackupError(
        f"The ledger has no completed restore of drill {drill_id}",
        "Read the log of its step `restore`, then start a new drill.",
    )


def judged(ledger: Ledger, drill_id: str) -> Evidence | None:
    """Return the verdict on the newest restore of a drill, or None without a verdict."""
    steps = ledger.find("drill-step", drill_id)  # newest first, as the verdicts
    restored = next((entry.seq for entry in steps if entry.body["step"] == "restore"), 0)
    verdicts = (record for record in ledger.find("drill") if record.seq > restored)
    return next((record for record in verdicts if record.body.get("drill") == drill_id), None)


def _decoded(entry: Evidence) -> StepResult:
    try:
        body = {part.name: entry.body[part.name] for part in fields(StepResult)}  # the ledger adds the writer
        if begun := body["begun"]:
            times = {name: begun[name] and datetime.fromisoformat(begun[name]) for name in ("began", "recoverable")}
            body["begun"] = BegunDrill(**{**begun, **times, "databases": tuple(begun["databases"])})
        for name in ("checks", "attack"):
            body[name] = tuple(RestoreCheck(**check) for check in body[name])
        return StepResult(**body)
    except (KeyError, TypeError, ValueError) as cause:
        raise IntegrityError(
            f"Record {entry.seq} of the ledger is not a valid step of a drill",
            "Find out which release wrote the record, then start a new drill.",
        ) from cause


def green(result: StepResult) -> StepSummary:
    """Return the summary of a step that has no failed check. Raises DrillFailed with the failed checks."""
    checks = (*result.attack, *result.checks)
    if failed := [check for check in checks if check.ok is False]:
        raise DrillFailed(
            f"Step '{result.step}' of the drill of restore point {result.point} failed:\n{failure_lines(failed)}",
            "Follow docs/runbooks/restore-drill.md; the task `report` has the verdict on the restore point.",
        )
    outcomes = [check.ok for check in checks]
    return StepSummary(
        result.drill, result.step, result.point, result.seconds, outcomes.count(True), 0, outcomes.count(None)
    )


def failure_lines(failed: Sequence[RestoreCheck]) -> str:
    """Return failed checks as lines for people."""
    return "\n".join(f"  {check.what}: {check.detail}" for check in failed)
