"""The restore points that are kept, and folders that are not points."""

import dataclasses
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rempart.backup.points import points, retention
from rempart.backup.points.retention import (
    FLOOR,
    GRACE,
    RetentionPlan,
    begin,
    check_floor,
    folders,
    leftovers,
    needs,
    plan,
)
from rempart.errors import BackupError
from rempart.flows.shared.keys import kept_for
from rempart.settings.retention_rules import Keep, Period
from rempart.sites.port import ObjectInfo

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
OLD, NEW = points.new_id(NOW - timedelta(days=9), "abcdef"), points.new_id(NOW, "abcdef")
LATER = NOW + timedelta(days=2)  # nothing is young then
RULES = tuple(Keep.periods())
HALF_HOUR = timedelta(minutes=30)
keeps = st.builds(
    Keep,
    hourly=st.integers(1, 5),
    daily=st.integers(1, 5),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
)
point_ids = st.lists(st.integers(0, 60 * 24 * 400), unique=True, max_size=40).map(
    lambda minutes: [points.new_id(NOW - timedelta(minutes=m), "abcdef") for m in minutes]
)


@st.composite
def some_of(draw):
    """Points, and a part of them."""
    ids = draw(point_ids)
    return ids, set(draw(st.lists(st.sampled_from(ids), unique=True))) if ids else set()


@given(some_of(), keeps)
def test_the_newest_are_never_pruned_and_nothing_is_forgotten(ids_and_doubtful, keep):
    ids, doubtful = ids_and_doubtful
    made = plan(ids, keep, LATER, doubtful=doubtful)
    ordered = sorted(ids, reverse=True)
    assert set(ordered[:FLOOR]) <= set(made.keep)
    assert set(islice((point for point in ordered if point not in doubtful), 1)) <= set(made.keep)
    assert not set(made.prune) & set(made.keep)
    assert sorted([*made.keep, *made.prune]) == sorted(ids)
    check_floor(made)


@given(some_of(), keeps)
def test_pruning_twice_prunes_nothing_more(ids_and_doubtful, keep):
    ids, doubtful = ids_and_doubtful
    once = plan(ids, keep, LATER, doubtful=doubtful)
    assert plan(once.keep, keep, LATER, doubtful=doubtful).prune == ()


@given(some_of(), keeps)
def test_the_newest_good_point_of_each_kept_day_stays(ids_and_doubtful, keep):
    ids, doubtful = ids_and_doubtful
    days: dict[str, list[str]] = {}
    for point in sorted(ids, reverse=True):
        days.setdefault(point[:8], []).append(point)
    kept = plan(ids, keep, LATER, doubtful=doubtful).keep
    for of_day in islice(days.values(), keep.daily):
        good = [point for point in of_day if point not in doubtful]
        assert (good or of_day)[0] in kept


@given(some_of(), keeps)
def test_a_held_point_is_kept_and_says_so(ids_and_held, keep):
    ids, held = ids_and_held
    made = plan(ids, keep, LATER, held=held)
    assert {point for point, why in made.keep.items() if "legal hold" in why} == held
    # a hold keeps its point, and takes the place of no other
    assert set(plan(ids, keep, LATER).prune) - held == set(made.prune)


@given(point_ids, keeps)
def test_points_made_after_a_long_pause_prune_only_by_count(ids, keep):
    """Periods are those that have points: a year without backups costs none."""
    later = points.new_id(NOW + timedelta(days=366), "abcdef")
    one_more = Keep(hourly=keep.hourly + 1, daily=keep.daily + 1, weekly=keep.weekly + 1, monthly=keep.monthly + 1)
    kept = {p for p, why in plan(ids, keep, LATER).keep.items() if set(why) & set(RULES)}
    assert kept <= set(plan([*ids, later], one_more, NOW + timedelta(days=366)).keep)


@given(point_ids, keeps)
def test_the_young_are_kept_and_no_rule_counts_them_out(ids, keep):
    made = plan(ids, keep, NOW)
    young = {point for point in ids if NOW - points.created_at(point) < GRACE}
    assert young <= set(made.keep)
    assert set(made.prune) == set(plan(ids, keep, LATER).prune) - young


def test_a_year_of_half_hours_keeps_what_is_asked():
    ids = [points.new_id(NOW - HALF_HOUR * i, "abcdef") for i in range(2 * 24 * 366)]
    kept = plan(ids, Keep(hourly=24, daily=14, weekly=8, monthly=12), NOW).keep
    reasons = [reason for why in kept.values() for reason in why]
    assert {rule: reasons.count(rule) for rule in RULES} == {"hourly": 24, "daily": 14, "weekly": 8, "monthly": 12}


class Expected:
    """Which points may and must be there, kept in books as points come; nothing is taken from the plan under test."""

    def __init__(self, keep: Keep) -> None:
        self.keep, self.ids, self.good = keep, [], None
        self.books: dict[str, dict[object, tuple[str, str | None]]] = {rule: {} for rule in RULES}

    def add(self, point: str, at: datetime, good: bool) -> None:
        self.ids.append((point, at))
        self.good = point if good else self.good
        periods = (at.replace(minute=0), at.date(), at.isocalendar()[:2], (at.year, at.month))
        for rule, period in zip(RULES, periods, strict=True):
            _, before = self.books[rule].get(period, ("", None))
            self.books[rule][period] = (point, point if good else before)

    def at(self, now: datetime) -> set[str]:
        found = {point for point, _ in self.ids[-FLOOR:]} | ({self.good} if self.good else set())
        found |= {point for point, at in self.ids[-10:] if now - at < GRACE}
        for rule in RULES:
            if count := getattr(self.keep, rule):
                found |= {good or newest for newest, good in list(self.books[rule].values())[-count:]}
        return found


@pytest.mark.full
@settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # to shrink takes minutes
@given(
    st.integers(0, 47),
    st.lists(st.tuples(st.integers(0, 35_000), st.integers(1, 6000)), max_size=6),
    st.lists(st.tuples(st.integers(0, 35_000), st.integers(1, 5000)), max_size=6),
    st.builds(
        Keep, hourly=st.integers(1, 48), daily=st.integers(1, 20), weekly=st.integers(0, 9), monthly=st.integers(0, 13)
    ),
)
def test_two_years_of_backups_and_daily_prunes_leave_exactly_what_the_rules_say(hour, pauses, bad_runs, keep):
    """A point each half hour over a leap day and four clock changes, with pauses and with runs of bad points."""
    silent = {half_hour for start, length in pauses for half_hour in range(start, start + length)}
    bad = {half_hour for start, length in bad_runs for half_hour in range(start, start + length)}
    began = datetime(2023, 9, 1, tzinfo=UTC)
    expected, there, doubtful = Expected(keep), [], set()
    for number in range(2 * 366 * 48):
        now = began + HALF_HOUR * number
        if number not in silent:
            point = points.new_id(now, "abcdef")
            there.append(point)
            expected.add(point, now, number not in bad)
            if number in bad:
                doubtful.add(point)
        if number % 48 == hour and there:
            made = plan(there, keep, now, doubtful=doubtful)
            there = sorted(made.keep)
            doubtful &= made.keep.keys()
            assert set(there) == expected.at(now), now


# --- the floor, and what is needed ------------------------------------------------------------------------------------


def test_a_plan_below_the_floor_is_refused():
    ids = [points.new_id(NOW - timedelta(days=i), "abcdef") for i in range(6)]
    with pytest.raises(BackupError, match="at least 3 must"):
        check_floor(RetentionPlan(dict.fromkeys(ids[:2], ("daily",)), tuple(ids[2:])))
    check_floor(RetentionPlan(dict.fromkeys(ids[:2], ("daily",)), ()))


DUMP = {"name": "airflow", "scope": "database-airflow-400d", "serial": "s1", "snapshot": "a1", "tables": {}}
MADE = {
    "champions": {"objects": "7", 'm": "objects":[': "8"},
    "databases": [DUMP],
    "dangling": ["artifacts/x"],
    "format": points.FORMAT,
    "objects": [{"bucket": "lake", "key": f"{number}", "sha256": "e" * 64} for number in range(9000)],
    "source": "primary",
}


@pytest.mark.parametrize("indent", [None, 1])
def test_what_a_point_needs_is_read_without_its_objects(indent):
    body = json.dumps(MADE, indent=indent, sort_keys=True).encode()
    stream = io.BytesIO(body)
    found = needs(begin(stream))
    assert (found.format, found.databases, found.dangling, found.keys) == (points.FORMAT, 1, 1, frozenset())
    assert found.snapshots == {retention.DumpSnapshot("database-airflow-400d", "s1", "a1")}
    assert stream.tell() < len(body) / 2


def test_the_dumps_of_a_manifest_come_before_its_objects():
    """Else `begin` would cut them off."""
    names = sorted(field.name for field in dataclasses.fields(points.Manifest))
    assert max(names.index(name) for name in ("databases", "dangling", "id")) < names.index("objects")
    assert "format" < "objects"


STORED = {
    "kept": points.new_id(NOW - timedelta(days=30), "abcdef"),
    "pruned": points.new_id(NOW - timedelta(days=31), "abcdef"),
    "needed by another": points.new_id(NOW - timedelta(days=32), "abcdef"),
    "of a backup that goes on": points.new_id(NOW - timedelta(hours=1), "abcdef"),
    "of somebody": "no point",
}


def test_a_snapshot_goes_when_no_point_names_it_and_its_backup_cannot_still_be_running():
    standing = {STORED["kept"], points.new_id(NOW, "123456")}
    assert retention.unneeded(STORED, {"needed by another"}, standing) == ("pruned",)
    assert retention.unneeded(STORED, {"needed by another"}, set()) == ()  # no point at all: that is an accident


def test_a_point_of_the_first_format_still_says_what_it_needs():
    body = b'{"format": 1, "databases": [{"name": "a", "key": "k"}], "objects": [1]}'
    assert needs(begin(io.BytesIO(body))).keys == {"k"}


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"7", b"null", b"{}", b'{"format": 1, "databases": [3]}', b'{"format": 99, "databases": []}', b"\xff"],
)
def test_what_cannot_be_read_needs_nobody_knows_what(manifest):
    with pytest.raises(ValueError):  # each with its own message
        needs(begin(io.BytesIO(manifest)))


# --- folders ----------------------------------------------------------------------------------------------------------


def info(key, days=0, size=1, marker=False):
    return ObjectInfo(key, size, NOW - timedelta(days=days), "v", marker=marker)


MANIFEST = info(f"points/{NEW}/manifest.json")


def test_a_folder_is_a_point_while_its_newest_manifest_can_be_read():
    found = folders([info(f"points/{NEW}/a.dump", size=7), MANIFEST, replace(MANIFEST, size=3)])
    assert (found[NEW].bytes, found[NEW].manifest) == (11, "current")


def test_a_manifest_that_somebody_deleted_makes_no_leftover():
    key = f"points/{OLD}/manifest.json"
    found = folders([MANIFEST, info(key, 9, 0, marker=True), info(key, 9)])
    assert found[OLD].manifest == "hidden"
    assert leftovers(found.values()) == ()


def test_a_marker_alone_is_what_a_prune_left():
    found = folders([MANIFEST, info(f"points/{OLD}/manifest.json", 9, 0, marker=True)])
    assert leftovers(found.values()) == (OLD,)


@pytest.mark.parametrize(("days", "expected"), [(0.9, ()), (1.1, (OLD,))])
def test_dumps_without_a_manifest_are_leftovers_once_the_site_is_a_day_further(days, expected):
    found = folders([MANIFEST, info(f"points/{OLD}/a.dump", 9), info(f"points/{OLD}/b.dump", days)])
    assert leftovers(found.values()) == expected


def test_what_is_no_folder_of_a_point_is_never_touched():
    strange = ["points/x", "points/not-a-point/a", "points/20251345T000000Z-abcdef/a", f"other/{OLD}/a", "chain/1.json"]
    assert folders([info(key, 400) for key in strange]) == {}
    assert retention.leftovers([]) == ()


class WithYearly(Keep):
    """One rule more than the shipped ones, and nothing else."""

    yearly: Annotated[int, Period("%Y", timedelta(days=366))] = 2


def test_a_retention_rule_is_one_field() -> None:
    moments = [datetime(year, 6, 1, tzinfo=UTC) for year in range(2010, 2026)]
    ids = [points.new_id(moment, "abcdef") for moment in moments]
    keep = WithYearly(hourly=1, daily=1, weekly=0, monthly=0, yearly=5)
    kept = plan(ids, keep, datetime(2026, 1, 1, tzinfo=UTC)).keep
    assert sorted(point for point, reasons in kept.items() if "yearly" in reasons) == ids[-5:]
    assert kept_for(keep) == timedelta(days=5 * 366)
