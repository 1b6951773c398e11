"""Faults that pruning must survive: wrong clocks on plans; a kill, and locks on the stack's real site."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.points import points, retention
from rempart.backup.points.retention import plan
from rempart.flows.backup.prune import prune
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.settings.config import Config
from rempart.settings.retention_rules import Keep
from tests import made_points
from tests.conftest import OwnContinuity
from tests.made_points import is_whole, under
from tests.memory_site import MemorySite

FOUR_DAYS = Keep(hourly=1, daily=4, weekly=0, monthly=0)
DAY = timedelta(days=1)
LOCKED = 60
"""Seconds for which a lock holds: a test waits for its end, and looks at what it protects long before."""

# --- X4: clocks -------------------------------------------------------------------------------------------------------

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
KEEP = Keep(hourly=3, daily=4, weekly=2, monthly=2)
ages = st.lists(st.integers(0, 60 * 24 * 400), unique=True, max_size=40)
wrong = st.timedeltas(timedelta(days=-4000), timedelta(days=4000))


def made(minutes: list[int], newest: datetime = NOW) -> list[str]:
    return [points.new_id(newest - timedelta(minutes=m), "abcdef") for m in minutes]


@given(ages, wrong)
def test_x4_a_clock_that_is_wrong_by_years_prunes_nothing_early(minutes: list[int], error: timedelta) -> None:
    """Ahead, only youth is lost, which no rule counts on; behind, more is kept."""
    ids, right = made(minutes), NOW + DAY  # nothing is young then
    assert set(plan(ids, KEEP, right + error).prune) <= set(plan(ids, KEEP, right).prune)


@given(ages, st.integers(-10, 10))
def test_x4_ten_minutes_between_two_clocks_change_nothing_but_who_is_young(minutes: list[int], skew: int) -> None:
    ids = made(minutes)
    here, there = plan(ids, KEEP, NOW).keep, plan(ids, KEEP, NOW + timedelta(minutes=skew)).keep
    rules = {point: set(why) - {"young"} for point, why in here.items()}
    assert all(rules.get(point, set()) == set(why) - {"young"} for point, why in there.items())


def test_x4_a_point_dated_years_ahead_is_kept_named_and_displaces_none() -> None:
    ids = made([60 * 24 * n for n in range(20)])
    ahead = points.new_id(NOW + 2000 * DAY, "abcdef")
    with_it, without = plan([*ids, ahead], KEEP, NOW), plan(ids, KEEP, NOW)
    assert with_it.keep == {ahead: ("dated in the future",), **without.keep}
    assert with_it.prune == without.prune


@pytest.mark.parametrize("clocks_change", [datetime(2025, 3, 30, 1, tzinfo=UTC), datetime(2025, 10, 26, 1, tzinfo=UTC)])
def test_x4_daylight_saving_changes_no_plan(monkeypatch: pytest.MonkeyPatch, clocks_change: datetime) -> None:
    """Every half hour of the two days about it, told by a clock in UTC, in Paris and by a machine set to Paris."""
    half_hours = [clocks_change + timedelta(minutes=30 * n) for n in range(-48, 48)]
    keep = Keep(hourly=30, daily=2, weekly=1, monthly=1)
    in_utc = plan([points.new_id(at, "abcdef") for at in half_hours], keep, half_hours[-1])
    paris = [at.astimezone(ZoneInfo("Europe/Paris")) for at in half_hours]
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    try:
        in_paris = plan([points.new_id(at, "abcdef") for at in paris], keep, paris[-1])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert in_paris == in_utc
    reasons = [reason for why in in_utc.keep.values() for reason in why]
    assert reasons.count("hourly") == 30  # no hour is lost, and none is counted twice


def test_x4_the_29_february_stands_for_its_day_and_its_month() -> None:
    ids = [points.new_id(datetime(2024, 2, day, 23, 30, tzinfo=UTC), "abcdef") for day in range(20, 30)]
    march = [points.new_id(datetime(2024, 3, day, 23, 30, tzinfo=UTC), "abcdef") for day in range(1, 12)]
    leap, later = ids[-1], datetime(2024, 3, 12, 6, tzinfo=UTC)
    assert plan(ids, KEEP, datetime(2024, 3, 1, 6, tzinfo=UTC)).keep[leap] == (
        "newest",
        "newest good",
        "hourly",
        "daily",
        "weekly",
        "monthly",
    )
    assert plan([*ids, *march], KEEP, later).keep[leap] == ("monthly",)


def test_x4_a_backup_that_still_runs_is_no_leftover_whatever_this_clock_says() -> None:
    """Its folder is compared with the site's newest write, by the site's clock."""
    site = MemorySite()
    site.ensure_bucket("backups", versioned=True)
    running = points.new_id(NOW - 900 * DAY, "abcdef")  # by a machine whose clock is years behind
    site.write("backups", f"points/{running}/airflow.dump", b"so far")
    site.write("backups", f"points/{points.new_id(NOW, 'abcdef')}/manifest.json", b"{}")
    assert retention.leftovers(retention.folders(site.versions("backups", "points/")).values()) == ()


# --- on the real site -------------------------------------------------------------------------------------------------


def _standing(
    platform: Platform, ledger: MemoryLedger, continuity: OwnContinuity, *, locked: bool
) -> Iterator[Platform]:
    name = f"fault-{secrets.token_hex(4)}-backups"
    site = platform.site("haven", "personal")
    site.ensure_bucket(name, versioned=True, locked=locked)
    buckets = platform.config.buckets.model_copy(update={"backups": name})
    backup = platform.config.backup.model_copy(update={"keep": FOUR_DAYS, "locked": timedelta(0)})
    settings_ = platform.config.model_copy(update={"buckets": buckets, "backup": backup})
    yield dataclasses.replace(
        platform, config=settings_, ledger_=ledger, continuity_=continuity, sites={**platform.sites}
    )
    site.drop_bucket(name)


@pytest.fixture
def standing(platform: Platform, proven_ledger: MemoryLedger, own_continuity: OwnContinuity) -> Iterator[Platform]:
    """The stack's platform with a backup bucket of the test's, of whose points the rules keep four days."""
    yield from _standing(platform, proven_ledger, own_continuity, locked=False)


@pytest.fixture
def locking(platform: Platform, proven_ledger: MemoryLedger, own_continuity: OwnContinuity) -> Iterator[Platform]:
    """The same with a bucket in which objects can be locked."""
    yield from _standing(platform, proven_ledger, own_continuity, locked=True)


def _prune_and_die(settings_: Config, ledger: MemoryLedger, deletes: int) -> None:
    platform = Platform(settings_, config.environment_connections, ledger_=ledger, continuity_=MemoryContinuity())
    site: Any = platform.site("haven", "personal")
    delete, left = site.delete, [deletes]

    def dying(*args: Any, **more: Any) -> Any:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return delete(*args, **more)

    site.delete = dying
    prune(platform, dry_run=False)


@pytest.mark.stores
@pytest.mark.parametrize("deletes", range(7))
def test_x1_killed_at_every_step_what_is_a_point_is_whole_and_a_run_again_ends_it(
    standing: Platform, deletes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two points of three objects go: killed before the first delete, after each, and after the last."""
    site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
    six = made_points.series(standing, site, datetime.now(UTC) - timedelta(hours=3), 6, DAY)
    child = multiprocessing.get_context("fork").Process(
        target=_prune_and_die, args=(standing.config, standing.ledger_, deletes)
    )
    child.start()
    child.join(240)
    assert child.exitcode == (0 if deletes == 6 else -signal.SIGKILL)
    there = points.list(site, bucket)
    assert there[:4] == tuple(six[:4]) and all(is_whole(site, bucket, point) for point in there)
    # a day later by the site's clock
    monkeypatch.setattr(retention, "LEFTOVER_AGE", timedelta(days=-1))
    prune(standing, dry_run=False)
    assert points.list(site, bucket) == tuple(six[:4])
    assert [under(site, bucket, point) for point in six[4:]] == [[], []]
    assert prune(standing, dry_run=False).deleted == ()


@pytest.mark.full
@pytest.mark.stores
@pytest.mark.parametrize("locked", [("manifest.json", "airflow.dump", "ledger.dump"), ("manifest.json",)])
def test_k3_a_locked_point_is_retained_until_its_time_and_no_error(locking: Platform, locked: tuple[str, ...]) -> None:
    site, bucket = locking.site("haven", "personal"), locking.config.buckets.backups
    now = datetime.now(UTC)
    kept = made_points.series(locking, site, now - timedelta(hours=3), 4, DAY)
    plain = made_points.make(locking, site, now - 30 * DAY)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=LOCKED)
    held = made_points.make(locking, site, now - 20 * DAY, retain_until=until, locked=locked)
    done = prune(locking, dry_run=False)
    assert (done.deleted, done.retained) == ((plain,), {held: until.isoformat()})
    assert is_whole(site, bucket, held) and points.list(site, bucket) == (*kept, held)
    assert locking.ledger.find("prune", limit=1)[0].body["retained"] == {held: until.isoformat()}
    # it is told each time, and neither tried nor recorded again
    assert prune(locking, dry_run=False).retained == {held: until.isoformat()}
    assert len(locking.ledger.find("prune")) == 2
    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 2)
    assert prune(locking, dry_run=False).deleted == (held,)
    assert under(site, bucket, held) == []


@pytest.mark.full
@pytest.mark.stores
def test_k3_a_locked_dump_of_a_point_that_went_is_cleared_when_its_lock_is_over(
    locking: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, bucket = locking.site("haven", "personal"), locking.config.buckets.backups
    monkeypatch.setattr(retention, "LEFTOVER_AGE", timedelta(days=-1))
    now = datetime.now(UTC)
    made_points.series(locking, site, now - timedelta(hours=3), 4, DAY)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=LOCKED)
    old = made_points.make(locking, site, now - 20 * DAY, retain_until=until, locked=("ledger.dump",))
    assert prune(locking, dry_run=False).retained == {old: until.isoformat()}
    assert under(site, bucket, old) == ["ledger.dump"] and old not in points.list(site, bucket)
    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()) + 2)
    assert prune(locking, dry_run=False).leftovers == (old,)
    assert under(site, bucket, old) == []
