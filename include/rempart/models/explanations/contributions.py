"""Contributions of a row's features to its prediction: Shapley values, sampled against rows of the training set.

From a training row, the features take the explained row's values one after the other, in a random order and in the
reverse one. A feature's contribution is the mean of the steps that it makes (Strumbelj and Kononenko 2014). The steps
of one order add up to the difference of both predictions, so contributions and reference add up to the prediction,
however few orders are sampled; what varies with them is how the difference is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rempart.models.encoding import Feature
from rempart.models.explanations.losses import Predict, blocks, predicted_stacks

REFERENCES, FEWEST = 100, 10
BUDGET = 100_000
"""Rows predicted for one explanation. Many features get fewer training rows as reference, at least FEWEST."""
TOLERANCE = 1e-5
"""Relative difference that counts as none: ONNX Runtime calculates in float32, and rounds by the rows of a batch."""


@dataclass(frozen=True)
class Contribution:
    """Part of a feature in a prediction, in the unit of the prediction. `spread`: standard error of the sampling."""

    feature: str
    part: float
    spread: float


@dataclass(frozen=True)
class Contributions:
    """A prediction as `reference` (mean prediction of `rows` training rows) and contributions, the largest first."""

    prediction: float
    reference: float
    rows: int
    contributions: tuple[Contribution, ...]

    @property
    def difference(self) -> float:
        """Return the prediction less the reference and all contributions: rounding alone."""
        return self.prediction - self.reference - sum(each.part for each in self.contributions)

    @property
    def adds_up(self) -> bool:
        """Return whether the difference is rounding alone."""
        largest = max(abs(self.prediction), abs(self.reference), *(abs(each.part) for each in self.contributions), 1e-6)
        return abs(self.difference) <= TOLERANCE * largest * max(1, len(self.contributions))


def references(features: int, rows: int) -> int:
    """Return how many of so many training rows an explanation uses."""
    return min(rows, REFERENCES, max(FEWEST, BUDGET // (2 * (features + 1))))


def contributions(
    predict: Predict, features: Sequence[Feature], row: Any, training: Any, seed: int, output: int | None = None
) -> Contributions:
    """Return the contributions of a row's features.

    row: float32 [matrix columns]; training: float32 [n, matrix columns], n >= 1; output: position of a class, None for
    a regression. The same seed gives the same numbers.
    """
    import numpy as np

    random, count = np.random.default_rng(seed), len(features)
    used = training[random.permutation(len(training))[: references(count, len(training))]]
    feature_of = np.repeat(np.arange(count), [block.stop - block.start for block in blocks(features)])
    orders = [order for _ in used for order in _both_ways(random.permutation(count))]

    def chains() -> Iterator[Any]:
        for place, order in enumerate(orders):
            rank = np.empty(count, int)
            rank[order] = np.arange(count)
            taken = rank[feature_of][None, :] < np.arange(count + 1)[:, None]
            yield np.where(taken, row[None, :], used[place // 2][None, :]).astype(np.float32)

    def figure(predicted: Any) -> Any:
        return predicted if output is None else predicted[:, output]

    parts = np.zeros((len(orders), count))
    starts = np.zeros(len(orders))
    for place, predicted in enumerate(predicted_stacks(predict, chains())):
        figures = figure(predicted)
        parts[place, orders[place]], starts[place] = np.diff(figures), figures[0]
    # both orders of a training row are one draw
    draws = parts.reshape(len(used), 2, count).mean(axis=1)
    spreads = draws.std(axis=0, ddof=1) / np.sqrt(len(used)) if len(used) > 1 else np.zeros(count)
    found = [
        Contribution(feature.name, float(part), float(spread))
        for feature, part, spread in zip(features, parts.mean(axis=0), spreads, strict=True)
    ]
    prediction = float(figure(predict(row[None, :].astype(np.float32)))[0])
    ordered = tuple(sorted(found, key=lambda each: (-abs(each.part), each.feature)))
    return Contributions(prediction, float(starts.mean()), len(used), ordered)


def _both_ways(order: Any) -> tuple[Any, Any]:
    return order, order[::-1]
