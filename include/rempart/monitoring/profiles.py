"""Profiles: how many rows of each month have which values of a column, on a grid that the reference sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

NO_PERIOD = ""
"""Period of rows without a time."""


@dataclass(frozen=True)
class Column:
    """A column that is watched. `values`: a category's closed list. Booleans are numbers, 0 and 1."""

    name: str
    kind: Literal["number", "category"]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnProfile:
    """Rows of a column by month and bin.

    `edges` of a number: k different quantiles of the reference, in ascending order; its 2k + 1 bins are the values
    below the first edge, equal to it, between it and the second, and so on. The bins of a category are its values in
    order, and at last all other values. `counts`: [periods][bins]. `nulls`: rows without a value, of each period.
    Periods are `YYYY-MM`, in order. No value of a text and no key is in a profile.
    """

    column: Column
    edges: tuple[float, ...]
    periods: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    nulls: tuple[int, ...]

    @property
    def bins(self) -> int:
        return 2 * len(self.edges) + 1 if self.column.kind == "number" else len(self.column.values) + 1

    def of(self, periods: Sequence[str]) -> ColumnProfile:
        """Return the profile of some periods."""
        places = [place for place, period in enumerate(self.periods) if period in periods]
        return replace(
            self,
            periods=tuple(self.periods[place] for place in places),
            counts=tuple(self.counts[place] for place in places),
            nulls=tuple(self.nulls[place] for place in places),
        )

    def total(self) -> tuple[int, ...]:
        """Return the rows of each bin, of all periods."""
        return tuple(map(sum, zip(*self.counts, strict=True))) if self.counts else (0,) * self.bins

    @property
    def missing(self) -> int:
        return sum(self.nulls)

    @property
    def rows(self) -> int:
        return sum(map(sum, self.counts)) + self.missing


Profile = Mapping[str, ColumnProfile]
"""Profiles by name of the column, in order."""


def season(period: str) -> str:
    """Return the month of the year of a period; of no time, NO_PERIOD."""
    return period[5:]


def references(training: ColumnProfile, window: Sequence[str], least: int) -> tuple[ColumnProfile, ...]:
    """Return what a window may look like: the training data of its season, and that just before it.

    `window`: its periods, which never count as their own reference. The season: the same months of other years; all of
    the training data if these have fewer than `least` rows. Just before: as many periods as the window has, if they
    have so many rows.
    """
    others = [period for period in training.periods if period == NO_PERIOD or period not in window]
    seasons = {season(period) for period in window}
    same = training.of([period for period in others if season(period) in seasons])
    earlier = [period for period in others if period < min(window, default="")][-len(window) :]
    just_before = training.of(earlier)
    found = [same if same.rows >= least else training.of(others)]
    return (*found, just_before) if just_before.rows >= least else tuple(found)
