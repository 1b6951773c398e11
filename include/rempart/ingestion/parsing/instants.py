"""Dates in a declared form, and instants: UTC moments of local or offset timestamps. Nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rempart.settings.clock import resolve
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

ABSENT = "this date does not exist in the calendar"
ABSENT_TIME = "this date, time or offset does not exist"
NO_ZONE = "no time zone: declare source.time_zone, or write an offset such as +02:00"
UNCERTAIN = {
    "missing": "this local time does not exist, because clocks were set forward; write an offset such as +02:00",
    "ambiguous": "this local time exists twice, because clocks were set back; write an offset such as +02:00",
    "out of range": "timestamp out of range",
}
_PARTS = {"YYYY": "(?P<y>[0-9]{4})", "MM": "(?P<m>[0-9]{2})", "DD": "(?P<d>[0-9]{2})"}
_SHORT = {"M": "(?P<m>[0-9]{1,2})", "D": "(?P<d>[0-9]{1,2})"}
_CLOCK = (
    r"[T ](?P<H>[0-9]{2}):(?P<M>[0-9]{2})(:(?P<S>[0-9]{2})([.](?P<f>[0-9]{1,6}))?)?"
    r"( ?(?P<o>Z|[+-][0-9]{2}:?[0-9]{2}))?"
)
_FARTHEST = timedelta(hours=15)
"""Offsets beyond it exist in no place."""


@lru_cache(maxsize=32)
def date_pattern(form: str) -> str:
    """Return the pattern of a date form, with groups y, m and d; for Python and for Arrow, without anchors."""
    return "".join(_PARTS.get(part) or _SHORT.get(part) or re.escape(part) for part in re.split(r"([YMD]+)", form))


def instant_pattern(form: str) -> str:
    """Return the pattern of a timestamp whose date has this form, without anchors."""
    return date_pattern(form) + _CLOCK


def dates(text: pa.Array, dialect: Dialect) -> tuple[pa.Array, Any, Any]:
    """Return the dates, where the text has the declared form, and where such a day does not exist."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = re.compile(date_pattern(dialect.dates))
    ok = pc.match_substring_regex(text, f"^{date_pattern(dialect.dates)}$")

    def parse(value: str) -> date | None:
        found = known.fullmatch(value)
        return _day(found) if found else None

    value = _distinct(ok, text, parse, pa.date32())
    return value, ok, pc.and_(ok, pc.is_null(value))


def instants(text: pa.Array, dialect: Dialect) -> tuple[pa.Array, list[tuple[Any, str]]]:
    """Return UTC instants, and pairs of a mask and the reason against these cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = re.compile(instant_pattern(dialect.dates))
    zone = ZoneInfo(dialect.time_zone) if dialect.time_zone else None
    ok = pc.match_substring_regex(text, f"^{instant_pattern(dialect.dates)}$")
    faults: dict[str, str] = {}

    def parse(value: str) -> datetime | None:
        found = known.fullmatch(value)
        instant = _instant(found, zone) if found else ABSENT_TIME
        if isinstance(instant, str):
            faults[value] = instant
            return None
        return instant

    value = _distinct(ok, text, parse, pa.timestamp("us", "UTC"))
    against: list[tuple[Any, str]] = [(pc.invert(ok), f"not a timestamp written {dialect.dates} HH:MM[:SS]")]
    for reason in sorted(set(faults.values())):
        those = pa.array([fault for fault, why in faults.items() if why == reason], pa.string())
        against.append((pc.is_in(text, value_set=those), reason))
    return value, against


def instant(text: str, dialect: Dialect) -> datetime | str:
    """Return the UTC instant in one text, or the reason against it."""
    found = re.fullmatch(instant_pattern(dialect.dates), text)
    if not found:
        return f"not a timestamp written {dialect.dates} HH:MM[:SS]"
    return _instant(found, ZoneInfo(dialect.time_zone) if dialect.time_zone else None)


def _distinct(ok: Any, text: pa.Array, parse: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    """Return what the texts mean; each distinct one is parsed once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.if_else(ok, text, pa.scalar(None, text.type)).dictionary_encode()
    meant = [value and parse(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(meant, kind).take(encoded.indices)


def _day(found: re.Match[str]) -> date | None:
    try:
        return date(int(found["y"]), int(found["m"]), int(found["d"]))
    except ValueError:
        return None


def _instant(found: re.Match[str], zone: ZoneInfo | None) -> datetime | str:
    day = _day(found)
    if day is None:
        return ABSENT
    try:
        second, fraction = int(found["S"] or 0), int((found["f"] or "").ljust(6, "0"))
        local = datetime(day.year, day.month, day.day, int(found["H"]), int(found["M"]), second, fraction)  # noqa: DTZ001 - local
        if found["o"]:
            return (local - _offset(found["o"])).replace(tzinfo=UTC)
    except ValueError:
        return ABSENT_TIME
    except OverflowError:
        return UNCERTAIN["out of range"]
    if zone is None:
        return NO_ZONE
    meant = resolve(local, zone)
    return UNCERTAIN[meant] if isinstance(meant, str) else meant


def _offset(text: str) -> timedelta:
    """Return an offset from UTC, such as +02:00. Raises ValueError for one that no place has."""
    if text == "Z":
        return timedelta()
    minutes = int(text[-2:])
    offset = timedelta(hours=int(text[1:3]), minutes=minutes)
    if offset > _FARTHEST or minutes > 59:
        raise ValueError("no place has this offset")
    return -offset if text[0] == "-" else offset
