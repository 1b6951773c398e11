"""Guess a source's dialect from columns of text: decimal mark, thousands separator, form of dates, local times.

A guess that another dialect fits as well is not certain, and a draft marks it for a person to decide. A few cells of a
column may be broken: ingestion refuses their rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from rempart.ingestion.parsing import instants, numbers
from rempart.settings.sources import DateFormat, Dialect

_MARKS = ((".", ""), (",", ""), (",", "."), (",", " "), (",", "'"), (".", ","), (".", " "), (".", "'"))
"""Decimal marks and thousands separators, likeliest first."""
_FORMS: tuple[DateFormat, ...] = tuple(form for form in get_args(DateFormat) if form != "YYYYMMDD")
"""Forms that are recognised. Eight digits without a mark are a number."""
_FEW = 0.05
Time = Literal["date", "timestamp"]
Cells = Mapping[str, int]
"""Distinct values of a column that are not null, and how many cells have each."""


_KINDS: Mapping[Time, Callable[[str], str]] = {"date": instants.date_pattern, "timestamp": instants.instant_pattern}


@dataclass(frozen=True)
class Guess:
    """A dialect, and the keys of it that another dialect fits as well."""

    dialect: Dialect
    uncertain: Collection[str] = ()


def few(cells: int, of: int) -> bool:
    """Return whether so many cells of a column are few enough to be faults in some rows. Pure."""
    return cells <= _FEW * of


def fitting(cells: Cells, fits: Callable[[str], bool]) -> int:
    """Return how many cells fit, if all but a few do; else 0. Pure."""
    total, others = sum(cells.values()), 0
    for value, count in cells.items():
        if not fits(value):
            others += count
            if not few(others, total):
                return 0
    return total - others


def guess(columns: Iterable[Cells], base: Dialect) -> Guess:
    """Return the dialect in which most columns, and of these most cells, are numbers and times. Pure."""
    known = [cells for cells in columns if cells]
    uncertain: list[str] = []
    fits = {marks: _score(fitting(cells, _is_number(*marks)) for cells in known) for marks in _MARKS}
    best = max(fits, key=lambda marks: fits[marks])
    if best != _MARKS[0] and any(fits[marks] == fits[best] and marks[0] != best[0] for marks in _MARKS):
        uncertain += ["decimal", "thousands"]
    times = {form: _score(max(_times(cells, form).values()) for cells in known) for form in _FORMS}
    form = max(times, key=lambda form: times[form])
    if any(times[form]) and any(times[other] == times[form] and not _alike(form, other) for other in _FORMS):
        uncertain.append("dates")
    dialect = base.model_copy(update={"decimal": best[0], "thousands": best[1], "dates": form})
    instant = _is_time("timestamp", form)
    if any(fitting(cells, instant) and any(instant(c) and not _has_offset(c) for c in cells) for cells in known):
        dialect = dialect.model_copy(update={"time_zone": "UTC"})
        uncertain.append("time_zone")
    return Guess(dialect, uncertain)


def time_in(cells: Cells, dialect: Dialect) -> tuple[Time, int] | None:
    """Return whether a column has dates or timestamps of the dialect, and how many cells fit. Pure.

    None if more than a few cells are something else.
    """
    for kind, count in _times(cells, dialect.dates).items():
        if count:
            return kind, count
    return None


def other_form(cells: Cells, kind: Time, dialect: Dialect) -> tuple[DateFormat, int]:
    """Return another form in which most of the other cells are written, and how many are; 0 if none is. Pure."""
    fits = _is_time(kind, dialect.dates)
    others = {value: count for value, count in cells.items() if not fits(value)}
    counts = {form: 0 for form in _FORMS if not _alike(form, dialect.dates)}
    for form in counts:
        fits = _is_time(kind, form)
        counts[form] = sum(count for value, count in others.items() if fits(value))
    return max(counts.items(), key=lambda entry: entry[1])


def is_value(text: str) -> bool:
    """Return whether a text is a number, a date or a timestamp of any dialect."""
    return any(_is_number(*marks)(text) for marks in _MARKS) or any(
        _is_time(kind, form)(text) for form in _FORMS for kind in _KINDS
    )


def day(text: str, dialect: Dialect) -> date | None:
    """Return the day of a date or timestamp (in UTC), or None."""
    if found := re.fullmatch(instants.date_pattern(dialect.dates), text):
        return _date(found.groupdict())
    instant = instants.instant(text, dialect)
    return None if isinstance(instant, str) else instant.date()


def _score(counts: Iterable[int]) -> tuple[int, int]:
    """Return how many columns fit, and how many of their cells."""
    known = [count for count in counts if count]
    return len(known), sum(known)


def _is_number(decimal: str, thousands: str) -> Callable[[str], bool]:
    known = re.compile(numbers.pattern(decimal, thousands)[1:-1])
    return lambda value: known.fullmatch(value) is not None


def _is_time(kind: Time, form: DateFormat) -> Callable[[str], bool]:
    known = re.compile(_KINDS[kind](form))
    return lambda value: bool((found := known.fullmatch(value)) and _date(found.groupdict()))


def _times(cells: Cells, form: DateFormat) -> Mapping[Time, int]:
    """Return how many cells are dates, and how many are timestamps, as `fitting` does."""
    return {kind: fitting(cells, _is_time(kind, form)) for kind in _KINDS}


def _date(parts: Mapping[str, str]) -> date | None:
    try:
        return date(int(parts["y"]), int(parts["m"]), int(parts["d"]))
    except ValueError:
        return None


def _alike(form: str, other: str) -> bool:
    """Return whether two forms read every text that fits both as the same day."""
    return form.replace("DD", "D").replace("MM", "M") == other.replace("DD", "D").replace("MM", "M")


def _has_offset(value: str) -> bool:
    return bool(re.search(r"(Z|[+-][0-9]{2}:?[0-9]{2})\Z", value))
