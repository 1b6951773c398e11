"""What is told of a model on held-out rows, as plain JSON: aggregates of many rows only, never a value of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rempart import canonical_json
from rempart.errors import IntegrityError

LEAST_GROUP = 30
"""Minimum number of rows of a group of which figures are told. Fewer are merged with other groups."""
LEAST_POINT = 10
"""Minimum number of rows that stand behind a point of a feature's scale."""


@dataclass(frozen=True)
class Importance:
    """Rise of the error when a feature is shuffled, in the unit of the metric: mean of the repeats, and their standard
    deviation.
    """

    feature: str
    rise: float
    spread: float


@dataclass(frozen=True)
class Point:
    """Mean prediction of the sampled rows if a feature had one value in all of them.

    `at`: a number (the mean of at least LEAST_POINT rows' values, or a value that so many rows share), or a category's
    value, `true` or `false`; None for no value. `means`: in the target's unit, or the probability of each class.
    `spreads`: standard deviation, over the rows, of the prediction less the same row's mean over all points.
    """

    at: float | str | None
    means: tuple[float, ...]
    spreads: tuple[float, ...]


@dataclass(frozen=True)
class Dependence:
    """Partial dependence on one feature. `few`: values with too few rows, which are not told."""

    feature: str
    points: tuple[Point, ...]
    few: int = 0


@dataclass(frozen=True)
class ErrorGroup:
    """Errors of a model on a group of at least LEAST_GROUP held-out rows.

    `label`: None for the rest: groups that are too small, and those beyond the number told. `bias`: mean of prediction
    less truth (None for a classification). `accuracy`: share (None for a regression). `rises`: importance of features
    in the sampled rows of the group; empty if these are too few.
    """

    label: str | None
    rows: int
    error: float
    bias: float | None
    accuracy: float | None
    rises: Mapping[str, float]


@dataclass(frozen=True)
class ErrorSegment:
    """The held-out rows by a feature's value, or by time. `merged`: groups within the rest.

    `groups` is empty if fewer than LEAST_GROUP rows are held out.
    """

    by: str
    groups: tuple[ErrorGroup, ...]
    merged: int


@dataclass(frozen=True)
class Explanations:
    """What explains a model. `metric`: `mae` or `log_loss`, measured on `rows` held-out rows; `sample`: those of which
    importance is measured. `classes`: names of the outputs; empty for a regression.
    """

    metric: str
    rows: int
    sample: int
    repeats: int
    classes: tuple[str, ...]
    importance: tuple[Importance, ...]
    dependence: tuple[Dependence, ...]
    over_time: ErrorSegment | None
    segments: tuple[ErrorSegment, ...]

    def to_json(self) -> bytes:
        """Return the canonical bytes, with six significant digits: equal explanations, equal bytes."""
        return canonical_json.encode(_rounded(asdict(self)))


def read(body: bytes, where: str) -> Explanations:
    """Return the explanations of `to_json`. Raises IntegrityError that names `where` for another form."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Explanations).validate_json(body)
    except ValidationError:
        raise IntegrityError(
            f"{where} is no explanation of a model", "Train again, and find out which release wrote the file."
        ) from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
