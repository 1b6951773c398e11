"""What replication decides to copy, and what it says about it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import PipelineError, SiteError
from rempart.flows.replicate import classification_of
from rempart.pipeline import named
from rempart.replication.catalogue import decode, encode
from rempart.replication.plan import Replica, lag_seconds, plan
from rempart.sites.port import ObjectInfo

NOW = datetime(2025, 3, 30, 1, 30, tzinfo=UTC)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
etags = st.sampled_from(["e1", "e2"])
moments = st.integers(0, 3).map(lambda minutes: NOW - timedelta(minutes=minutes))
listings = st.dictionaries(keys, st.tuples(st.integers(0, 2), etags, moments), max_size=8)


def listing(found: dict[str, tuple[int, str, datetime]]) -> list[ObjectInfo]:
    return [ObjectInfo(key, size, at, etag=etag) for key, (size, etag, at) in sorted(found.items())]


def replica(info: ObjectInfo, target_etag: str = "t") -> Replica:
    return Replica(info.key, info.size, "0" * 64, info.etag, info.modified, "v1", target_etag, "w1", NOW)


@given(listings, listings, listings)
def test_each_source_object_is_either_current_or_copied_and_nothing_else(source, target, known):
    known = {info.key: replica(info, "e1") for info in listing(known)}
    if known and not source:
        return
    made = plan(listing(source), listing(target), known)
    copied = [copy.source.key for copy in made.copies]
    assert sorted([*copied, *(r.key for r in made.current)]) == sorted(source)
    assert set(made.kept) == set(target) - set(source)
    for current in made.current:  # what counts as current is unchanged on both sides
        size, etag, at = source[current.key]
        assert (current.size, current.etag, current.modified) == (size, etag, at)
        assert target[current.key][:2] == (current.size, current.target_etag)


@given(listings.filter(bool))
def test_a_second_run_has_nothing_to_do(source):
    infos = listing(source)
    known = {info.key: replica(info) for info in infos}
    there = [replace(info, etag="t") for info in infos]
    assert plan(infos, there, known).copies == ()


def test_an_empty_source_where_objects_were_is_no_plan():
    known = {"a": replica(ObjectInfo("a", 1, NOW))}
    with pytest.raises(SiteError, match="lists no object"):
        plan([], [ObjectInfo("a", 1, NOW, etag="t")], known)
    assert plan([], [], {}).copies == ()


@pytest.mark.parametrize(
    ("change", "there", "why"),
    [
        ({}, None, "replica missing"),
        ({}, {"etag": "other"}, "replica altered"),
        ({"etag": "other"}, {}, "changed"),
        ({"modified": NOW + timedelta(seconds=1)}, {}, "changed"),
    ],
)
def test_why_an_object_is_copied_again(change, there, why):
    info = ObjectInfo("a", 5, NOW, etag="e")
    target = [] if there is None else [replace(info, **{"etag": "t", **there})]
    made = plan([replace(info, **change)], target, {"a": replica(info)})
    assert [copy.why for copy in made.copies] == [why]


def test_the_lag_is_the_age_of_the_oldest_change_that_is_not_there():
    pending = [ObjectInfo("a", 1, NOW - timedelta(minutes=7)), ObjectInfo("b", 1, NOW - timedelta(minutes=2))]
    assert lag_seconds(pending, NOW) == 420
    assert lag_seconds([], NOW) == 0
    assert lag_seconds([ObjectInfo("a", 1, NOW + timedelta(minutes=10))], NOW) == 0  # the site's clock is ahead


@given(listings)
def test_the_catalogue_reads_back_as_written(found):
    entries = {info.key: replica(info) for info in listing(found)}
    assert decode(encode(entries.values())) == entries
    assert encode(reversed(entries.values())) == encode(entries.values())


@pytest.mark.parametrize("body", [b"", b"not gzip", encode([replica(ObjectInfo("a", 1, NOW))])[:-9]])
def test_what_is_no_catalogue_is_refused(body):
    with pytest.raises(ValueError, match="not a catalogue"):
        decode(body)


def test_shared_buckets_are_as_strict_as_the_strictest_pipeline():
    broken = PipelineError("what", "hint")

    def of(*classifications):
        pipelines = {c: named("hotel_bookings").model_copy(update={"classification": c}) for c in classifications}
        return classification_of(pipelines), classification_of({**pipelines, "broken": broken})

    assert of("internal", "sensitive", "public") == ("sensitive", "sensitive")
    assert of("public") == ("public", "personal")
    assert of() == ("personal", "personal")
