"""What a pipeline learns: feature views, the prediction, the trainer and the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rempart.canonical_json import LARGEST
from rempart.settings.columns import NUMERIC, TEMPORAL, CalendarPart, Column, ColumnType, Moment, Name
from rempart.settings.expressions import checking, syntax
from rempart.settings.expressions.across import made_column
from rempart.settings.expressions.checking import Typed
from rempart.settings.schema import Duration, Strict
from rempart.settings.search.ranges import ParameterSearch
from rempart.settings.used.view import UsedView

ViewMoment = Annotated[
    str,
    Field(
        description=(
            "Moment of the view: it uses what is known then, and of other rows only earlier ones. Default: the moment "
            "of the prediction."
        ),
    ),
]
MaxAge = Annotated[
    Duration | None,
    Field(
        description=(
            "Oldest age of the view's newest online value that is still fresh, such as `2d`. Default: no limit, and no "
            "alarm."
        )
    ),
]


class RowView(Strict):
    """Columns of the row itself, as known at a moment."""

    kind: Literal["row"]
    at: ViewMoment = ""
    description: str = Field(default="", description="What the view tells, for the catalogue of features.")
    columns: list[str] = Field(default_factory=list)
    expressions: dict[Name, str] = Field(
        default_factory=dict,
        description=(
            "Features that are computed from columns of the row, by name, such as `price / guests` or "
            "`days_since(last_visit)`; docs/reference/expressions.md has operators, functions and what is refused."
        ),
    )
    calendar: dict[str, list[CalendarPart]] = Field(
        default_factory=dict,
        description="Calendar parts of date and timestamp columns; of a timestamp in the source's time zone.",
    )
    max_age: MaxAge = None

    def features(self) -> list[str]:
        return [*self.columns, *self.calendar_features(), *self.expressions]

    def calendar_features(self) -> list[str]:
        return [f"{column}_{part}" for column, parts in self.calendar.items() for part in parts]

    def column_of(self, feature: str) -> str | None:
        """Return the column whose values a feature has; None for one that is computed."""
        return feature if feature in self.columns else None

    def read_by_expressions(self) -> dict[str, list[str]]:
        """Return the columns that each expression names."""
        return {name: syntax.columns_of(text) for name, text in self.expressions.items()}

    def checked(self, columns: dict[str, Column]) -> dict[str, Typed]:
        """Return the typed tree of each expression, by name. Raises ExpressionFault."""
        return {name: checking.checked(text, columns) for name, text in self.expressions.items()}

    def types(self, columns: dict[str, Column]) -> dict[str, Column]:
        """Return each feature as a column of its type. Raises ExpressionFault."""
        made = {name: made_column(typed.type) for name, typed in self.checked(columns).items()}
        parts = dict.fromkeys(self.calendar_features(), made_column("integer"))
        return {column: columns[column] for column in self.columns} | parts | made

    def faults(self, columns: dict[str, Column], target: str) -> Iterator[str]:
        """Yield what is wrong with calendar parts and expressions, but for moments."""
        for column, parts in self.calendar.items():
            if "hour" in parts and column in columns and columns[column].type == "date":
                yield f"calendar: column '{column}' is a date, which has no hour"
        for name, text in self.expressions.items():
            if name in columns or name in self.calendar_features():
                yield f"expressions.{name}: a column or a calendar part has this name; choose another one"
            if target in self.read_by_expressions()[name]:
                yield f"expressions.{name}: the target '{target}' cannot be in a feature of the same row; remove it"
            try:
                checking.checked(text, columns)
            except syntax.ExpressionFault as fault:
                yield f"expressions.{name}: {fault}"


Function = Literal["sum", "mean", "min", "max", "std", "count", "last", "distinct", "share", "rows"]
"""How a trailing feature is made of the rows in its window."""

_STORED: tuple[ColumnType, ...] = (*NUMERIC, "boolean", "string", "category", *TEMPORAL)
_TYPES: dict[Function, tuple[ColumnType, ...]] = {
    **dict.fromkeys(("sum", "mean", "min", "max", "std"), NUMERIC),
    **dict.fromkeys(("count", "distinct"), _STORED),
    "last": (*NUMERIC, "boolean", "category"),
}
"""Types of columns of which there is an aggregate."""
_WINDOW_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST_WINDOW = timedelta(days=100 * 365)


def window_length(window: str) -> timedelta:
    """Return the length of a window such as `30m`, `6h`, `7d`, `8w` or `2y`. A year is 365 days."""
    number, unit = int(window[:-1]), window[-1]
    return timedelta(days=365 * number) if unit == "y" else timedelta(**{_WINDOW_UNITS[unit]: number})


def _checked_window(window: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,5}[mhdwy]", window) or window_length(window) > LONGEST_WINDOW:
        raise ValueError("write a window as a number and a unit, up to 100y: 30m, 6h, 7d, 8w or 2y")
    return window


Window = Annotated[str, AfterValidator(_checked_window)]


@dataclass(frozen=True)
class Aggregate:
    """One feature of a trailing view: a function of a column's values in a window.

    `value`: the category of which it is the share. `rows` has no column.
    """

    feature: str
    function: Function
    window: str
    column: str | None = None
    value: str | None = None


SINCE_LAST = "days_since_last"
"""Feature of `since_last`, in days, with a fraction where the moment is a timestamp."""


class TrailingView(Strict):
    """Aggregates over other rows of the same group that lie in windows before a moment.

    `windows` end at the moment itself, and take no row of that moment. `days` count whole days, and end with the last
    day on which something of the group became known: a row for each group and such day.
    """

    kind: Literal["trailing"]
    at: ViewMoment = ""
    description: str = Field(default="", description="What the view tells, for the catalogue of features.")
    by: list[str] = Field(min_length=1)
    windows: list[Window] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Lengths of the windows before the moment, from minutes to years: `30m`, `6h`, `7d`, `8w`, `2y`. Whole "
            "days where the moment is a date. Give either `windows` or `days`."
        ),
    )
    days: list[Annotated[int, Field(ge=1, le=LONGEST_WINDOW.days)]] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Lengths of windows in whole days that end with the last day on which something of the group became known."
        ),
    )
    sum: list[str] = Field(default_factory=list, description="Columns whose trailing sum is a feature.")
    mean: list[str] = Field(default_factory=list, description="Columns whose trailing mean is a feature.")
    min: list[str] = Field(default_factory=list, description="Columns whose smallest value is a feature.")
    max: list[str] = Field(default_factory=list, description="Columns whose largest value is a feature.")
    std: list[str] = Field(
        default_factory=list,
        description="Columns whose standard deviation (of a sample) is a feature; empty for fewer than two values.",
    )
    count: list[str] = Field(default_factory=list, description="Columns whose number of values is a feature.")
    last: list[str] = Field(
        default_factory=list,
        description="Columns whose value in the latest row is a feature; of rows of one moment, in the greatest key.",
    )
    distinct: list[str] = Field(
        default_factory=list, description="Columns whose number of different values is a feature."
    )
    share: list[str] = Field(
        default_factory=list,
        description=(
            "Boolean columns of which the share of `true`, and `COLUMN=VALUE` of categories of which the share of that "
            "value, is a feature. Rows without a value do not count."
        ),
    )
    since_last: bool = Field(
        default=False,
        description="Whether the time since the last row in the longest window is a feature: `days_since_last`.",
    )
    max_age: MaxAge = None

    @model_validator(mode="after")
    def _one_kind_of_window(self) -> TrailingView:
        if (self.windows is None) == (self.days is None):
            raise ValueError("give either `windows` (such as [30m, 7d, 2y]) or `days` (such as [90, 365])")
        return self

    @property
    def spans(self) -> list[str]:
        """Return the windows; those of `days` as `90d`."""
        return self.windows or [f"{days}d" for days in self.days or ()]

    @property
    def longest(self) -> timedelta:
        return max(map(window_length, self.spans))

    def aggregates(self) -> list[Aggregate]:
        """Return the features in order, without `days_since_last`."""
        return [made for window in self.spans for made in self._of(window)]

    def _of(self, window: str) -> Iterator[Aggregate]:
        for function in _TYPES:
            for column in getattr(self, function):
                yield Aggregate(f"{column}_{function}_{window}", function, window, column)
        for named in self.share:
            column, _, value = named.partition("=")
            told = "_".join([column, *re.findall("[a-z0-9]+", value.lower())])
            yield Aggregate(f"{told}_share_{window}", "share", window, column, value or None)
        yield Aggregate(f"rows_{window}", "rows", window)

    def features(self) -> list[str]:
        return [*(made.feature for made in self.aggregates()), *([SINCE_LAST] if self.since_last else [])]

    def column_of(self, feature: str) -> str | None:
        """Return the column whose values a feature has; None for one that is computed."""
        return next((m.column for m in self.aggregates() if m.feature == feature and m.function == "last"), None)

    def types(self, columns: dict[str, Column]) -> dict[str, Column]:
        """Return each feature as a column of its type."""
        found: dict[str, Column] = {}
        for made in self.aggregates():
            if made.column and made.function in ("min", "max", "last"):
                found[made.feature] = columns[made.column]
            else:
                whole = made.function in ("rows", "count", "distinct")
                found[made.feature] = made_column("integer" if whole else "number")
        return found | ({SINCE_LAST: made_column("number")} if self.since_last else {})

    def faults(self, columns: dict[str, Column], moment: Moment) -> Iterator[str]:
        """Yield what is wrong with windows and aggregates, as far as the columns exist."""
        if self.windows and moment.column in columns and moment.is_day(columns):
            for window in self.windows:
                if window_length(window) % timedelta(days=1):
                    yield f"windows: '{window}' is no whole number of days, but '{self.at}' is a day; write 1d or more"
        for made in self.aggregates():
            spec = columns.get(made.column or "")
            if made.window == self.spans[0] and spec is not None:
                yield from _aggregate_faults(made, spec)
        features = self.features()
        for feature in sorted({name for name in features if features.count(name) > 1}):
            yield f"windows: two features have the name '{feature}'; name each column, value and window once"


def _aggregate_faults(made: Aggregate, column: Column) -> Iterator[str]:
    """Yield why there is no such aggregate of a column."""
    if made.function != "share":
        if column.type not in _TYPES[made.function]:
            yield f"{made.function}: column '{made.column}' must be {' or '.join(_TYPES[made.function])}"
    elif made.value is None:
        if column.type != "boolean":
            yield (
                f"share: column '{made.column}' is {column.type}; name a boolean column, or write COLUMN=VALUE of a "
                "category"
            )
    elif made.value not in (column.values or ()):
        yield f"share: '{made.value}' is not one of the `values` of column '{made.column}'"


View = Annotated[RowView | TrailingView | UsedView, Field(discriminator="kind")]


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

    target: str = Field(
        description=(
            "Column to predict: of the schema, or of the pipeline that `from` names. A row that lacks it is open where "
            "it is `nullable` and known from a later moment: accepted, and an example once it has its target."
        )
    )
    task: Literal["regression", "classification"]
    at: str
    from_: LabelSource | None = Field(
        default=None,
        alias="from",
        description="Where the target comes from, if it is delivered by another pipeline. Default: the own rows.",
    )

    def label_faults(self, pipeline: str, key: list[str], columns: dict[str, Column]) -> Iterator[str]:
        """Yield what is wrong with labels of another pipeline, as far as this file tells."""
        if (labels := self.from_) is None:
            return
        if labels.pipeline == pipeline:
            yield "prediction.from.pipeline: it names this pipeline; omit `from` for a target of the own rows"
        if self.target in columns:
            yield (
                f"prediction.target: column '{self.target}' of pipeline '{labels.pipeline}' is in the schema of this "
                "one, too; rename one of them, or omit `from`"
            )
        if labels.key and len(labels.key) != len(key):
            yield f"prediction.from.key: name {len(key)} columns, which stand for {', '.join(key)}"

    def has_open_rows(self, columns: Mapping[str, Column]) -> bool:
        """Return whether own rows may lack their target. `columns`: of the schema."""
        return self.from_ is None and self.target in columns and columns[self.target].nullable

    def type_faults(self, column: Column) -> Iterator[str]:
        """Yield why a column of this type cannot be the target."""
        if column.type not in (NUMERIC if self.task == "regression" else ("category", "boolean")):
            yield f"prediction.target: a {column.type} column cannot be the target of a {self.task}"


class Intervals(Strict):
    """An interval around each predicted number, in which a share of the true values shall lie.

    Its width comes from the errors on the validation part (split conformal prediction), so any trainer has it.
    """

    coverage: float = Field(
        default=0.9, ge=0.5, le=0.99, description="Share of the true values that shall lie in their interval."
    )
    method: Literal["conformal", "scaled"] = Field(
        default="conformal",
        description=(
            "`conformal`: the same width for each row. `scaled`: a width in proportion to the predicted amount, for "
            "targets whose errors grow with it, such as prices."
        ),
    )


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
    intervals: Intervals | None = Field(
        default=None,
        description="Intervals of a regression, measured on the validation part. Default: predictions without any.",
    )
    search: ParameterSearch | None = Field(
        default=None, description="Ranges of parameters that `search_<pipeline>` searches. Default: no such DAG."
    )
