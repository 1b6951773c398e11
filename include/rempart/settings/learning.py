"""What a pipeline learns: feature views, the prediction, the hold-out, the trainer and the gate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rempart.canonical_json import LARGEST
from rempart.settings.columns import NUMERIC, CalendarPart, Column
from rempart.settings.schema import Duration, Strict

Metric = Literal["mae", "rmse", "accuracy", "log_loss"]
METRICS: dict[str, tuple[Metric, ...]] = {"regression": ("mae", "rmse"), "classification": ("log_loss", "accuracy")}
"""Metrics of each task. All are computed; the gate names the metric that decides."""


class RowView(Strict):
    """Columns of the row itself, as known at a moment."""

    kind: Literal["row"]
    at: str
    columns: list[str] = Field(default_factory=list)
    calendar: dict[str, list[CalendarPart]] = Field(
        default_factory=dict,
        description="Calendar parts of date and timestamp columns; of a timestamp in the source's time zone.",
    )

    def features(self) -> list[str]:
        return [*self.columns, *(f"{column}_{part}" for column, parts in self.calendar.items() for part in parts)]


class TrailingView(Strict):
    """Mean and count over other rows of the same group, in the days before a moment, that day excluded."""

    kind: Literal["trailing"]
    at: str
    by: list[str] = Field(min_length=1)
    days: list[int] = Field(min_length=1)
    mean: list[str] = Field(min_length=1, description="Columns whose trailing mean is a feature.")

    def features(self) -> list[str]:
        return [name for days in self.days for name in (*(f"{c}_mean_{days}d" for c in self.mean), f"rows_{days}d")]


View = Annotated[RowView | TrailingView, Field(discriminator="kind")]


class LabelSource(Strict):
    """A pipeline whose rows are the labels: outcomes that become known after the rows they belong to."""

    pipeline: str = Field(description="Pipeline that delivers the labels. It has `target` and `known_at` as columns.")
    key: list[str] = Field(
        default_factory=list,
        description="Its columns that stand for this pipeline's `key`, in that order. Default: the same names.",
    )
    known_at: str = Field(
        description="Its date or timestamp column with the time from which a label is known; of a date, from its end."
    )


class Prediction(Strict):
    """The prediction and its moment: it uses only what is known at that moment."""

    target: str = Field(description="Column to predict: of the schema, or of the pipeline that `from` names.")
    task: Literal["regression", "classification"]
    at: str
    from_: LabelSource | None = Field(
        default=None,
        alias="from",
        description="Where the target comes from, if it is delivered by another pipeline. Default: the own rows.",
    )

    def target_faults(self, column: Column) -> Iterator[str]:
        """Yield why a column cannot be the target."""
        if column.type not in (NUMERIC if self.task == "regression" else ("category", "boolean")):
            yield f"prediction.target: a {column.type} column cannot be the target of a {self.task}"
        elif column.nullable:
            yield (
                f"prediction.target: column '{self.target}' is nullable, but a model cannot learn from a row without "
                f"its target. Set schema.{self.target}.nullable: false; rows without the target then go to quarantine"
            )


class Holdout(Strict):
    """The rows that no model is trained on: those whose date is at or after `start`, or the last days."""

    column: str
    start: date | None = None
    last: Duration | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Holdout:
        if (self.start is None) == (self.last is None):
            raise ValueError("give either `start` (a date) or `last` (such as 90d)")
        return self


class Trainer(Strict):
    """A built-in trainer, or a Python function: `include/trainers/my_model.py:fit`."""

    use: str = Field(default="gradient_boosting", pattern=r"^([a-z][a-z0-9_]*|include/[\w/]+\.py:\w+)$")
    params: dict[str, float | int | str | bool] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=-LARGEST, le=LARGEST)
    timeout: Duration = Field(
        default="30m", validate_default=True, description=("Maximum run time of the job, counted from its start.")
    )
    gpu_pools: list[str] = Field(
        default_factory=list,
        description=("Pools in the order in which they are tried. Default: the order in rempart.yaml."),
    )
    gpus: int | None = Field(
        default=None, ge=0, description="GPUs of each pod of the job. Default: the number in rempart.yaml."
    )
    nodes: int = Field(
        default=1, ge=1, description=("Number of nodes. Each runs one process, and the processes share each batch.")
    )


class Gate(Strict):
    """The rules that a candidate must pass on the held-out rows."""

    metric: Metric
    limit: float = Field(description="Worst value of the metric that passes.")
    baseline_by: list[str] = Field(
        description=("Columns of the naive baseline, which predicts the training mean of each group.")
    )
    baseline_margin: float = Field(
        default=0.1, ge=0, lt=1, description=("Share by which the candidate must beat the baseline.")
    )
    champion_tolerance: float = Field(
        default=0.02, ge=0, description=("Share by which the candidate may be worse than the champion and still pass.")
    )
