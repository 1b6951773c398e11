"""Define `trainer.search`: ranges of the trainer's parameters, and the limits of their search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rempart.canonical_json import LARGEST
from rempart.settings.columns import Name
from rempart.settings.schema import Duration, Strict

MOST_TRIALS, MOST_GENERATIONS = 1000, 100
Pruner = Literal["median", "none"]


class ParameterRange(Strict):
    """Values that a search may give to a parameter: numbers from `low` to `high`, or one of `choose`."""

    low: int | float | None = Field(default=None, description="Smallest number. It is included.")
    high: int | float | None = Field(default=None, description="Largest number. It is included.")
    log: bool = Field(
        default=False,
        description="Whether factors count instead of differences: from 0.01 to 0.1 is as far as from 0.1 to 1.",
    )
    choose: list[float | int | str | bool] | None = Field(
        default=None, min_length=2, max_length=50, description="Values of which one is taken."
    )

    @model_validator(mode="after")
    def _one_of(self) -> ParameterRange:
        if self.choose is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either `low` and `high`, or `choose`")
            if not all(_is_told(value) for value in self.choose):
                raise ValueError("each number of `choose` must be finite, and a whole one at most 2^53 - 1")
            if len({*self.choose}) < len(self.choose):  # 1, 1.0 and true are equal
                raise ValueError("`choose` names a value twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give `low` and `high` (numbers), or `choose` (a list of values)")
        if not (_is_told(self.low) and _is_told(self.high) and math.isfinite(float(self.high) - float(self.low))):
            raise ValueError("both numbers and their distance must be finite, and whole ones at most 2^53 - 1")
        if not self.low < self.high:
            raise ValueError("`low` must be smaller than `high`")
        if self.log and self.low <= 0:
            raise ValueError("with `log: true` the numbers are factors, so `low` must be above 0")
        return self


def _is_told(value: float | str) -> bool:
    """Return whether a job's order can hold a value: JSON has no NaN, and no exact whole number of any size."""
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return isinstance(value, str) or math.isfinite(value)


class ParameterSearch(Strict):
    """A search for parameters of the trainer: trials of different values, measured on the validation part.

    `search_<pipeline>` runs it when you start it. It trains the candidate with the best parameters that it finds. The
    hold-out stays closed for the trials.
    """

    params: dict[Name, ParameterRange] = Field(
        min_length=1,
        max_length=30,
        description="Parameters to search, by name. Parameters that stay as they are go into `trainer.params`.",
    )
    trials: int = Field(default=30, ge=1, le=MOST_TRIALS, description="Number of trials. Each trains one model.")
    at_once: int = Field(
        default=4,
        ge=1,
        le=64,
        description=(
            "Trials of one generation: they run at the same time, and the next generation learns from all before it."
        ),
    )
    time: Duration = Field(
        default="1h", validate_default=True, description="Time after which no further generation starts."
    )
    pruner: Pruner = Field(
        default="median",
        description=(
            "`median` ends a trial of boosted trees whose loss on the validation part is worse than the median of "
            "earlier trials at the same iteration; `none` trains each to its end."
        ),
    )
    gpu_hours: float | None = Field(
        default=None,
        gt=0,
        description=(
            "GPU hours that the trials may take together: no more trials start than fit at the mean cost so far. The "
            "first generation always starts. Trials on this machine count none."
        ),
    )

    @property
    def generations(self) -> int:
        return -(-self.trials // self.at_once)

    def trials_of(self, generation: int) -> int:
        """Return the number of trials of a generation, from 1; the last one may have fewer."""
        return max(0, min(self.at_once, self.trials - (generation - 1) * self.at_once))

    @model_validator(mode="after")
    def _some_generations(self) -> ParameterSearch:
        if self.generations > MOST_GENERATIONS:
            raise ValueError(
                f"{self.trials} trials, {self.at_once} at once, are {self.generations} generations, but at most "
                f"{MOST_GENERATIONS} are possible; raise `at_once`"
            )
        if not self.time:
            raise ValueError("`time` must be longer than nothing, such as 1h")
        return self

    def faults(self, params: Mapping[str, Any], *, validated: bool, nodes: int) -> Iterator[str]:
        """Yield what does not go with the rest of the file. `params`: those of the trainer that stay as they are."""
        if not validated:
            yield (
                "trainer.search: trials are measured on the validation part, but the file has no `validation`; add it, "
                "such as `validation: {last: 60d}`"
            )
        if nodes > 1:
            yield f"trainer.search: trials run on one node, but trainer.nodes is {nodes}; remove one of the two"
        for name in self.params:
            if name in params:
                yield f"trainer.search.params.{name}: it stands in trainer.params, too; remove it from one of them"
