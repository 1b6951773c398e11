"""Define the pipeline file: source, schema, expectations, features, prediction, trainer and gate of one data set.

A pipeline declares *moments* in order of time. Each column names the moment from which its value is known. A feature
may use only columns that are known at the feature's own moment, so a leak from the future is refused when the file is
read, before any run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rempart.errors import PipelineError
from rempart.settings.champions.monitoring import Monitoring
from rempart.settings.champions.retraining import Retraining
from rempart.settings.champions.scoring import Scoring, schedule_faults
from rempart.settings.champions.serving import Serving
from rempart.settings.columns import (
    NUMERIC,
    TEMPORAL,
    CalendarPart,
    Column,
    ColumnType,
    Moment,
    Name,
    Period,
    order_faults,
    rename_faults,
)
from rempart.settings.evaluation import splits, targets
from rempart.settings.evaluation.splits import Backtest, Holdout, Validation
from rempart.settings.expressions import across
from rempart.settings.expressions.checking import Typed
from rempart.settings.gates import gate as gates
from rempart.settings.gates.gate import Gate
from rempart.settings.learning import (
    LabelSource,
    Prediction,
    RowView,
    TrailingView,
    Trainer,
    View,
)
from rempart.settings.pipeline_sections import (
    Engine,
    Expectation,
    Lowered,
    Part,
    Schedules,
    SparkSettings,
    at_the_prediction,
)
from rempart.settings.schema import Strict, told_path
from rempart.settings.sections import Classification
from rempart.settings.sources import PREFIX, AnySource, Source, is_extracted
from rempart.settings.used.view import UsedView

__all__ = [
    "PREFIX", "Backtest", "CalendarPart", "Column", "ColumnType", "Expectation", "Gate", "Holdout", "LabelSource",
    "Lowered", "ModelPipeline", "Moment", "Name", "Pipeline", "Prediction", "RowView", "Schedules", "Source",
    "TrailingView", "Trainer", "UsedView", "Validation", "View",
]  # fmt: skip

_FEATURES = (*NUMERIC, "boolean", "string", "category", "date")
"""Types of columns that a row view may name as they are. A timestamp gives calendar parts."""
_KEYS = ("integer", "number", "boolean", "string", "category", *TEMPORAL)
_PERIODS = {"month": TEMPORAL, "day": TEMPORAL, "hour": ("timestamp",)}
OnConflict = Literal["refuse", "newest", "history"]
"""What a row does whose key was accepted before with other values: it is refused, replaces the older row, or both stay
with the times in which each was valid."""


class Pipeline(Strict):
    """A pipeline file, validated as a whole. This part is common to all: how deliveries become a snapshot."""

    name: Name
    description: str = ""
    owner: str | None = None
    classification: Classification
    lowered: dict[Part, Lowered] = Field(
        default_factory=dict,
        description="Steps, each with evidence, that lower the classification of the `model` or of derived `data`.",
    )
    source: AnySource = Field(
        description="Where rows come from. `kind` decides which keys are allowed; default `files`."
    )
    key: list[str] = Field(min_length=1, description="Columns that together identify a row.")
    moments: dict[Name, Moment] = Field(min_length=1, description="Moments in order of time, earliest first.")
    schema_: dict[str, Column] = Field(alias="schema")
    partition_by: str = Field(description="Date or timestamp column that partitions the snapshot.")
    partition_every: Period = Field(
        default="month", description="Period of one partition (in UTC). `hour` needs a timestamp column."
    )
    on_conflict: OnConflict | None = Field(
        default=None,
        description=(
            "Row whose key was accepted before with other values: `refuse` it, let the `newest` stand, or keep the "
            "`history`. Default: `newest` for a source with a cursor, else `refuse`."
        ),
    )
    version_by: str | None = Field(
        default=None,
        description=(
            "Column that tells which of two rows with one key is newer; for `history` the time from which a row is "
            "valid. Default: the source's cursor, else the order of the deliveries."
        ),
    )
    removed_columns: list[str] = Field(
        default_factory=list,
        description="Columns of earlier rows that the schema no longer has. Without this, removing one is refused.",
    )
    expectations: list[Expectation] = Field(default_factory=list)
    max_quarantined: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of refused rows above which deliveries are held back and the run fails.",
    )
    schedules: Schedules = Schedules()
    engine: Engine = Field(default="duckdb", description="What ingests and joins: `duckdb`, or `spark` on executors.")
    spark: SparkSettings = SparkSettings()

    @model_validator(mode="after")
    def _files_land(self) -> Pipeline:
        if self.schedules.on_delivery and is_extracted(self.source):
            raise ValueError("schedules.on_delivery: this source delivers when it is read; write `schedules.ingest`")
        return self

    @property
    def columns(self) -> dict[str, Column]:
        return self.schema_

    @property
    def conflict_rule(self) -> OnConflict:
        """Return the rule for rows whose key was accepted before with other values."""
        return self.on_conflict or ("newest" if self.source.incremental else "refuse")

    @property
    def version_column(self) -> str | None:
        """Return the column that tells which of two rows with one key is newer; None for the order of deliveries."""
        cursor = getattr(self.source, "cursor", None)
        return self.version_by or (cursor.column if cursor else None)

    @property
    def later_wins(self) -> bool:
        """Return whether of two rows with one key the later delivered one stands."""
        return self.conflict_rule == "newest" and self.version_column is None

    @property
    def row_key(self) -> list[str]:
        """Return the columns that identify a row of a snapshot: the key, and the version where all are kept."""
        version = self.version_column if self.conflict_rule == "history" else None
        return self.key if version is None or version in self.key else [*self.key, version]

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

    @model_validator(mode="after")
    def _consistent(self) -> Pipeline:
        faults = list(self._faults())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        columns, moments, wrong = self.columns, self.moments, self._wrong
        for column, spec in columns.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", column):
                yield f"schema.{column}: use lower case letters, digits and _ (at most 50)"
            if spec.known not in moments:
                yield f"schema.{column}.known: '{spec.known}' is not declared under moments ({', '.join(moments)})"
        yield from (*rename_faults(columns, self.key, self.removed_columns), *order_faults(moments))
        for path, column, types in self.source.named_columns():
            yield from wrong(path, column, types)
        yield from self.source.doubled_names(columns)
        for name, moment in moments.items():
            yield from wrong(f"moments.{name}.column", moment.column, TEMPORAL)
            for unit, offset in zip(("days", "hours", "minutes"), moment.offsets, strict=True):
                yield from wrong(f"moments.{name}.minus_{unit}", offset, ("integer",)) if offset else ()
            yield from (f"moments.{name}.{fault}" for fault in moment.clock_faults(columns, self.source.time_zone))
        for column in self.key:
            yield from wrong("key", column, _KEYS)
        yield from wrong("partition_by", self.partition_by, _PERIODS[self.partition_every])
        yield from self._version_faults()
        yield from self._derived_faults()
        for i, expectation in enumerate(self.expectations):
            for column in (v for k, v in expectation.arguments.items() if k.startswith("column")):
                for named_column in column if isinstance(column, list) else [column]:
                    yield from wrong(told_path("expectations", i), named_column)
        yield from self._without_model()

    def _without_model(self) -> Iterator[str]:
        """Yield what a pipeline without a model cannot have."""
        yield from self.schedules.of_a_model()

    def _wrong(self, path: str, column: str, types: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield that a column is not in the schema, or has none of these types."""
        if column not in self.columns:
            yield f"{path}: {self._no_column(column)}"
        elif types and self.columns[column].type not in types:
            yield f"{path}: column '{column}' must be {' or '.join(types)}, but it is {self.columns[column].type}"

    def _no_column(self, column: str) -> str:
        """Return that a column is not in the schema, with the one that may be meant."""
        close = get_close_matches(column, self.columns, n=1)
        return f"column '{column}' is not in the schema" + (f" (did you mean '{close[0]}'?)" if close else "")

    def _derived_faults(self) -> Iterator[str]:
        """Yield what does not go with the kind of the source."""
        derived = self.source.kind == "derived"
        if "data" in self.lowered and not derived:
            yield "lowered.data: only rows that are derived from inputs can need less protection than these"
        if derived and self.on_conflict is not None:
            yield "on_conflict: a derived delivery stands for all rows, and replaces the earlier ones; remove the key"

    def _version_faults(self) -> Iterator[str]:
        """Yield what is wrong with the columns that tell which row is newer."""
        column, rule = self.version_column, self.conflict_rule
        where = "version_by" if self.version_by else "source.cursor.column"
        if self.version_by and rule == "refuse":
            yield "version_by: it belongs to `on_conflict: newest` or `on_conflict: history`"
        if column is None:
            if rule == "history":
                yield "version_by: `on_conflict: history` needs the column with the time from which a row is valid"
            return
        if (spec := self.columns.get(column)) is None:
            yield f"{where}: {self._no_column(column)}"
            return
        types = TEMPORAL if rule == "history" or not self.version_by else (*TEMPORAL, "integer")
        if spec.type not in types:
            yield f"{where}: column '{column}' must be {' or '.join(types)}, but it is {spec.type}"
        if spec.nullable:
            yield f"{where}: column '{column}' is nullable, but every row needs its version"


class ModelPipeline(Pipeline):
    """A pipeline whose snapshots also become features and a model. Its keys follow those of every pipeline."""

    features: dict[Name, View]
    expressions: dict[Name, str] = Field(default_factory=dict)
    prediction: Prediction
    holdout: Holdout
    validation: Validation | None = None
    backtest: Backtest | None = None
    trainer: Trainer = Trainer()
    gate: Gate
    scoring: Scoring | None = None
    monitoring: Monitoring = Monitoring()
    serving: Serving = Serving()
    retrain: Retraining = Retraining()
    _views_have_moments = model_validator(mode="before")(at_the_prediction)

    @field_validator("features")
    @classmethod
    def _one_row_view(cls, views: dict[str, View]) -> dict[str, View]:
        if not any(view.kind == "row" for view in views.values()):
            raise ValueError("declare at least one view of `kind: row`")
        return views

    def used_views(self) -> dict[str, UsedView]:
        """Return the views that take the values of other pipelines' views, by name."""
        return {name: view for name, view in self.features.items() if isinstance(view, UsedView)}

    def inputs(self) -> dict[str, Column]:
        """Return the model's inputs in order, as `view__feature`: numbers, booleans and closed categories.

        Free text never enters a model: it may hold personal values, which the model file would contain.
        """
        return across.inputs(self.expressions, self.features, self.columns)

    def model_inputs(self) -> list[str]:
        """Return the names of the model's inputs in order."""
        return list(self.inputs())

    def across(self) -> dict[str, Typed]:
        """Return the typed tree of each expression over features of several views."""
        return across.across(self.expressions, self.features, self.columns)

    def _without_model(self) -> Iterator[str]:
        """Yield nothing: the pipeline has a model."""
        yield from ()

    def _faults(self) -> Iterator[str]:
        columns, moments = self.columns, self.moments
        yield from super()._faults()
        yield from schedule_faults(self.schedules, self.scoring, self.prediction, columns)
        parts = splits.Parts(self.holdout, self.validation, self.backtest)
        yield from parts.faults(columns, self.prediction, self.trainer, self._wrong)
        needed = {self.prediction.at, *(view.at for view in self.features.values() if view.kind != "used")}
        for name in [moment for moment in moments if moment in needed]:
            for used in moments[name].columns:
                if used in columns and columns[used].nullable:
                    yield f"moments.{name}: column '{used}' is nullable, but features need the moment of every row"
        task, target = self.prediction.task, columns.get(self.prediction.target)
        intervals = self.trainer.intervals is not None
        yield from gates.faults(self.gate, task, target, columns, self._wrong, intervals=intervals)
        yield from (leaks := list(self._leaks()))
        if not leaks and not self.used_views():  # their types are in other files
            yield from across.faults(self.expressions, self.features, columns)

    def _leaks(self) -> Iterator[str]:
        columns, target = self.columns, self.prediction.target
        if self.prediction.at not in self.moments:
            yield f"prediction.at: '{self.prediction.at}' is not declared under moments ({', '.join(self.moments)})"
            return
        if self.prediction.from_ is not None:
            yield from self.prediction.label_faults(self.name, self.key, columns)
        elif target not in columns:
            yield f"prediction.target: {self._no_column(target)}"
        else:
            refuses = self.conflict_rule == "refuse" and self.source.kind != "derived"
            yield from targets.faults(self.prediction, columns, self.moments, refuses=refuses)
        yield from self._unknown_yet("gate.baseline_by", "prediction", self.prediction.at, self.gate.baseline_columns())
        order = list(self.moments)
        for name, view in self.features.items():
            if view.kind == "used":
                yield from (f"features.{name}.{fault}" for fault in view.faults(self.name, target))
                for column in view.key.values():
                    yield from self._wrong(f"features.{name}.key", column)
                yield from self._unknown_yet(f"features.{name}", "view", self.prediction.at, [*view.key.values()])
                continue
            if view.at not in self.moments:
                yield f"features.{name}.at: '{view.at}' is not declared under moments ({', '.join(order)})"
                continue
            if order.index(view.at) > order.index(self.prediction.at):
                yield (
                    f"features.{name}.at: '{view.at}' is later than the moment of the prediction, "
                    f"'{self.prediction.at}'"
                )
            if view.kind == "trailing":
                yield from self._trailing_faults(name, view)
                continue
            used, types = [*view.columns, *view.calendar], dict.fromkeys(view.calendar, TEMPORAL)
            types |= dict.fromkeys(view.columns, _FEATURES)
            yield from (f"features.{name}.{fault}" for fault in view.faults(columns, target))
            for feature, read in view.read_by_expressions().items():
                yield from self._unknown_yet(f"features.{name}.expressions.{feature}", "view", view.at, read)
            if target in used:
                yield f"features.{name}: the target '{target}' cannot be a feature of the same row"
            for column in used:
                yield from self._wrong(f"features.{name}", column, types.get(column, ()))
            yield from self._unknown_yet(f"features.{name}", "view", view.at, used)

    def _unknown_yet(self, path: str, of: str, at: str, used: list[str]) -> Iterator[str]:
        """Yield the columns at a path of the file that are known only after a moment, which is `of` a view, say."""
        for column in used:
            spec = self.columns.get(column)
            if spec is not None and spec.known in self.moments and not self.known_by(column, at):
                later = f"later than the {of}'s moment '{at}'"
                yield f"{path}: column '{column}' is known only from '{spec.known}', {later}"

    def _trailing_faults(self, name: str, view: TrailingView) -> Iterator[str]:
        """Yield what is wrong with a trailing view. A column that is known later counts only from then on."""
        labels, at = self.prediction.from_, self.moments[view.at]
        for column in dict.fromkeys([*view.by, *(made.column for made in view.aggregates() if made.column)]):
            if labels is not None and column == self.prediction.target:
                yield (
                    f"features.{name}: '{column}' comes from pipeline '{labels.pipeline}', and no moment of this file "
                    "tells when it is known; aggregate a column of the schema"
                )
            else:
                yield from self._wrong(f"features.{name}", column)
        yield from self._unknown_yet(f"features.{name}", "view", view.at, view.by)
        yield from (f"features.{name}.{fault}" for fault in view.faults(self.columns, at))

    def delayed_until(self, view: TrailingView, column: str) -> str | None:
        """Return the moment from which a value counts in a view, of the target not before its prediction, or None."""
        order = list(self.moments)
        known = order.index(self.columns[column].known)
        if column == self.prediction.target and self.prediction.from_ is None:
            known = max(known, order.index(self.prediction.at))
        return None if known <= order.index(view.at) else order[known]


MODEL_KEYS = frozenset(ModelPipeline.model_fields) - frozenset(Pipeline.model_fields)
"""Keys of the model's part. A file with one of them needs them all; one without any ends at its snapshot."""
