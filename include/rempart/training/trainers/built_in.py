"""Define the form of a built-in trainer.

Each trainer's module describes itself as one; `trainers.BUILT_IN` lists all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rempart.models.encoding import Feature

FIRST_TOLD = 8
"""A trial of a search tells its loss at this iteration, and then at each that is twice as late."""


@dataclass
class Validation:
    """Rows on which a trainer measures itself while it fits, and from which it learns nothing.

    inputs: float32 [m, k], target: float64 [m], as those to fit on. `chosen`: parameters that the figures on them
    chose, such as the number of iterations; the training on all rows takes them.

    Of a trial of a search, `limits`: by iteration, the loss above which the training ends (None: no such trial). Then
    `losses` has the smallest loss so far at some iterations, and `stopped_at` the iteration that ended it.
    """

    inputs: Any
    target: Any
    chosen: dict[str, Any] = field(default_factory=dict)
    limits: Mapping[int, float] | None = None
    losses: dict[int, float] = field(default_factory=dict)
    stopped_at: int | None = None
    _last: tuple[int, float] | None = None

    def choose(self, **params: bool | int | float | str) -> None:
        """Say with which parameters the model is to be trained on all rows."""
        # NumPy's scalars become Python's, which JSON holds
        self.chosen |= {name: value.item() if hasattr(value, "item") else value for name, value in params.items()}

    @property
    def watched(self) -> bool:
        """Return whether a trainer should measure itself after each iteration, even if it does not stop early."""
        return self.limits is not None

    def hopeless(self, step: int, least: float) -> bool:
        """Note the smallest loss after `step` iterations; return whether the order ends the training here."""
        if self.limits is None or not math.isfinite(least):
            return False
        self._last = (step, float(least))
        if step >= FIRST_TOLD and step & (step - 1) == 0:
            self.losses[step] = float(least)
            if least > self.limits.get(step, math.inf):
                self.stopped_at = step
        return self.stopped_at is not None

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Return the smallest loss so far at some iterations, the last one included."""
        return tuple(sorted({**self.losses, **dict([self._last] if self._last else [])}.items()))


class Patience:
    """Losses of a growing model on the validation part, one an iteration; `best`: the first with the smallest.

    Without `rounds` it does not stop early, and all iterations stay: `best` is the last one.
    """

    def __init__(self, rounds: int | None, validation: Validation) -> None:
        self._rounds, self._validation = rounds, validation
        self._done, self._least = 0, math.inf
        self.best = 1

    def over(self, loss: float) -> bool:
        """Note the loss after one more iteration; return whether the training ends.

        It does where the smallest loss is `rounds` iterations ago, or a search's order ends it.
        """
        self._done += 1
        if loss < self._least:
            self._least, self.best = loss, self._done
        if self._rounds is None:
            self.best = self._done
        hopeless = self._validation.hopeless(self._done, self._least)
        return hopeless or (self._rounds is not None and self._done - self.best >= self._rounds)


@dataclass(frozen=True)
class BuiltIn:
    """A trainer that a pipeline names.

    `fit(inputs, target, params, seed, task, classes, run)` returns a fitted scikit-learn estimator, an ONNX model, or
    an object with `to_onnx()` and `predict(inputs)`. A `fit` with a parameter `validation` gets a `Validation`, or
    None without that part: it may stop early, and `choose`. With a parameter `features` it gets the features that the
    model sees. `check(params, task)` raises TrainingError for a parameter that is unknown, of another type or out of
    range. `schema(task)` returns the JSON Schema of each parameter by name.
    `modules` (files in this folder, by path) and `libraries` determine the model: a job's identity holds their hash and
    their versions.
    """

    fit: Callable[..., Any]
    check: Callable[[Mapping[str, Any], str], None]
    schema: Callable[[str], dict[str, Any]]
    modules: tuple[str, ...]
    libraries: tuple[str, ...]
    shares_work: bool = False
    """Whether several nodes may share one job."""
    check_features: Callable[[Mapping[str, Any], Sequence[Feature], int], object] | None = None
    """Checks parameters that name features, with the number of the target's classes (0: a regression)."""
    needs_torch: bool = False
    """Whether a job runs in the trainer's environment, which has PyTorch."""
