"""Errors of a model by group of rows: a feature's values, months or weeks. Groups of few rows are never told alone."""

from __future__ import annotations

from collections.abc import Sequence
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


def of_features(
    features: Sequence[Feature],
    names: Sequence[str],
    matrix: Any,
    task: str,
    truth: Any,
    predicted: Any,
    shuffled: Shuffled,
    order: Sequence[str],
) -> tuple[ErrorSegment, ...]:
    """Return the errors by the values of categories and booleans, at most SEGMENTS of the named features.

    `order`: features by importance. matrix: [n, matrix columns]; truth: [n]; predicted: [n] or [n, classes].
    """
    places = {feature.name: (feature, block) for feature, block in zip(features, blocks(features), strict=True)}
    found = list[ErrorSegment]()
    for name in names:
        feature, block = places[name]
        if feature.type == "number" or len(found) == SEGMENTS:
            continue
        codes, labels = _codes(feature, matrix[:, block])
        found.append(_segment(name, codes, labels, features, task, truth, predicted, shuffled, order))
    return tuple(found)


def over_time(
    features: Sequence[Feature],
    times: pa.ChunkedArray,
    task: str,
    truth: Any,
    predicted: Any,
    shuffled: Shuffled,
    order: Sequence[str],
) -> ErrorSegment | None:
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
    return _segment(by, codes, labels, features, task, truth, predicted, shuffled, order, most=PERIODS)


def _codes(feature: Feature, columns: Any) -> tuple[Any, list[str]]:
    """Return each row's value as a position in the labels; the last label is for no value."""
    import numpy as np

    if feature.type == "category":
        labels = [*feature.values, "no value"]
        return np.where(columns.any(axis=1), columns.argmax(axis=1), len(feature.values)), labels
    values = columns[:, 0]
    return np.where(np.isnan(values), 2, np.nan_to_num(values)).astype(int), ["false", "true", "no value"]


def _segment(
    by: str,
    codes: Any,
    labels: Sequence[str],
    features: Sequence[Feature],
    task: str,
    truth: Any,
    predicted: Any,
    shuffled: Shuffled,
    order: Sequence[str],
    most: int = GROUPS,
) -> ErrorSegment:
    groups, rest = merged(codes, labels, most)
    each = losses(task, truth, predicted)
    rises = (shuffled.shuffled - shuffled.usual).mean(axis=1)  # [features, sampled rows]
    places = {feature.name: place for place, feature in enumerate(features)}
    made = list[ErrorGroup]()
    sampled = [mask[shuffled.chosen] for _, mask in groups]
    # of all groups or of none: the one left out could be computed from the others
    with_rises = all(mask.sum() >= LEAST_GROUP for mask in sampled)
    for (label, mask), some in zip(groups, sampled, strict=True):
        right = None if task == "regression" else predicted[mask].argmax(axis=1) == truth[mask]
        told = {name: float(rises[places[name]][some].mean()) for name in order[:RISES]} if with_rises else {}
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
