"""Compare a model that was trained again with the recorded one. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 1e-6
"""Relative difference of a figure that counts as none, unless a person names another."""
_TINY = 1e-9
"""Absolute difference that always counts as none: a figure near 0 has no useful relative one."""


@dataclass(frozen=True)
class RepeatedFigure:
    """One figure as it is on record, and as it is now; None where one of the two lacks it."""

    name: str
    recorded: float | None
    again: float | None
    tolerance: float

    @property
    def same(self) -> bool:
        """Return whether both are finite and within the tolerance. What one side lacks is not the same."""
        if self.recorded is None or self.again is None:
            return False
        if not (math.isfinite(self.recorded) and math.isfinite(self.again)):
            return False
        largest = max(abs(self.recorded), abs(self.again))
        return abs(self.recorded - self.again) <= max(self.tolerance * largest, _TINY)


@dataclass(frozen=True)
class Reproduction:
    """A version of a model, trained again.

    `record_seq`: its evidence; `code` and `recorded_code`: of the trainer, now and then; `sha256` and
    `recorded_sha256`: of model.onnx.
    """

    model: str
    version: str
    record_seq: int
    figures: tuple[RepeatedFigure, ...]
    code: str
    recorded_code: str
    sha256: str
    recorded_sha256: str
    seconds: float

    @property
    def identical(self) -> bool:
        """Return whether the two models are the same bytes."""
        return self.sha256 == self.recorded_sha256

    @property
    def same_code(self) -> bool:
        return self.code == self.recorded_code

    @property
    def reproduced(self) -> bool:
        """Return whether there are figures, and each is the recorded one."""
        return bool(self.figures) and all(figure.same for figure in self.figures)


def figures(
    recorded: Mapping[str, float], again: Mapping[str, float], tolerance: float = TOLERANCE
) -> tuple[RepeatedFigure, ...]:
    """Return each figure of both, by name."""
    names = sorted({*recorded, *again})
    return tuple(RepeatedFigure(name, recorded.get(name), again.get(name), tolerance) for name in names)
