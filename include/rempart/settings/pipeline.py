"""Define the pipeline file: source, schema, expectations, features, prediction, trainer and gate of one data set.

A pipeline declares *moments* in order of time. Each column names the moment from which its value is known. A feature
may use only columns that are known at the feature's own moment, so a leak from the future is refused when the file is
read, before any run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from rempart.canonical_json import LARGEST
from rempart.errors import PipelineError
from rempart.settings.schema import Duration, Strict
from rempart.settings.sections import Classification

ColumnType = Literal["integer", "number", "boolean", "string", "category", "date"]
CalendarPart = Literal["year", "month", "week", "day_of_month", "day_of_week", "day_of_year"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Metric = Literal["mae", "rmse", "accuracy", "log_loss"]
METRICS: dict[str, tuple[Metric, ...]] = {"regression": ("mae", "rmse"), "classification": ("log_loss", "accuracy")}
"""Metrics of each task. All are computed; the gate names the metric that decides."""

PREFIX = r"[A-Za-z0-9_\-]+/([A-Za-z0-9_\-]+/)*"
"""A folder of the landing bucket, such as `hotel_bookings/` or `hotel/bookings/`."""


class Source(Strict):
    """Deliveries: delimited text files that arrive under a prefix of the landing bucket."""

    format: Literal["csv"] = "csv"
    prefix: str = Field(
        pattern=rf"^{PREFIX}$", max_length=200, description=("Prefix in the bucket under which deliveries arrive.")
    )
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    null_values: list[str] = Field(default_factory=lambda: [""])


class Moment(Strict):
    """A point in each row's life: a date column, or that many days (another column) before it."""

    column: str
    minus_days: str | None = None


class Column(Strict):
    """One column of the source."""

    type: ColumnType
    known: str = Field(description="Moment from which the column's value is known.")
    nullable: bool = False
    values: list[str] | None = Field(default=None, description="Complete list of a category's values.")
    description: str = ""

    @model_validator(mode="after")
    def _category_has_values(self) -> Column:
        if (self.type == "category") != (self.values is not None):
            raise ValueError(
                "`values` and `type: category` belong together: list the category's values, or use `string`"
            )
        return self


class Expectation(Strict):
    """A Great Expectations expectation on rows; a row that breaks it is quarantined. Other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    expect: str = Field(
        pattern=r"^expect_[a-z_]+$",
        description=("Name of the expectation, such as expect_column_values_to_be_between."),
    )
    reason: str = Field(
        description=(
            "Reason that the quarantine gives for a row that breaks the expectation. It "
            "must contain no value of the row."
        )
    )

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RowView(Strict):
    """Columns of the row itself, as known at a moment."""

    kind: Literal["row"]
    at: str
    columns: list[str] = Field(default_factory=list)
    calendar: dict[str, list[CalendarPart]] = Field(
        default_factory=dict, description=("Calendar parts of date columns.")
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


class Prediction(Strict):
    """The prediction and its moment: it uses only what is known at that moment."""

    target: str
    task: Literal["regression", "classification"]
    at: str


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


class Lowered(Strict):
    """A derived kind of data with a lower classification, and the ledger's record of the judgement."""

    to: Classification
    evidence: int = Field(
        ge=1, description="Number of the ledger record that `rempart policy lower-classification` wrote."
    )


class Schedules(Strict):
    """Cron expressions in UTC.

    A new platform waits for the next time; without an expression the DAG starts by asset or REST.
    """

    ingest: str | None = None
    train: str | None = None

    @field_validator("ingest", "train")
    @classmethod
    def _is_cron(cls, expression: str | None) -> str | None:
        from croniter import croniter

        # Airflow checks it only after the DAG file was read, and would then drop every DAG of that file
        if expression is not None and not croniter.is_valid(expression):
            raise ValueError(f"'{expression}' is not a cron expression: write five fields, such as \"0 4 * * *\"")
        return expression


class Pipeline(Strict):
    """A pipeline file, validated as a whole."""

    name: Name
    description: str = ""
    owner: str | None = None
    classification: Classification
    lowered: dict[Literal["model"], Lowered] = Field(
        default_factory=dict, description=("Declared steps, each with evidence, that lower the classification.")
    )
    source: Source
    key: list[str] = Field(min_length=1, description="Columns that together identify a row.")
    moments: dict[Name, Moment] = Field(min_length=1, description="Moments in order of time, earliest first.")
    schema_: dict[str, Column] = Field(alias="schema")
    partition_by: str = Field(description="Date column. Its month partitions the snapshot.")
    expectations: list[Expectation] = Field(default_factory=list)
    max_quarantined: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of refused rows above which deliveries are held back and the run fails.",
    )
    features: dict[Name, View]
    prediction: Prediction
    holdout: Holdout
    trainer: Trainer = Trainer()
    gate: Gate
    schedules: Schedules = Schedules()

    @property
    def columns(self) -> dict[str, Column]:
        return self.schema_

    @field_validator("features")
    @classmethod
    def _one_row_view(cls, views: dict[str, RowView | TrailingView]) -> dict[str, RowView | TrailingView]:
        if not any(view.kind == "row" for view in views.values()):
            raise ValueError("declare at least one view of `kind: row`")
        return views

    def reading_from(self, prefix: str) -> Pipeline:
        """Return the pipeline restricted to one folder below its own prefix. Raises PipelineError for any other prefix.

        Deliveries of another pipeline may have another classification, and would lose it under this pipeline.
        """
        if not re.fullmatch(self.own_prefixes, prefix) or len(prefix) > 200:
            raise PipelineError(
                f"Run parameter prefix: '{prefix[:80]}' is not below '{self.source.prefix}', the prefix of pipeline "
                f"'{self.name}'",
                f"Omit the parameter, or name a folder of this pipeline: {self.source.prefix}such-a-folder/",
            )
        return self.model_copy(update={"source": self.source.model_copy(update={"prefix": prefix})})

    @property
    def own_prefixes(self) -> str:
        """Return a pattern of the prefixes that a run may read: the pipeline's own, and folders below it."""
        return rf"{re.escape(self.source.prefix)}([A-Za-z0-9_\-]+/)*"

    def known_by(self, column: str, moment: str) -> bool:
        """Return whether a column's value is known at a moment."""
        order = list(self.moments)
        return order.index(self.columns[column].known) <= order.index(moment)

    def model_inputs(self) -> list[str]:
        """Return references (`view__feature`) of the model's inputs in order: numbers, booleans and closed categories.

        Free text never enters a model: it may hold personal values, which the model file would contain.
        """
        return [
            f"{name}__{feature}"
            for name, view in self.features.items()
            for feature in view.features()
            if not (view.kind == "row" and feature in self.columns and self.columns[feature].type == "string")
        ]

    @model_validator(mode="after")
    def _consistent(self) -> Pipeline:
        faults = list(self._faults())
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        columns, moments = self.columns, self.moments

        def wrong(path: str, column: str, types: tuple[str, ...] = ()) -> Iterator[str]:
            if column not in columns:
                yield f"{path}: column '{column}' is not in the schema"
            elif types and columns[column].type not in types:
                yield f"{path}: column '{column}' must be {' or '.join(types)}, but it is {columns[column].type}"

        for column, spec in columns.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", column):
                yield f"schema.{column}: use lower case letters, digits and _ (at most 50)"
            if spec.known not in moments:
                yield f"schema.{column}.known: '{spec.known}' is not declared under moments ({', '.join(moments)})"
        for name, moment in moments.items():
            yield from wrong(f"moments.{name}.column", moment.column, ("date",))
            if moment.minus_days:
                yield from wrong(f"moments.{name}.minus_days", moment.minus_days, ("integer",))
        for column in self.key:
            yield from wrong("key", column)
        yield from wrong("partition_by", self.partition_by, ("date",))
        yield from wrong("holdout.column", self.holdout.column, ("date",))
        if self.holdout.column in columns and columns[self.holdout.column].nullable:
            yield f"holdout.column: column '{self.holdout.column}' is nullable, but every row needs its date"
        for name in [
            moment for moment in moments if moment in {self.prediction.at, *(v.at for v in self.features.values())}
        ]:
            for used in (moments[name].column, moments[name].minus_days):
                if used in columns and columns[used].nullable:
                    yield f"moments.{name}: column '{used}' is nullable, but features need the moment of every row"
        for i, expectation in enumerate(self.expectations):
            for column in (v for k, v in expectation.arguments.items() if k.startswith("column")):
                for named_column in column if isinstance(column, list) else [column]:
                    yield from wrong(f"expectations.{i}", named_column)
        for column in self.gate.baseline_by:
            if "." in column:
                date_column, part = column.split(".", 1)
                yield from wrong("gate.baseline_by", date_column, ("date",))
                if part not in CalendarPart.__args__:  # type: ignore[attr-defined] # Literal's own attribute
                    yield f"gate.baseline_by: '{part}' is not a calendar part"
            else:
                yield from wrong("gate.baseline_by", column)
        yield from self._leaks()

    def _leaks(self) -> Iterator[str]:
        columns, target = self.columns, self.prediction.target
        if self.prediction.at not in self.moments:
            yield (f"prediction.at: '{self.prediction.at}' is not declared under moments ({', '.join(self.moments)})")
            return
        if target not in columns:
            yield f"prediction.target: column '{target}' is not in the schema"
        elif columns[target].type not in (
            ("number", "integer") if self.prediction.task == "regression" else ("category", "boolean")
        ):
            yield f"prediction.target: a {columns[target].type} column cannot be the target of a {self.prediction.task}"
        elif columns[target].nullable:
            yield (
                f"prediction.target: column '{target}' is nullable, but a model cannot learn from a row without "
                f"its target. Set schema.{target}.nullable: false; rows without the target then go to quarantine"
            )
        if self.gate.metric not in METRICS[self.prediction.task]:
            yield f"gate.metric: '{self.gate.metric}' is not a metric of a {self.prediction.task}"
        order = list(self.moments)
        for name, view in self.features.items():
            if view.at not in self.moments:
                yield f"features.{name}.at: '{view.at}' is not declared under moments ({', '.join(order)})"
                continue
            if order.index(view.at) > order.index(self.prediction.at):
                yield (
                    f"features.{name}.at: '{view.at}' is later than the moment of the prediction, "
                    f"'{self.prediction.at}'"
                )
            types: dict[str, tuple[str, ...]]
            if view.kind == "row":
                used, types = [*view.columns, *view.calendar], dict.fromkeys(view.calendar, ("date",))
                if target in used:
                    yield f"features.{name}: the target '{target}' cannot be a feature of the same row"
            else:
                used, types = [*view.by, *view.mean], dict.fromkeys(view.mean, ("number", "integer"))
            for column in used:
                if column not in columns:
                    yield f"features.{name}: column '{column}' is not in the schema"
                elif column in types and columns[column].type not in types[column]:
                    yield f"features.{name}: column '{column}' must be {' or '.join(types[column])}"
                elif columns[column].known in self.moments and not self.known_by(column, view.at):
                    yield (
                        f"features.{name}: column '{column}' is known only from '{columns[column].known}', later "
                        f"than the view's moment '{view.at}'"
                    )
