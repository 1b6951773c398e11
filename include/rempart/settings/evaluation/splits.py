"""Sections that split the rows: for the hold-out, for validation, and for trainings from days of the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from rempart.settings.columns import TEMPORAL, Column
from rempart.settings.learning import Prediction, Trainer
from rempart.settings.schema import Duration, Strict

SHARE = 0.15
"""Share of the rows to learn from on which early stopping measures where the file has no `validation`."""
EARLY_STOPPING = "early_stopping_rounds"
"""Parameter of a trainer that stops when the figure on the validation part no longer improves."""
_DAY = timedelta(days=1)
_KEYS = ("integer", "boolean", "string", "category", *TEMPORAL)
"""Types of columns that can name a group."""
Wrong = Callable[[str, str, tuple[str, ...]], Iterator[str]]
_GROUPS = "Columns that name a group. Each group is on one side as a whole, and stays there when rows are added."
_STRATIFY = "`target`: the same share of each class. For a classification."


class Holdout(Strict):
    """The rows that no model is trained on: the newest by time, or a `share` of the groups or of each class."""

    column: str | None = Field(default=None, description="Date or timestamp column by which the newest are held out.")
    start: date | None = Field(
        default=None,
        description="First held-out day, from midnight in `source.time_zone` (UTC without it). Give `start` or `last`.",
    )
    last: Duration | None = Field(default=None, description="Length of the held-out time at the end of the data.")
    share: float | None = Field(
        default=None, gt=0, lt=1, description="Share that is held out where time is not the axis: `by` or `stratify`."
    )
    by: list[str] = Field(default_factory=list, description=_GROUPS)
    stratify: Literal["target"] | None = Field(default=None, description=_STRATIFY)

    @model_validator(mode="after")
    def _one_of(self) -> Holdout:
        if self.column is None:
            if self.share is None or bool(self.by) == bool(self.stratify) or self.start or self.last:
                raise ValueError(
                    "give a `column` with `start` or `last`, or a `share` with either `by` (columns of a group) or "
                    "`stratify: target`"
                )
            return self
        if self.share is not None or self.by or self.stratify:
            raise ValueError("`share`, `by` and `stratify` are for a hold-out without `column`; remove them, or it")
        if (self.start is None) == (self.last is None):
            raise ValueError("give either `start` (a date) or `last` (such as 90d)")
        return self


class Validation(Strict):
    """The part of the rows to learn from on which the job measures itself: early stopping and searches see no other.

    Without `by` and `stratify` these are the newest rows, by the column of the hold-out.
    """

    last: Duration | None = Field(default=None, description="Length of the part, before the newest row to learn from.")
    share: float | None = Field(default=None, gt=0, le=0.5, description="Share of the rows to learn from.")
    gap: Duration = Field(
        default=timedelta(0),
        description=(
            "Time before the part whose rows are neither fitted nor measured, so that trailing values do not overlap."
        ),
    )
    by: list[str] = Field(default_factory=list, description=_GROUPS)
    stratify: Literal["target"] | None = Field(default=None, description=_STRATIFY)
    refit: bool = Field(
        default=True,
        description=(
            "Train again on all rows to learn from, with the number of iterations that validation chose. With `false` "
            "the model that was validated is the candidate."
        ),
    )

    @property
    def by_time(self) -> bool:
        return not self.by and self.stratify is None

    @model_validator(mode="after")
    def _one_of(self) -> Validation:
        if (self.last is None) == (self.share is None) or self.last == timedelta(0):
            raise ValueError("give either `last` (such as 60d) or `share` (such as 0.15)")
        if self.by and self.stratify:
            raise ValueError("give either `by` or `stratify`")
        if not self.by_time and (self.share is None or self.gap):
            raise ValueError("`by` and `stratify` go with `share`, and without `gap`: their rows have no order in time")
        return self

    def faults(self, holdout: Holdout, columns: Mapping[str, Column]) -> Iterator[str]:
        """Yield what is wrong with the part."""
        if self.by_time and holdout.column is None:
            yield (
                "validation: the newest rows are those by `holdout.column`, which the hold-out does not have; add `by` "
                "or `stratify: target`"
            )
        for name in ("last", "gap"):
            yield from (f"validation.{fault}" for fault in _day_faults(name, getattr(self, name), holdout, columns))


class Backtest(Strict):
    """Trainings from several days of the past, each measured on the time after it: how much the figure varies.

    They take only rows to learn from, never the hold-out.
    """

    origins: int = Field(default=5, ge=2, le=50, description="Days from which it is trained. Each costs one training.")
    every: Duration = Field(description="Time between two of these days. It is also the time that each is measured on.")
    gap: Duration = Field(default=timedelta(0), description="Time before each of these days whose rows are left out.")
    window: Duration | None = Field(
        default=None, description="Longest time to learn from before each of these days. Default: all there is."
    )

    @model_validator(mode="after")
    def _some_time(self) -> Backtest:
        if not self.every or self.window == timedelta(0):
            raise ValueError("`every` and `window` must be longer than nothing, such as 30d")
        return self

    def faults(self, holdout: Holdout, columns: Mapping[str, Column], nodes: int) -> Iterator[str]:
        """Yield why a pipeline cannot be tried on its past."""
        if holdout.column is None:
            yield "backtest: it follows time, but the hold-out has no `column`; remove `backtest`"
        if nodes > 1:
            yield f"backtest: it runs on one node, but trainer.nodes is {nodes}; remove one of the two"
        for name in ("every", "gap", "window"):
            yield from (f"backtest.{fault}" for fault in _day_faults(name, getattr(self, name), holdout, columns))


def validation_of(declared: Validation | None, holdout: Holdout, params: Mapping[str, Any]) -> Validation | None:
    """Return the validation part: as declared, or what early stopping needs; None without either.

    It follows the axis of the hold-out: time, groups or classes.
    """
    if declared is not None or EARLY_STOPPING not in params:
        return declared
    return Validation(share=SHARE, by=holdout.by, stratify=holdout.stratify)


def split_columns(holdout: Holdout, validation: Validation | None) -> list[str]:
    """Return the columns that decide on which side a row is."""
    named = [*([holdout.column] if holdout.column else []), *holdout.by, *(validation.by if validation else [])]
    return list(dict.fromkeys(named))


@dataclass(frozen=True)
class Parts:
    """The three sections of one pipeline file."""

    holdout: Holdout
    validation: Validation | None
    backtest: Backtest | None

    def faults(
        self, columns: Mapping[str, Column], prediction: Prediction, trainer: Trainer, wrong: Wrong
    ) -> Iterator[str]:
        """Yield what is wrong with them. `wrong`: yields why a column is missing, or of another type."""
        named = [("holdout.column", name, TEMPORAL) for name in (self.holdout.column,) if name]
        for section, part in (("holdout", self.holdout), ("validation", self.validation)):
            if part is not None:
                named += [(f"{section}.by", column, _KEYS) for column in part.by]
                if part.stratify and prediction.task != "classification":
                    yield f"{section}.stratify: a regression has no classes; give `by`, or split by time"
        for path, column, types in named:
            yield from wrong(path, column, types)
            if column in columns and columns[column].nullable:
                needed = "date" if path == "holdout.column" else "group"
                yield f"{path}: column '{column}' is nullable, but every row needs its {needed}"
            if column == prediction.target:
                yield f"{path}: column '{column}' is the target; a split must be known without it"
        if self.validation is not None:
            yield from self.validation.faults(self.holdout, columns)
        if self.backtest is not None:
            yield from self.backtest.faults(self.holdout, columns, trainer.nodes)
        if trainer.intervals is not None:
            yield from self._interval_faults(prediction, trainer)

    def _interval_faults(self, prediction: Prediction, trainer: Trainer) -> Iterator[str]:
        if prediction.task != "regression":
            yield "trainer.intervals: a classification predicts chances, and has no interval; remove the key"
        elif validation_of(self.validation, self.holdout, trainer.params) is None:
            yield (
                "trainer.intervals: their width is measured on the validation part, and the file has none; add "
                "`validation`, such as {share: 0.15}"
            )


def warnings(holdout: Holdout, validation: Validation | None, params: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is allowed, and may surprise."""
    if validation is None and EARLY_STOPPING in params:
        yield (
            f"trainer.params.{EARLY_STOPPING}: the file has no `validation`, so early stopping measures on {SHARE:.0%} "
            "of the rows to learn from; say which with `validation`"
        )
    if validation is not None and validation.last and holdout.last and validation.last * 4 < holdout.last:
        yield (
            f"validation.last: {validation.last.days} days are little beside a hold-out of {holdout.last.days} days, "
            "so the number of iterations may follow chance; take a longer time"
        )


def _day_faults(key: str, length: timedelta | None, holdout: Holdout, columns: Mapping[str, Column]) -> Iterator[str]:
    spec = columns.get(holdout.column or "")
    if length and spec is not None and spec.type == "date" and length % _DAY:
        yield f"{key}: column '{holdout.column}' is a date; write whole days, such as 30d"
