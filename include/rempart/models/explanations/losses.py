"""Error of each row, and predictions of many matrices in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rempart.models.encoding import Feature

BATCH = 16 << 20
"""Bytes of stacked matrices that are predicted in one run."""
_SMALLEST = 1e-15

Predict = Callable[[Any], Any]
"""From a float32 matrix [n, matrix columns] to predictions [n], or probabilities [n, classes]."""


def losses(task: str, truth: Any, predicted: Any) -> Any:
    """Return each row's absolute error, or its log loss (nats) for a classification: [n].

    truth: [n], the position of the class for a classification; predicted: [n] or [n, classes].
    """
    import numpy as np

    if task == "regression":
        return np.abs(predicted - truth)
    chosen = predicted[np.arange(len(truth)), truth.astype(int)]
    return -np.log(np.clip(chosen, _SMALLEST, 1.0))


def blocks(features: Sequence[Feature]) -> tuple[slice, ...]:
    """Return the matrix columns of each feature: those of a category stay together."""
    found, start = list[slice](), 0
    for feature in features:
        stop = start + len(feature.columns())
        found.append(slice(start, stop))
        start = stop
    return tuple(found)


def predicted_stacks(predict: Predict, matrices: Iterator[Any]) -> Iterator[Any]:
    """Yield the predictions of each matrix, all of one shape. Many are predicted in one run, of at most BATCH bytes."""
    import numpy as np

    waiting, size = list[Any](), 0
    for matrix in matrices:
        waiting.append(matrix)
        size += matrix.nbytes
        if size + matrix.nbytes > BATCH:
            yield from np.split(predict(np.concatenate(waiting)), len(waiting))
            waiting, size = [], 0
    if waiting:
        yield from np.split(predict(np.concatenate(waiting)), len(waiting))
