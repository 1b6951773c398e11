"""What a candidate shows at the gate, as frozen figures: the only input of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rempart.models.gates.resampling import Samples


@dataclass(frozen=True)
class Subgroup:
    """Held-out rows with the same values in some columns. `value`: None where there are too few rows to measure."""

    columns: tuple[str, ...]
    values: tuple[str, ...]
    rows: int
    value: float | None

    @property
    def name(self) -> str:
        return ", ".join(f"{column}={value}" for column, value in zip(self.columns, self.values, strict=True))


@dataclass(frozen=True)
class Band:
    """Rows with about the same chance of a class: their number, the mean chance, and the share that came true."""

    of: str
    rows: int
    chance: float
    share: float


@dataclass(frozen=True)
class Reads:
    """What a model reads: features as `view__feature`, and the columns of the schema of which they are made.

    `unknown`: features whose columns nobody can tell.
    """

    features: frozenset[str]
    columns: Mapping[str, frozenset[str]]
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CandidateFigures:
    """Figures of a candidate. Metrics are of the held-out rows, by name; `champion`: None if there is none.

    `baseline`: also as `overall_<metric>`, of the mean of all rows. `samples`: metrics of `candidate`, `baseline`,
    `overall` and `champion` on the same resamples. `subgroups`: by the number of
    the rule among all rules, or why they could not be measured. `size`: bytes of the model's file. `latency`: seconds.
    `changes`: mean change of a prediction, by the noise. `reads`: None where nobody asked. `told_alone`: the share of
    the target that each feature tells alone; None of few rows. A figure that is missing is unknown, and refuses.
    """

    candidate: Mapping[str, float]
    baseline: Mapping[str, float]
    champion: Mapping[str, float] | None = None
    target: str = ""
    samples: Samples = field(default_factory=dict)
    subgroups: Mapping[int, tuple[Subgroup, ...] | str] = field(default_factory=dict)
    calibration: tuple[Band, ...] = ()
    size: int | None = None
    latency: float | None = None
    changes: Mapping[float, float] = field(default_factory=dict)
    reads: Reads | None = None
    told_alone: Mapping[str, float] | None = None
