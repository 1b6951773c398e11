"""Partial dependence (Friedman 2001): the mean prediction if a feature had one value in every row.

The scale of a number shows no row's own value: its points are means of neighbouring rows' values, without the smallest
and the largest ones, or values that many rows share. It tells how the model answers, not what causes the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rempart.models.encoding import Feature
from rempart.models.explanations.figures import LEAST_POINT, Dependence, Point
from rempart.models.explanations.losses import Predict, blocks, predicted_stacks

SHOWN, SAMPLE, POINTS = 8, 200, 12
"""Features of a report; rows whose mean is a point; points of a curve."""


def dependence(
    predict: Predict, features: Sequence[Feature], names: Sequence[str], matrix: Any, seed: int
) -> tuple[Dependence, ...]:
    """Return the dependence on the named features, in that order; without those that have fewer than two points.

    matrix: float32 [n, matrix columns], of held-out rows. The same seed gives the same numbers.
    """
    import numpy as np

    places = {feature.name: (feature, block) for feature, block in zip(features, blocks(features), strict=True)}
    some = matrix[np.random.default_rng(seed).permutation(len(matrix))[:SAMPLE]]
    scales = [(*places[name], *scale(places[name][0], matrix[:, places[name][1]])) for name in names]
    scales = [each for each in scales if len(each[2]) > 1]

    def copies() -> Iterator[Any]:
        for _, block, values, _ in scales:
            for _, columns in values:
                copy = some.copy()
                copy[:, block] = columns
                yield copy

    found = predicted_stacks(predict, copies())
    made = list[Dependence]()
    for feature, _, values, few in scales:
        predicted = np.array([next(found) for _ in values])
        predicted = predicted.reshape(len(values), len(some), -1)
        spreads = (predicted - predicted.mean(axis=0)).std(axis=1)
        points = (
            Point(at, tuple(map(float, means)), tuple(map(float, spread)))
            for (at, _), means, spread in zip(values, predicted.mean(axis=1), spreads, strict=True)
        )
        made.append(Dependence(feature.name, tuple(points), few))
    return tuple(made)


def scale(feature: Feature, columns: Any) -> tuple[list[tuple[float | str | None, Any]], int]:
    """Return the points of a feature's scale, each with its matrix columns, and how many values have too few rows.

    columns: [n, columns of the feature].
    """
    import numpy as np

    if feature.type == "category":
        counts = columns.sum(axis=0)
        told = [place for place, count in enumerate(counts) if count >= LEAST_POINT]
        found: list[tuple[float | str | None, Any]] = [
            (feature.values[place], (np.arange(len(feature.values)) == place).astype(np.float32))
            for place in sorted(told, key=lambda place: -counts[place])[:POINTS]
        ]
        none = np.zeros(len(feature.values), np.float32)
        missing = int((columns.sum(axis=1) == 0).sum())
        few = int(((counts > 0) & (counts < LEAST_POINT)).sum()) + max(0, len(told) - POINTS)
    else:
        values = columns[:, 0]
        told_numbers, few = _numbers(values[np.isfinite(values)])
        names = {0.0: "false", 1.0: "true"} if feature.type == "boolean" else {}
        found = [(names.get(number, number), np.array([number], np.float32)) for number in told_numbers]
        none, missing = np.array([np.nan], np.float32), int(np.isnan(values).sum())
    return [*found, *([(None, none)] if missing >= LEAST_POINT else [])], few


def _numbers(values: Any) -> tuple[list[float], int]:
    """Return the points of a scale of numbers, and how many of a few distinct values have too few rows."""
    import numpy as np

    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= POINTS:
        many = counts >= LEAST_POINT
        return [float(value) for value in distinct[many]], int((~many).sum())
    inner = np.sort(values)[LEAST_POINT:-LEAST_POINT].astype(np.float64)
    if (parts := min(POINTS, len(inner) // LEAST_POINT)) < 2:
        return [], 0
    means = {float(f"{part.mean():.3g}") for part in np.array_split(inner, parts)}
    return sorted(means), 0
