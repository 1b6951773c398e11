"""The section `retrain` of a pipeline file: what starts a training besides people and times, and how often."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from rempart.settings.evaluation.splits import Holdout
from rempart.settings.gates.gate import Gate
from rempart.settings.schema import Duration, Strict


class Budget(Strict):
    """The most trainings that drift may start within a number of days."""

    trainings: int = Field(default=4, ge=1, description="Trainings that drift may start.")
    days: int = Field(default=30, ge=1, le=3650, description="Days back from now in which they are counted.")


class Retraining(Strict):
    """What starts the training of a next candidate. Trainings by hand, by REST and at `schedules.train` always run."""

    on_features: bool = Field(
        default=True,
        description=(
            "Train whenever the feature store was loaded. With `false` only as long as the model has no champion."
        ),
    )
    on_drift: bool = Field(default=False, description="Train when a verdict on the champion is red.")
    cool_down: Duration = Field(
        default="7d",
        validate_default=True,
        description="Shortest time between two trainings that drift starts. A red verdict in between starts none.",
    )
    at_most: Budget = Field(
        default=Budget(),
        description="Budget of trainings that drift starts. Beyond it, only people and times start one.",
    )

    @property
    def decides(self) -> bool:
        """Return whether a run that an asset started may be told not to train."""
        return self.on_drift or not self.on_features


def faults(rules: Retraining, holdout: Holdout) -> Iterator[str]:
    """Yield what keeps a training that drift started from helping."""
    if rules.on_drift and holdout.start is not None:
        yield (
            f"retrain.on_drift: the hold-out starts on the fixed day {holdout.start}, so no candidate would ever learn "
            "from later rows, in which the drift is"
        )


def warnings(rules: Retraining, gate: Gate) -> Iterator[str]:
    """Yield what is allowed, and may surprise."""
    if not rules.on_drift:
        return
    if rules.on_features:
        yield (
            "retrain.on_drift: each load of the features is trained on already (`on_features: true`), so a red verdict "
            "mostly finds nothing new to learn from; set `on_features: false` to train only when drift asks for it"
        )
    if gate.baseline_margin == 0:
        yield (
            "gate.limit: it is absolute, and no rule is relative (`baseline_margin: 0`); when the world moves, every "
            "candidate may break it, or none; set `baseline_margin`"
        )
