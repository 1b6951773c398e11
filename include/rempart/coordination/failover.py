"""Plan the move from one active site to another as a pure state machine: finished steps, facts, next step.

failback only, while pipelines continue:  diff -> reverse     then both:                                fence -> drain
-> verify -> switch -> resume

This module has no effects: `flows.failover.fail_over` executes a step, stores its outcome in the switchover, and asks
for the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

Step = Literal["diff", "reverse", "fence", "drain", "verify", "switch", "resume"]
STEPS: tuple[Step, ...] = get_args(Step)
BEFORE: tuple[Step, ...] = ("diff", "reverse")
"""Steps of a failback that change nothing for the pipelines."""
Kind = Literal["failover", "failback"]


@dataclass(frozen=True)
class Switchover:
    """One failover or failback, with the outcome of each taken step. `accept_loss` is the operator's decision.

    An outcome has `ok`, and facts for people. A step without `ok` is taken again. `abandoned`: the operator stayed at
    the source.
    """

    id: str
    kind: Kind
    source: str
    target: str
    accept_loss: bool = False
    abandoned: bool = False
    steps: Mapping[Step, Mapping[str, Any]] = field(default_factory=dict)

    def did(self, step: Step) -> bool:
        return bool(self.steps.get(step, {}).get("ok"))

    @property
    def over(self) -> bool:
        return self.abandoned or self.did("resume")

    @property
    def plan(self) -> tuple[Step, ...]:
        """Return its steps, in order."""
        return STEPS if self.kind == "failback" else tuple(step for step in STEPS if step not in BEFORE)

    def with_step(self, step: Step, outcome: Mapping[str, Any]) -> Switchover:
        """Return the switchover with a step's outcome. After a failed verification the next step is the drain again."""
        steps = {**self.steps, step: outcome}
        if step == "verify" and not outcome["ok"]:
            steps.pop("drain", None)
        return replace(self, steps=steps)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "source": self.source,
            "target": self.target,
            "accept_loss": self.accept_loss,
            "abandoned": self.abandoned,
            "steps": {step: dict(outcome) for step, outcome in self.steps.items()},
        }

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> Switchover:
        return Switchover(**body)


@dataclass(frozen=True)
class SwitchoverFacts:
    """Facts before a step: whether each site answers now, and whether the operator accepts a loss."""

    source_answers: bool
    target_answers: bool
    accept_loss: bool = False


@dataclass(frozen=True)
class StepRefused:
    """A refused step: why, and the remedy."""

    why: str
    remedy: str


def next_step(switchover: Switchover, facts: SwitchoverFacts) -> Step | StepRefused | None:
    """Return the next step, or the reason why no step may be taken, or None if the switchover is finished.

    A switch needs a complete drain and a successful verification of it. If the source does not deliver everything, the
    switch needs the operator's acceptance, and the outcome records the loss.
    """
    if switchover.over:
        return None
    if not facts.target_answers:
        done = "The switch is done; " if switchover.did("switch") else ""
        return StepRefused(
            f"{done}site '{switchover.target}', the target, does not answer",
            "Wait until the target answers, then run again"
            + (
                "."
                if switchover.did("switch")
                else ", or stay at the source (`rempart site failover --abandon --yes`)."
            ),
        )
    if switchover.did("switch"):
        return "resume"
    accepted = switchover.accept_loss or facts.accept_loss
    for step in BEFORE:
        if switchover.kind == "failback" and not switchover.did("fence") and not switchover.did(step):
            return step if facts.source_answers else _gone(switchover)
    if not switchover.did("fence"):
        return "fence" if facts.source_answers or accepted else _gone(switchover)
    if not switchover.did("drain"):
        return "drain" if facts.source_answers or accepted else _gone(switchover)
    if not switchover.did("verify"):
        return "verify"
    return "switch"


def _gone(switchover: Switchover) -> StepRefused:
    return StepRefused(
        f"Site '{switchover.source}', the source, does not answer: objects that '{switchover.target}' lacks would "
        "be lost",
        f"Wait for '{switchover.source}' and run again. If it does not return in time, run `rempart site failover --to "
        f"{switchover.target} --accept-loss`, which lists the known loss.",
    )


def outcome_of_drain(
    *,
    answered: bool,
    complete: bool,
    accepted: bool,
    lag_seconds: float | None,
    known_at: datetime | None,
    failed: tuple[str, ...] = (),
    failures: int = 0,
    **told: Any,
) -> dict[str, Any]:
    """Return the outcome of a drain. Pure.

    `known_at` is when the lag was measured; later changes are unknown, and None means no recorded replication. `failed`
    names what did not arrive.
    """
    return {
        "ok": complete or accepted,
        "complete": complete,
        "source_answered": answered,
        "lag_seconds": lag_seconds,
        "lag_known_at": known_at.isoformat() if known_at else None,
        "not_arrived": list(failed[:100]),
        "not_arrived_count": failures,
        "unknown": None if complete else _unknown(answered, lag_seconds, known_at),
        **told,
    }


def _unknown(answered: bool, lag_seconds: float | None, known_at: datetime | None) -> str:
    if answered:
        return "the source answered, but did not return the objects that are missing at the target"
    if known_at is None or lag_seconds is None:
        return "no replication is recorded, so the content of the source is unknown"
    return (
        f"the last recorded replication ended at {known_at:%Y-%m-%d %H:%M:%S} UTC with a lag of {lag_seconds:.0f} "
        "s; later changes at the source are unknown"
    )
