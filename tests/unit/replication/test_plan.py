"""The objects that replication decides to copy, and its messages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import PipelineError, SiteError
from rempart.flows.shared.platform import classification_of
from rempart.replication.guards import DeleteLimits, may_hide, stop_and_ask
from rempart.replication.outcome import lag_seconds, quantiles
from rempart.replication.plan import KeyPlan, Replica, Tally, merge, plan_key, risks, surplus
from rempart.replication.work import decode, decode_row, encode, encode_row
from rempart.settings.pipelines import named
from rempart.sites.port import ObjectInfo

NOW = datetime(2025, 3, 30, 1, 30, tzinfo=UTC)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
etags = st.sampled_from(["e1", "e2"])
moments = st.integers(0, 3).map(lambda minutes: NOW - timedelta(minutes=minutes))
listings = st.dictionaries(keys, st.tuples(st.integers(0, 2), etags, moments), max_size=8)
Found = dict[str, tuple[int, str, datetime]]


def listing(found: Found) -> list[ObjectInfo]:
    rows = sorted(found.items(), key=lambda item: item[0].encode())
    return [ObjectInfo(key, size, at, etag=etag) for key, (size, etag, at) in rows]


def replica(info: ObjectInfo, target_etag: str = "t", place: int = 0, there: str = "") -> Replica:
    version = info.version_id or ""
    return Replica(
        info.key,
        version,
        place,
        info.marker,
        info.size,
        "0" * 64,
        info.etag,
        info.modified,
        there,
        target_etag,
        "read back",
        NOW,
        NOW,
    )


def made(
    source: list[ObjectInfo], known: list[Replica], target: list[ObjectInfo] | None
) -> tuple[list[KeyPlan], Tally]:
    tally = Tally()
    return list(merge(source, known, target, tally)), tally


@given(listings, listings, listings)
def test_each_source_object_is_either_current_or_copied_and_nothing_else(
    source: Found, target: Found, known: Found
) -> None:
    rows = [replica(info, "e1") for info in listing(known)]
    if rows and not source:
        return
    plans, tally = made(listing(source), rows, listing(target))
    copied = {plan.key for plan in plans if plan.copies}
    assert copied <= set(source) and tally.current == len(set(source) - copied)
    assert tally.kept == len(set(target) - set(source))
    assert {plan.key for plan in plans if plan.missing} == set(known) - set(source)
    for key in set(source) - copied:  # what counts as current is unchanged on both sides
        assert source[key] == known[key] and target[key][:2] == (known[key][0], "e1")


@given(listings.filter(bool))
def test_a_second_run_has_nothing_to_do(source: Found) -> None:
    infos = listing(source)
    there = [replace(info, etag="t") for info in infos]
    assert made(infos, [replica(info) for info in infos], there)[0] == []


def test_an_empty_source_where_objects_were_is_no_plan() -> None:
    with pytest.raises(SiteError, match="it has no object"):
        made([], [replica(ObjectInfo("a", 1, NOW))], [ObjectInfo("a", 1, NOW, etag="t")])
    assert made([], [], []) == ([], Tally())


def test_a_listing_out_of_order_is_no_plan() -> None:
    with pytest.raises(SiteError, match="out of order"):
        made([ObjectInfo("b", 1, NOW), ObjectInfo("a", 1, NOW)], [], [])


def version(number: int, *, marker: bool = False, site: str = "s") -> ObjectInfo:
    etag = "" if marker else f"{site}{number}"
    return ObjectInfo(
        "k", 0 if marker else 1, NOW + timedelta(seconds=number), f"{site}-v{number}", etag, marker=marker
    )


def pairs(count: int, markers: tuple[int, ...] = ()) -> tuple[list[ObjectInfo], list[Replica], list[ObjectInfo]]:
    """A history of so many versions, its replicas, and how the target lists them; newest first."""
    source = [version(n, marker=n in markers) for n in range(count)]
    target = [version(n, marker=n in markers, site="t") for n in range(count)]
    rows = [
        replica(mine, there.etag, n, there.version_id or "")
        for n, (mine, there) in enumerate(zip(source, target, strict=True))
    ]
    return source[::-1], rows, target[::-1]


@given(st.integers(1, 6), st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_versions_and_markers_follow_in_order_after_what_stands(count: int, standing: int, markers: set[int]) -> None:
    standing = min(standing, count)
    source, rows, target = pairs(count, tuple(markers))
    found = plan_key("k", source, rows[:standing], target[count - standing :])
    assert [copy.source for copy in found.copies] == source[::-1][standing:]
    assert [copy.place for copy in found.copies] == list(range(standing, count))
    was_visible = standing > 0 and (standing - 1) not in markers
    assert found.hides == (standing < count and (count - 1) in markers and was_visible)


def test_what_somebody_put_over_ours_is_covered_again() -> None:
    source, rows, target = pairs(2)
    stranger = ObjectInfo("k", 1, NOW, "x", "x")
    found = plan_key("k", source, rows, [stranger, *target])
    assert [(copy.source.version_id, copy.why) for copy in found.copies] == [("s-v1", "replica altered")]


def test_a_version_that_is_lost_at_the_target_is_put_again_with_all_after_it() -> None:
    source, rows, target = pairs(3)
    found = plan_key("k", source, rows, [target[0], target[2]])
    assert [(copy.source.version_id, copy.why) for copy in found.copies] == [
        ("s-v1", "replica missing"),
        ("s-v2", "out of order"),
    ]


def test_versions_in_another_order_are_put_again() -> None:
    source, rows, target = pairs(2)
    assert [copy.why for copy in plan_key("k", source, rows, target[::-1]).copies] == ["out of order"]


def test_without_a_catalogue_versions_that_may_be_the_same_are_looked_at_first() -> None:
    source, _, target = pairs(3, (1,))
    found = plan_key("k", source, [], target[1:])
    assert [copy.perhaps and copy.perhaps.version_id for copy in found.copies] == ["t-v0", "t-v1", None]
    other = [replace(target[0], size=9), *target[1:]]
    assert all(copy.perhaps is None for copy in plan_key("k", source, [], other).copies)


def test_what_is_hidden_and_comes_back_is_shown_again() -> None:
    source, rows, target = pairs(1)
    hidden = [replace(rows[0], hidden=NOW, missing_since=NOW, sightings=4)]
    found = plan_key("k", source, hidden, [version(9, marker=True, site="t"), *target])
    assert [copy.why for copy in found.copies] == ["replica missing"] and found.back


def test_a_key_that_is_a_folder_of_others_is_told_so_wherever_they_come() -> None:
    keys = ["dual", "dual!", "dual-x", "dual/b", "plain", "plain2"]
    plans, _ = made([ObjectInfo(key, 1, NOW) for key in keys], [], [])
    assert {plan.key for plan in plans if plan.folder} == {"dual"} and {plan.key for plan in plans} == set(keys)
    assert risks("dual", folder=True) == {"path keys"} and not risks("dual")


def test_versions_that_were_superseded_long_ago_and_are_nobodys_are_surplus() -> None:
    _, rows, target = pairs(2)
    old = ObjectInfo("k", 1, NOW - timedelta(days=9), "old", "old")
    assert surplus([*target, old], rows, NOW + timedelta(days=1)) == (old,)
    assert surplus([*target, old], rows, NOW - timedelta(days=1)) == ()


@pytest.mark.parametrize(
    ("hides", "known", "accepted", "stops"),
    [(5, 6, 0, False), (6, 12, 0, True), (6, 12, 6, False), (100, 2000, 0, False), (20_000, 10**6, 0, True)],
)
def test_much_that_is_gone_at_once_is_not_hidden_without_a_word(
    hides: int, known: int, accepted: int, stops: bool
) -> None:
    assert bool(stop_and_ask(hides, known, DeleteLimits(), accepted)) == stops


@given(st.integers(0, 10), st.integers(0, 60))
def test_nothing_is_hidden_on_one_sighting(sightings: int, minutes: int) -> None:
    row = replace(replica(ObjectInfo("a", 1, NOW)), missing_since=NOW, sightings=sightings)
    later = NOW + timedelta(minutes=minutes)
    if may_hide(row, later, sightings=2, interval=timedelta(minutes=10)):
        assert sightings >= 2 and minutes >= 10
    assert not may_hide(replica(ObjectInfo("a", 1, NOW)), later, sightings=2, interval=timedelta())


@given(listings.filter(bool), st.booleans())
def test_work_and_rows_survive_the_way_through_bytes(source: Found, folder: bool) -> None:
    plans = [replace(plan, folder=folder) for plan in made(listing(source), [], [])[0]]
    assert list(decode(encode(plans))) == plans
    row = replica(listing(source)[0])
    assert decode_row(encode_row(row)) == row
    gone = replace(row, missing_since=NOW, sightings=3, hidden=NOW)
    assert decode_row(encode_row(gone)) == gone


def test_lag_is_the_age_of_the_oldest_change() -> None:
    assert lag_seconds(None, NOW) == 0
    assert lag_seconds(NOW - timedelta(minutes=5), NOW) == 300
    assert lag_seconds(NOW + timedelta(minutes=5), NOW) == 0
    assert quantiles([]) == (0, 0, 0) and quantiles([float(n) for n in range(100)]) == (50, 95, 99)


@pytest.mark.parametrize(
    ("change", "there", "why"),
    [
        ({}, None, "replica missing"),
        ({}, {"etag": "other"}, "replica altered"),
        ({"etag": "other"}, {}, "changed"),
        ({"modified": NOW + timedelta(seconds=1)}, {}, "changed"),
    ],
)
def test_why_an_object_is_copied_again(change: dict[str, object], there: dict[str, object] | None, why: str) -> None:
    info = ObjectInfo("a", 5, NOW, etag="e")
    target = [] if there is None else [replace(info, **{"etag": "t", **there})]  # type: ignore[arg-type]
    plans, _ = made([replace(info, **change)], [replica(info)], target)  # type: ignore[arg-type]
    assert [copy.why for plan in plans for copy in plan.copies] == [why]


def test_shared_buckets_are_as_strict_as_the_strictest_pipeline() -> None:
    broken = PipelineError("what", "hint")

    def of(*classifications: str) -> tuple[str, str]:
        pipelines = {c: named("hotel_bookings").model_copy(update={"classification": c}) for c in classifications}
        return classification_of(pipelines), classification_of({**pipelines, "broken": broken})

    assert of("internal", "sensitive", "public") == ("sensitive", "sensitive")
    assert of("public") == ("public", "personal")
    assert of() == ("personal", "personal")
