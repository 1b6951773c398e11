"""Local times become instants, and those that a change of clocks makes uncertain are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion.parsing.instants import ABSENT, ABSENT_TIME, NO_ZONE, UNCERTAIN, instant
from rempart.settings.sources import Dialect

ZONES = ["UTC", "Europe/Berlin", "Europe/Lisbon", "Europe/Dublin", "America/Sao_Paulo", "Australia/Lord_Howe",
         "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca"]  # fmt: skip
BERLIN = Dialect(time_zone="Europe/Berlin")
INSTANTS = st.datetimes(datetime(1900, 1, 3), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc] # year, month, day, hour, minute


@pytest.mark.parametrize(
    ("text", "dialect", "meant"),
    [
        ("2025-01-15 12:00", BERLIN, utc(2025, 1, 15, 11, 0)),
        ("2025-07-15T12:00:30.5", BERLIN, utc(2025, 7, 15, 10, 0, 30, 500000)),
        ("2025-03-30 01:59", BERLIN, utc(2025, 3, 30, 0, 59)),
        ("2025-03-30 03:00", BERLIN, utc(2025, 3, 30, 1, 0)),
        ("2025-10-26 01:59", BERLIN, utc(2025, 10, 25, 23, 59)),
        ("2025-10-26 03:00", BERLIN, utc(2025, 10, 26, 2, 0)),
        ("2025-10-26 02:30+02:00", BERLIN, utc(2025, 10, 26, 0, 30)),
        ("2025-10-26 02:30 +0100", BERLIN, utc(2025, 10, 26, 1, 30)),
        ("2025-03-30 02:30Z", BERLIN, utc(2025, 3, 30, 2, 30)),
        ("30.03.2025 14:05", Dialect(dates="DD.MM.YYYY", time_zone="Europe/Berlin"), utc(2025, 3, 30, 12, 5)),
        ("3.4.2025 14:05", Dialect(dates="D.M.YYYY", time_zone="UTC"), utc(2025, 4, 3, 14, 5)),
        ("03/04/2025 14:05", Dialect(dates="MM/DD/YYYY", time_zone="UTC"), utc(2025, 3, 4, 14, 5)),
    ],
)
def test_a_timestamp_is_an_instant(text: str, dialect: Dialect, meant: datetime) -> None:
    assert instant(text, dialect) == meant


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2025-03-30 02:00", UNCERTAIN["missing"]),
        ("2025-03-30 02:59:59.999999", UNCERTAIN["missing"]),
        ("2025-10-26 02:00", UNCERTAIN["ambiguous"]),
        ("2025-10-26 02:59:59", UNCERTAIN["ambiguous"]),
        ("2025-02-29 12:00", ABSENT),
        ("2025-02-28 24:00", ABSENT_TIME),
        ("2025-02-28 12:00:60", ABSENT_TIME),
        ("2025-02-28 12:00+25:00", ABSENT_TIME),
        ("0001-01-01 00:00", UNCERTAIN["out of range"]),
        ("9999-12-31 23:30-01:00", UNCERTAIN["out of range"]),
    ],
)
def test_an_uncertain_or_impossible_time_is_refused(text: str, reason: str) -> None:
    assert instant(text, BERLIN) == reason


@pytest.mark.parametrize(
    "text",
    ["2025-03-30", "30.03.2025 12:00", "2025-03-30 12", "25-03-30 12:00", "2025-03-30  12:00", "٢٠٢٥-03-30 12:00"],
)
def test_another_form_is_refused(text: str) -> None:
    assert instant(text, BERLIN) == "not a timestamp written YYYY-MM-DD HH:MM[:SS]"


def test_without_a_zone_each_timestamp_needs_an_offset() -> None:
    assert instant("2025-01-15 12:00", Dialect()) == NO_ZONE
    assert instant("2025-01-15 12:00+01:00", Dialect()) == utc(2025, 1, 15, 11, 0)


@settings(max_examples=200)
@given(INSTANTS, st.sampled_from(ZONES))
def test_a_local_time_gives_its_instant_back_or_is_refused_as_ambiguous(moment: datetime, zone: str) -> None:
    local = moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    read = instant(local.isoformat(), Dialect(time_zone=zone))
    assert read in (moment, UNCERTAIN["ambiguous"])
    if read != moment:  # the same clock time shows two instants
        rules = ZoneInfo(zone)
        assert local.replace(tzinfo=rules, fold=0).utcoffset() != local.replace(tzinfo=rules, fold=1).utcoffset()


@settings(max_examples=200)
@given(INSTANTS, st.integers(-14 * 60, 14 * 60), st.sampled_from(ZONES))
def test_an_offset_decides_whatever_the_zone(moment: datetime, minutes: int, zone: str) -> None:
    local = (moment + timedelta(minutes=minutes)).replace(tzinfo=None)
    offset = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    assert instant(local.isoformat() + offset, Dialect(time_zone=zone)) == moment


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [1996, 2007, 2011, 2018, 2025])
def test_every_hour_of_a_year_is_read_or_refused_as_clocks_showed_it(zone: str, year: int) -> None:
    """Walk a year in UTC: each local quarter shown once is read, one shown twice is ambiguous, the rest is missing."""
    rules, step, shown = ZoneInfo(zone), timedelta(minutes=30), dict[datetime, list[datetime]]()
    start = datetime(year, 1, 1, tzinfo=UTC)
    for n in range(-48, 366 * 48 + 48):
        at = start + n * step
        shown.setdefault(at.astimezone(rules).replace(tzinfo=None, fold=0), []).append(at)
    first = datetime.combine(date(year, 1, 1), datetime.min.time())
    dialect = Dialect(time_zone=zone)
    if min(shown).minute % 30:  # such as Kathmandu: quarters
        first += timedelta(minutes=15)
    for n in range(365 * 48):
        local = first + n * step
        known = shown.get(local, [])
        expected = known[0] if len(known) == 1 else UNCERTAIN["ambiguous" if known else "missing"]
        assert instant(local.isoformat(), dialect) == expected
