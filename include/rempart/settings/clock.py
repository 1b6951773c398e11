"""Clock time: names of time zones, local times that are ambiguous or missing, and offsets such as `2 days 3 hours`.

Pure. A local time is never guessed: where clocks are set back it exists twice, where they are set forward it is
missing, and `resolve` says so (PEP 495).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

Uncertain = Literal["missing", "ambiguous", "out of range"]
"""Why a local time is no instant: clocks skipped it, clocks showed it twice, or its year is not 1 to 9999 in UTC."""

FIRST_DAY, LAST_DAY = (day.toordinal() - date(1970, 1, 1).toordinal() for day in (date.min, date.max))
"""Days since 1970 of the first and of the last day of the calendar: of the years 1 and 9999."""

_NAME = re.compile(r"UTC|[A-Z][A-Za-z_]+(/[A-Za-z0-9_+\-]+){1,2}")
_UNITS = {"day": 86400, "hour": 3600, "minute": 60}
_OFFSET = re.compile(r"(?:(\d{1,5}) days?)? ?(?:(\d{1,5}) hours?)? ?(?:(\d{1,5}) minutes?)?")


def zone_name(name: str) -> str:
    """Return the name of a time zone. Raises ValueError for an unknown name or an abbreviation."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name[:40]}' is not the name of a time zone: write UTC, or one such as Europe/Berlin")
    try:
        ZoneInfo(name)
    except (OSError, ValueError) as cause:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"the time zone '{name[:40]}' cannot be read") from cause
    except KeyError as cause:
        raise ValueError(f"there is no time zone '{name[:40]}': write one such as Europe/Berlin") from cause
    return name


def parse_offset(value: object) -> timedelta:
    """Parse `2 days 3 hours 15 minutes`, largest unit first. Raises ValueError for anything else, and for nothing."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and value and value == value.strip() and (matched := _OFFSET.fullmatch(value)):
        numbers = [int(number or 0) for number in matched.groups()]
        return timedelta(seconds=sum(n * size for n, size in zip(numbers, _UNITS.values(), strict=True)))
    raise ValueError("write an offset as days, hours and minutes in this order, such as `2 days 3 hours`")


def written_offset(offset: timedelta) -> str:
    """Return an offset as `parse_offset` reads it, such as `2 days 3 hours`. What is less than a minute is left out."""
    rest, parts = int(offset.total_seconds()), list[str]()
    for unit, size in _UNITS.items():
        number = min(rest // size, 99_999)
        rest -= number * size
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts) or "0 minutes"


TimeZone = Annotated[str, AfterValidator(zone_name)]
Offset = Annotated[
    timedelta,
    BeforeValidator(parse_offset),
    PlainSerializer(written_offset, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d+ (day|hour|minute)s?( \d+ (hour|minute)s?){0,2}$"}),
]


def resolve(local: datetime, zone: ZoneInfo) -> datetime | Uncertain:
    """Return the instant (UTC) of a local time without an offset, or why there is none."""
    first, second = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None and second is not None  # noqa: S101 - a ZoneInfo always has an offset
    if first != second:
        return "missing" if first < second else "ambiguous"
    try:
        return (local - first).replace(tzinfo=UTC)
    except OverflowError:
        return "out of range"


@lru_cache(maxsize=64)
def uncertain_day(clock: time, zone: str, first: int = 1970, last: int = 2100) -> date | None:
    """Return the first day, from one year to another, on which a clock time is missing or exists twice; else None."""
    rules = ZoneInfo(zone)
    local = datetime.combine(date(first, 1, 1), clock)
    while local.year < last:
        if resolve(local, rules) in ("missing", "ambiguous"):
            return local.date()
        local += timedelta(days=1)
    return None
