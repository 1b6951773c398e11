"""The days of a source's rows without those that stand far from all others, such as a year that was typed wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

LAST_YEAR = 2100
"""Year of the row's time after which a draft accepts no row, unless all rows are later."""
_FAR = timedelta(days=731)
"""A day is odd if it is farther than this, and than the others span together, from those of nearly all rows."""
_ODD = 100
"""At either end, one row of so many may be odd."""
_NEXT_YEARS = 10
"""Years for which a draft accepts later rows, if odd ones come even later."""


@dataclass(frozen=True)
class UsualDays:
    """`days` in order, of which none is odd. `last_year`: of the rows that a draft accepts. `odd`: rows on odd days."""

    days: Sequence[date]
    last_year: int
    odd: int = 0


def usual(rows: Mapping[date, int]) -> UsualDays:
    """Return the usual days of a source. `rows`: by day, at least one. Days after LAST_YEAR count only if all are."""
    days = sorted(day for day in rows if day.year <= LAST_YEAR) or sorted(rows)
    beyond = sum(rows[day] for day in days) // _ODD
    first, last = _inner(days, rows, beyond), _inner(days[::-1], rows, beyond)
    far = max(_FAR, last - first)
    kept = [day for day in days if abs(day - min(max(day, first), last)) <= far]
    later = [day for day in days if day > kept[-1]]
    year = max(LAST_YEAR, kept[-1].year)
    if later:
        year = min(kept[-1].year + _NEXT_YEARS, later[0].year - 1)
    return UsualDays(kept, year, sum(rows[day] for day in days) - sum(rows[day] for day in kept))


def _inner(days: Sequence[date], rows: Mapping[date, int], beyond: int) -> date:
    """Return the first of these days before which there are at most so many rows, and on which there are more."""
    for day in days:
        beyond -= rows[day]
        if beyond < 0:
            return day
    return days[-1]
