"""Locks and deletions: plans over two simulated years, notes that nobody else can write, and hidden versions."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.backup.points import garbage, locking, points, retention
from rempart.backup.points.garbage import Named, fingerprint, lapsed, old_versions, unneeded
from rempart.backup.points.locking import KnownLocks, covers, due, hidden, listed
from rempart.flows.shared.keys import kept_for
from rempart.ledger.keys import signer
from rempart.settings.retention_rules import Keep
from rempart.sites.port import ObjectInfo

NOW = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SIGNER = signer(bytes(range(32)))
LOCKED = 2 * DAY


def version(key: str, name: str, age: timedelta = DAY, *, marker: bool = False, size: int = 1) -> ObjectInfo:
    return ObjectInfo(key, 0 if marker else size, NOW - age, name, etag=f"e{name}", marker=marker)


@settings(max_examples=6)
@given(
    st.lists(st.sets(st.integers(0, 9), max_size=4), min_size=7, max_size=7), st.sets(st.integers(0, 729), max_size=3)
)
def test_over_two_years_no_needed_object_goes_or_loses_its_lock_and_no_other_stays_a_day_beyond_its(
    contents: list[set[int]], held_days: set[int]
) -> None:
    """A point a day of a lake that changes by the day of the week and once a month altogether; some points are held."""
    keep = Keep(hourly=1, daily=4, weekly=2, monthly=2)
    kept, begin = kept_for(keep), NOW
    stored: dict[str, ObjectInfo] = {}
    locks: dict[str, datetime] = {}
    extended: dict[str, datetime] = {}
    named: dict[str, set[str]] = {}
    held: set[str] = set()
    for day in range(730):
        now = begin + day * DAY
        point = points.new_id(now, "abcdef")
        named[point] = {f"sealed/{day // 30}/{content}" for content in contents[day % 7]}
        for key in named[point]:
            stored.setdefault(key, ObjectInfo(key, 1, now, "v"))
            if locks.get(key, now) < now + kept:
                locks[key] = now + kept + 7 * DAY
        if day in held_days:
            held.add(point)
        plan = retention.plan(named, keep, now, held=held, locked=locking.span(LOCKED))
        for gone in plan.prune:
            del named[gone]
        for kept_point, why in plan.keep.items():
            lasting = set(why) - {retention.YOUNG, retention.LOCKED}
            ending = lasting and locking.outlives(points.created_at(kept_point), kept, now, LOCKED)
            if ending and extended.get(kept_point, now) < now + LOCKED:
                extended[kept_point] = now + locking.SEALED_FOR
                locks |= {key: max(locks[key], extended[kept_point]) for key in named[kept_point]}
        needed = {fingerprint((key, "v")) for keys in named.values() for key in keys}
        for info in unneeded(lapsed(stored.values(), now, kept), needed, f"{day}"):
            if locks[info.key] <= now:  # as the site decides
                del stored[info.key]
        for keys in named.values():
            assert all(key in stored and locks[key] > now for key in keys)
        wanted = set().union(*named.values())
        assert not [key for key in stored if key not in wanted and locks[key] + DAY < now]


def test_a_clearing_looks_at_so_many_and_begins_elsewhere_another_day() -> None:
    found = [version(f"sealed/{n}", "v") for n in range(100)]
    first, second = (unneeded(found, set(), day, most=10) for day in ("1", "2"))
    assert len(first) == len(second) == 10 and first != second


ONE = (
    '{"bucket":"lake","key":"a \\"key\\":\\"sealed/x.age\\"","sealed":{"key":"sealed/d/aa/%d.age",'
    '"retained_until":"2025-01-01T00:00:00+00:00","scope":"d","serial":"0001","sha256":"ab","size":12,"version":"v%d"},'
    '"sha256":"cd"}'
)


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_what_a_manifest_names_is_read_as_a_stream(count: int) -> None:
    body = ('{"objects":[' + ",".join(ONE % (n, n) for n in range(count)) + "]}").encode()
    named = Named(io.BytesIO(body))
    assert [(key, name) for key, name, _ in named] == [(f"sealed/d/aa/{n}.age", f"v{n}") for n in range(count)]
    if count:
        with pytest.raises(ValueError, match="sealed objects, but"):
            list(Named(io.BytesIO(body.replace(b'"size":12', b'"size": 12', 1))))


def test_only_what_is_not_known_to_hold_is_due() -> None:
    known = KnownLocks({("a", "1"): NOW + DAY, ("b", "1"): NOW + 3 * DAY})
    assert due([("a", "1"), ("b", "1"), ("c", "1")], known, NOW + LOCKED) == [("a", "1"), ("c", "1")]


def test_a_note_comes_back_as_it_was_and_nobody_else_can_write_one() -> None:
    known = KnownLocks({("restic/d/1/data/aa", "v1"): NOW}, {"p": NOW}, True, NOW)
    body = locking.encode(known, NOW, SIGNER)
    assert locking.decode(body, [SIGNER.public]) == (NOW, known)
    for wrong in (body.replace(b"v1", b"v2"), b"", locking.encode(known, NOW, signer(bytes(32)))):
        with pytest.raises(ValueError, match=r"."):
            locking.decode(wrong, [SIGNER.public])


PACK = "restic/d/0001/data/aa/aabb"


@pytest.mark.parametrize(
    "above",
    [
        [version(PACK, "m", marker=True)],
        [version(PACK, "rubbish")],
        [version(PACK, "m", marker=True), version(PACK, "r")],
    ],
    ids=["deleted", "written over", "both"],
)
def test_what_was_locked_and_is_covered_is_hidden_unless_restic_was_at_it(above: list[ObjectInfo]) -> None:
    found, known = listed([*above, version(PACK, "right")]), KnownLocks({(PACK, "right"): NOW})
    assert hidden(known, found) == ((PACK, "right"),)
    assert hidden(replace(known, pruning=True), found) == ()
    assert [cover.right.version_id for cover in covers(found)] == ["right"]
    restored = listed([replace(version(PACK, "copy"), etag="eright"), *above, version(PACK, "right")])
    assert hidden(known, restored) == covers(restored) == ()


def test_what_is_gone_for_good_or_comes_and_goes_is_not_hidden() -> None:
    lock = "restic/d/0001/locks/aa"
    found = listed([version(lock, "m", marker=True), version(lock, "v"), version("restic/d/0001/config", "c")])
    known = KnownLocks({(PACK, "gone"): NOW, ("restic/d/0001/config", "c"): NOW})
    assert hidden(known, found) == () and covers(found) == ()
    assert found.current() == {"restic/d/0001/config": "c"}


def test_old_versions_go_oldest_first_and_a_marker_only_with_all_that_it_hides() -> None:
    long, lately = 10 * DAY, DAY
    beat = [version("h", "3", lately), version("h", "2", long), version("h", "1", 20 * DAY)]
    pruned = [version("p", "m", long, marker=True), version("p", "1", 20 * DAY)]
    fresh = [version("q", "m", lately, marker=True), version("q", "1", 20 * DAY)]
    found = listed([*beat, *pruned, *fresh])
    gone = [[info.version_id for info in group] for group in old_versions(found, (), NOW, 4 * DAY)]
    assert gone == [["1"], ["1", "m"]]
    assert old_versions(found, [("p", "1"), ("h", "3")], NOW, 4 * DAY) == []
    assert garbage.EVERY < DAY
