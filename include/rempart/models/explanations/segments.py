"""Errors of a model by group of rows: a feature's values, months or weeks. Groups of few rows are never told alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.models.encoding import Feature
from rempart.models.explanations.figures import LEAST_GROUP, ErrorGroup, ErrorSegment
from rempart.models.explanations.importance import Shuffled
from rempart.models.explanations.losses import blocks, losses

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENTS, GROUPS, RISES = 6, 12, 5
"""Features by which rows are grouped; groups of each, without the rest; features whose importance a group tells."""
PERIODS = 24
_WEEKS_UP_TO = 62
"""Days of held-out rows up to which the periods are weeks."""


def merged(codes: Any, names: Sequence[str], most: int = GROUPS) -> tuple[list[tuple[str | None, Any]], int]:
    """Return the groups of rows that may be told, each as its label and a mask of rows, and how many are in the rest.

    codes: [n], positions in `names`. Every row is in exactly one group, and each group has at least LEAST_GROUP rows:
    no group of fewer can be computed from the others and the total. The rest comes last, with the label None. No group
    is told if there are fewer than LEAST_GROUP rows.
    """
    import numpy as np

    counts = np.bincount(codes, minlength=len(names))
    present = [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]
    kept = [place for place in present if counts[place] >= LEAST_GROUP][:most]
    rest = [place for place in present if place not in kept]
    while rest and kept and counts[rest].sum() < LEAST_GROUP:
        rest.append(kept.pop())  # the smallest one
    if rest and counts[rest].sum() < LEAST_GROUP:
        return [], len(rest)
    found: list[tuple[str | None, Any]] = [(names[place], codes == place) for place in sorted(kept)]
    return [*found, *([(None, np.isin(codes, rest))] if rest else [])], len(rest)


@dataclass(frozen=True)
class Predicted:
    """Held-out rows with their predictions. truth: [n]; predicted: [n] or [n, classes].

    `shuffled`: losses of some of the rows with a feature of other rows; `order`: features by importance.
    """

    features: Sequence[Feature]
    task: str
    truth: Any
    predicted: Any
    shuffled: Shuffled
    order: Sequence[str]


def of_features(rows: Predicted, matrix: Any) -> tuple[ErrorSegment, ...]:
    """Return the errors by the values of categories and booleans: of the most important ones, at most SEGMENTS.

    matrix: [n, matrix columns].
    """
    places = {each.name: (each, block) for each, block in zip(rows.features, blocks(rows.features), strict=True)}
    found = list[ErrorSegment]()
    for name in rows.order:
        feature, block = places[name]
        if feature.type == "number" or len(found) == SEGMENTS:
            continue
        codes, labels = _codes(feature, matrix[:, block])
        found.append(_segment(rows, name, codes, labels))
    return tuple(found)


def over_time(rows: Predicted, times: pa.ChunkedArray) -> ErrorSegment | None:
    """Return the errors by month, or by week if the rows span two months or less; None without a time of every row.

    times: dates or instants [n], in UTC.
    """
    import numpy as np
    import pyarrow as pa

    if times.null_count or not len(times):
        return None
    days = times.cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    by = "week" if int((days.max() - days.min()).astype(int)) <= _WEEKS_UP_TO else "month"
    # weeks begin on Monday: 1970-01-05 was one
    starts = days.astype("datetime64[M]") if by == "month" else days - (days.astype(int) - 4) % 7
    names, codes = np.unique(starts, return_inverse=True)
    labels = [str(name) for name in names]
    return _segment(rows, by, codes, labels, most=PERIODS)


def _codes(feature: Feature, columns: Any) -> tuple[Any, list[str]]:
    """Return each row's value as a position in the labels; the last label is for no value."""
    import numpy as np

    if feature.type == "category":
        labels = [*feature.values, "no value"]
        return np.where(columns.any(axis=1), columns.argmax(axis=1), len(feature.values)), labels
    values = columns[:, 0]
    return np.where(np.isnan(values), 2, np.nan_to_num(values)).astype(int), ["false", "true", "no value"]


def _segment(rows: Predicted, by: str, codes: Any, labels: Sequence[str], most: int = GROUPS) -> ErrorSegment:
    groups, rest = merged(codes, labels, most)
    truth, predicted, shuffled = rows.truth, rows.predicted, rows.shuffled
    each = losses(rows.task, truth, predicted)
    rises = (shuffled.shuffled - shuffled.usual).mean(axis=1)  # [features, sampled rows]
    places = {feature.name: place for place, feature in enumerate(rows.features)}
    made = list[ErrorGroup]()
    sampled = [mask[shuffled.chosen] for _, mask in groups]
    # of all groups or of none: the one left out could be computed from the others
    with_rises = all(mask.sum() >= LEAST_GROUP for mask in sampled)
    for (label, mask), some in zip(groups, sampled, strict=True):
        right = None if rows.task == "regression" else predicted[mask].argmax(axis=1) == truth[mask]
        told = {name: float(rises[places[name]][some].mean()) for name in rows.order[:RISES]} if with_rises else {}
        made.append(
            ErrorGroup(
                label,
                int(mask.sum()),
                float(each[mask].mean()),
                float((predicted[mask] - truth[mask]).mean()) if right is None else None,
                None if right is None else float(right.mean()),
                told,
            )
        )
    return ErrorSegment(by, tuple(made), rest)
