"""Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019): how much worse a model is without a feature.

A feature's columns are shuffled among the rows, those of a category together. Two features that say the same share
their importance: the model reads the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rempart.models.encoding import Feature
from rempart.models.explanations.figures import Importance
from rempart.models.explanations.losses import Predict, blocks, losses, predicted_stacks

SAMPLE, REPEATS = 1000, 5
FEWEST, THRICE = 100, 3
BUDGET = 75_000
"""Rows predicted for all features and repeats. Many features get three repeats, then fewer rows (at least 100)."""


@dataclass(frozen=True)
class Shuffled:
    """Losses of sampled rows. `chosen`: their positions; `usual`: [rows]; `shuffled`: [features, repeats, rows]."""

    chosen: Any
    usual: Any
    shuffled: Any


def shuffled_losses(
    predict: Predict, features: Sequence[Feature], matrix: Any, truth: Any, task: str, seed: int
) -> Shuffled:
    """Return the losses of a sample of rows, as they are and with each feature shuffled.

    matrix: float32 [n, matrix columns]; truth: [n]. The same seed gives the same numbers.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    wide = max(1, len(features))
    rows = min(len(matrix), SAMPLE)
    repeats = max(THRICE, min(REPEATS, BUDGET // (wide * max(1, rows))))
    rows = min(rows, max(FEWEST, BUDGET // (wide * repeats)))
    chosen = random.permutation(len(matrix))[:rows]
    some, told = matrix[chosen], truth[chosen]

    def copies() -> Any:
        for block in blocks(features):
            for _ in range(repeats):
                copy = some.copy()
                copy[:, block] = some[random.permutation(rows), block]
                yield copy

    found = [losses(task, told, predicted) for predicted in predicted_stacks(predict, copies())]
    return Shuffled(
        chosen, losses(task, told, predict(some)), np.reshape(np.array(found), (len(features), repeats, rows))
    )


def importance(features: Sequence[Feature], of: Shuffled) -> tuple[Importance, ...]:
    """Return the importance of each feature, the highest first."""
    rises = (of.shuffled - of.usual).mean(axis=2)
    found = [
        Importance(feature.name, float(each.mean()), float(each.std(ddof=1)))
        for feature, each in zip(features, rises, strict=True)
    ]
    return tuple(sorted(found, key=lambda each: (-each.rise, each.feature)))
