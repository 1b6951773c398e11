"""Which restore points are kept."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.backup import points
from rempart.backup.retention import FLOOR, plan, prune
from rempart.sections import Keep
from rempart.sites.memory import MemorySite

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
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


@given(point_ids, keeps)
def test_the_newest_are_never_pruned_and_nothing_is_forgotten(ids, keep):
    made = plan(ids, keep)
    ordered = sorted(ids, reverse=True)
    assert set(ordered[:FLOOR]) <= set(made.keep)
    assert not set(made.prune) & set(made.keep)
    assert sorted([*made.keep, *made.prune]) == sorted(ids)


@given(point_ids, keeps)
def test_pruning_twice_prunes_nothing_more(ids, keep):
    assert plan(plan(ids, keep).keep, keep).prune == ()


@given(point_ids, keeps)
def test_the_newest_point_of_each_kept_day_stays(ids, keep):
    days: dict[str, str] = {}
    for point in sorted(ids, reverse=True):
        days.setdefault(point[:8], point)
    assert set(list(days.values())[: keep.daily]) <= set(plan(ids, keep).keep)


@given(point_ids, keeps)
def test_points_made_after_a_long_pause_prune_only_by_count(ids, keep):
    """Periods are those that have points: a year without backups costs none."""
    later = points.new_id(NOW + timedelta(days=366), "abcdef")
    one_more = Keep(hourly=keep.hourly + 1, daily=keep.daily + 1, weekly=keep.weekly + 1, monthly=keep.monthly + 1)
    kept = {p for p, why in plan(ids, keep).keep.items() if set(why) - {"newest"}}
    assert kept <= set(plan([*ids, later], one_more).keep)


def test_a_year_of_half_hours_keeps_what_is_asked():
    ids = [points.new_id(NOW - timedelta(minutes=30 * i), "abcdef") for i in range(2 * 24 * 366)]
    kept = plan(ids, Keep(hourly=24, daily=14, weekly=8, monthly=12)).keep
    reasons = [reason for why in kept.values() for reason in why]
    assert {rule: reasons.count(rule) for rule in ("hourly", "daily", "weekly", "monthly")} == {
        "hourly": 24,
        "daily": 14,
        "weekly": 8,
        "monthly": 12,
    }


def test_pruning_is_a_dry_run_unless_asked_and_then_removes_whole_points():
    site = MemorySite("haven")
    site.ensure_bucket("backups", versioned=False)
    ids = [points.new_id(NOW - timedelta(minutes=i), "abcdef") for i in range(6)]
    for point in ids:
        site.write("backups", f"points/{point}/airflow.dump", b"x")
        site.write("backups", f"points/{point}/manifest.json", b"{}")
    wanted = plan(ids, Keep(hourly=1, daily=1, weekly=0, monthly=0))
    assert prune(site, "backups", wanted) == wanted.prune == tuple(ids[3:])
    assert len(points.list(site, "backups")) == 6
    prune(site, "backups", wanted, dry_run=False)
    assert points.list(site, "backups") == tuple(ids[:3])
    assert not list(site.list("backups", f"points/{ids[4]}/"))
