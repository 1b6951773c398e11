"""Guess a source's dialect from columns of text: decimal mark, thousands separator, form of dates, local times.

A guess that another dialect fits as well is not certain, and a draft marks it for a person to decide.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

from rempart.ingestion.parsing import instants, numbers
from rempart.settings.sources import DateFormat, Dialect

_MARKS = ((".", ""), (",", ""), (",", "."), (",", " "), (",", "'"), (".", ","), (".", " "), (".", "'"))
"""Decimal marks and thousands separators, likeliest first."""
_FORMS: tuple[DateFormat, ...] = tuple(form for form in get_args(DateFormat) if form != "YYYYMMDD")
"""Forms that are recognised. Eight digits without a mark are a number."""
Time = Literal["date", "timestamp"]


@dataclass(frozen=True)
class Guess:
    """A dialect, and the keys of it that another dialect fits as well."""

    dialect: Dialect
    uncertain: Collection[str] = ()


def guess(columns: Iterable[Collection[str]], base: Dialect) -> Guess:
    """Return the dialect in which most columns (their distinct values that are not null) are numbers and times."""
    known = [values for values in columns if values]
    uncertain: list[str] = []
    fits = {marks: sum(_all_numbers(values, *marks) for values in known) for marks in _MARKS}
    best = max(fits, key=lambda marks: fits[marks])
    if best != _MARKS[0] and any(fits[marks] == fits[best] and marks[0] != best[0] for marks in _MARKS):
        uncertain += ["decimal", "thousands"]
    times = {form: sum(_time_in(values, form) is not None for values in known) for form in _FORMS}
    form = max(times, key=lambda form: times[form])
    if times[form] and any(times[other] == times[form] and not _alike(form, other) for other in _FORMS):
        uncertain.append("dates")
    dialect = base.model_copy(update={"decimal": best[0], "thousands": best[1], "dates": form})
    if any(time_in(values, dialect) == "timestamp" and not all(map(_has_offset, values)) for values in known):
        dialect = dialect.model_copy(update={"time_zone": "UTC"})
        uncertain.append("time_zone")
    return Guess(dialect, uncertain)


def time_in(values: Collection[str], dialect: Dialect) -> Time | None:
    """Return whether all values are dates, or all timestamps, of the dialect; else None."""
    return _time_in(values, dialect.dates)


def is_value(text: str) -> bool:
    """Return whether a text is a number, a date or a timestamp of any dialect."""
    return (
        _all_numbers([text], ".", "")
        or any(_all_numbers([text], *marks) for marks in _MARKS)
        or any(_time_in([text], form) for form in _FORMS)
    )


def day(text: str, dialect: Dialect) -> date | None:
    """Return the day of a date or timestamp (in UTC), or None."""
    if found := re.fullmatch(instants.date_pattern(dialect.dates), text):
        return _date(found.groupdict())
    instant = instants.instant(text, dialect)
    return None if isinstance(instant, str) else instant.date()


def _all_numbers(values: Collection[str], decimal: str, thousands: str) -> bool:
    known = re.compile(numbers.pattern(decimal, thousands)[1:-1])
    return all(known.fullmatch(value) for value in values)


def _time_in(values: Collection[str], form: DateFormat) -> Time | None:
    kinds: tuple[tuple[Time, str], ...] = (
        ("date", instants.date_pattern(form)),
        ("timestamp", instants.instant_pattern(form)),
    )
    for kind, pattern in kinds:
        known = re.compile(pattern)
        if values and all((found := known.fullmatch(value)) and _date(found.groupdict()) for value in values):
            return kind
    return None


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
