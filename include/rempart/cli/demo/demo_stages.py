"""Shows the stages of the demo: a live table at a terminal, plain lines elsewhere; and the end of it.

The stages follow each other without a gap, so that their seconds add up to the total.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.cli.progress import Progress, Repeated, Step
from rempart.counts import size
from rempart.deployment.setup.terminal import duration
from rempart.orchestration import run_notes

STAGES: dict[str, float | None] = {
    "set-up": None,
    "start": 60.0,
    "deliver": 2.0,
    "ingest": 40.0,
    "features": 25.0,
    "train": 60.0,
    "validate": 12.0,
    "backup": 22.0,
    "replicate": 12.0,
    "drill": 30.0,
    "bad model": 35.0,
    "gate": 12.0,
    "score": 10.0,
    "serve": 10.0,
    "watch": 10.0,
}
"""The stages in their order, with the seconds of each on two cores. The last run of this stack knows better. Set-up
takes seconds or minutes, and is over when the first stage is shown.
"""


def steps(last: Mapping[str, Any], stages: Mapping[str, float | None] = STAGES) -> tuple[Step, ...]:
    """Return the rows of the table. `last` is the report of the last demo; empty without one."""
    known = last.get("seconds", {}).get("stages", {})
    return tuple(Step(name, usual=known.get(name, usual) if usual else None) for name, usual in stages.items())


class Stages:
    """The stages of one demo. `plain` writes lines; `progress` is the live view, if there is one."""

    def __init__(self, plain: Repeated, progress: Progress | None = None, before: float = 0.0) -> None:
        self._plain = plain
        self._progress = progress if progress and progress.live else None
        self._zero = time.monotonic() - before
        self._at = self._zero
        self._now = self._event = ""
        self.seconds: dict[str, float] = {}

    def begin(self, stage: str, line: str = "") -> None:
        """Begin a stage at the moment in which the one before ended."""
        self._now, self._event = stage, line
        if self._progress:
            self._progress.move(stage, "running", line)
        elif line:
            self._plain.tell(self._line(line), self._still)

    def event(self, line: str) -> None:
        """Show what the stage does now: at a terminal at once, else with the next line that is written again."""
        self._event = line
        if self._progress and self._now:
            self._progress.move(self._now, "running", line)

    def result(self, text: str) -> None:
        """End the stage with its result in words."""
        now = time.monotonic()
        seconds = round(self.seconds.get(self._now, 0.0) + now - self._at, 1)
        self.seconds[self._now], self._at = seconds, now
        if self._progress:
            self._progress.move(self._now, "done", text)
        else:
            self._plain.tell(self._line(f"done in {seconds:.1f} s: {text}"))

    def ended(self, stage: str, seconds: float, text: str) -> None:
        """Show a stage that has ended before the demo could show it."""
        self.begin(stage)
        self._at = time.monotonic() - seconds
        self.result(text)
        if self._progress:
            self._progress.took(stage, seconds)

    def checked(self, ok: bool, fact: str) -> None:
        """Show a check. At a terminal the table already tells the good ones."""
        if not (self._progress and ok):
            self._plain.tell(f"          {'✓' if ok else '✗'} {fact}")

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return round(sum(self.seconds.values()), 1)

    def _line(self, text: str) -> str:
        return f"{time.monotonic() - self._zero:6.1f} s  {self._now:<10} {text}"

    def _still(self, seconds: float) -> str:
        return self._line(f"{self._event}, {duration(seconds)} so far")


@dataclass(frozen=True)
class NextSteps:
    """What somebody needs to go on after the demo."""

    airflow: str
    airflow_user: str
    mlflow: str
    mlflow_user: str
    report: str

    def lines(self) -> list[str]:
        """Return what to open first, how to log in, what to try, and how to stop."""
        return [
            "",
            f"  Open first  Sovereignty in Airflow: {self.airflow}/plugin/sovereignty",
            f"  Log in      user {self.airflow_user}; password: .venv/bin/rempart stack password airflow (or mlflow)",
            f"  Models      MLflow: {self.mlflow}, user {self.mlflow_user}",
            "  Try next    .venv/bin/rempart pipeline new your.csv   makes a pipeline of a file of yours",
            "  Stop        .venv/bin/rempart down   (the data stays; .venv/bin/rempart up starts it again)",
            f"  Report      {self.report}",
            "",
        ]


def summary(report: dict[str, Any]) -> list[str]:
    """Return the table at the end: the results that no stage names, and the seconds."""
    model, drill, seconds = report["model"], report["drill"], report["seconds"]
    replica = report["replica"]
    lines = [
        ("champion", f"version {model['version']}, mae {model['mae']:.2f} (baseline {model['baseline_mae']:.2f})"),
        ("refused", run_notes.folded(report["refused"]["reasons"])),
        ("replica", f"{size(replica['bytes'])}, all verified, lag {replica['lag_seconds']:.0f} s"),
        ("restore", f"{report['restore_point']['id']}, proved in {drill['rto_seconds']:.0f} s"),
        ("seconds", in_words(seconds)),
    ]
    width = max(len(name) for name, _ in lines)
    wrapped = [(name, textwrap.wrap(text, 78) or [""]) for name, text in lines]
    return ["", *(f"  {n if i == 0 else '':<{width}}  {row}" for n, rows in wrapped for i, row in enumerate(rows))]


def in_words(seconds: Mapping[str, Any]) -> str:
    """Return the total as the sum of its parts: set-up, start, and all stages after them."""
    stages = seconds["stages"]
    chain = round(sum(value for name, value in stages.items() if name not in ("set-up", "start")), 1)
    return f"{seconds['total']} = set-up {stages['set-up']} + start {stages['start']} + stages {chain}"
