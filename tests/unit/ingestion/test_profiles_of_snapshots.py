"""Profiles are made once for each snapshot, in a run of their own; a look returns one page for one key."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from dataclasses import replace

import pytest

from rempart.backup.keys import age
from rempart.errors import ConfigError, ErasedMeanwhile, IngestError, KeyWrong, ObjectMissing
from rempart.flows.ingestion import profile
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.pipeline import Pipeline
from rempart.settings.sections import Classification
from tests.unit.ingestion.deliveries import BAD, A, B, C


@pytest.fixture
def ids(platform: Platform, readings: Pipeline, deliver: Callable[..., None]) -> list[str]:
    """The ids of two snapshots, oldest first."""
    found = []
    for number, rows in enumerate(((A, BAD), (B, C))):
        deliver(f"{number}.csv", *rows)
        found.append(ingest(platform, readings).snapshot or "")
    return found


def test_each_snapshot_gets_its_profile_once_and_a_missing_one_is_made_by_the_next_run(
    platform: Platform, readings: Pipeline, ids: list[str]
) -> None:
    site = platform.sites["primary"]
    assert profile.make(platform, readings, [*ids, "f" * 32]).made == tuple(ids)  # one was replaced by an erasure
    before = list(site.versions("lake", "profiles/"))
    assert [info.key for info in before] == sorted(f"profiles/readings/personal/{name}.html" for name in ids)
    for wanted in (ids, [None], [ids[0]]):
        assert profile.make(platform, readings, wanted).made == ()
    assert before == list(site.versions("lake", "profiles/"))
    assert profile.delete(site, "lake", "readings", platform.clock()).versions == 2
    found = profile.make(platform, readings, [None])
    assert (found.made, found.shown, found.sealed) == ((ids[1],), ids[1], None)


def test_a_look_is_for_one_key_and_names_what_is_not_there(
    platform: Platform, readings: Pipeline, ids: list[str]
) -> None:
    key = age.new_identity()
    found = profile.make(platform, readings, [ids[0]], key.recipient)
    packed = base64.b64decode(found.sealed or "")
    stored = platform.sites["primary"].read("lake", profile.key("readings", ids[0], "personal"))
    assert gzip.decompress(age.decrypt(packed, key, "the profile")) == stored and b"<p>0 rows, " in stored
    with pytest.raises(KeyWrong):
        age.decrypt(packed, age.new_identity(), "the profile")
    with pytest.raises(IngestError, match="has no such snapshot"):
        profile.make(platform, readings, ["f" * 32], key.recipient)
    with pytest.raises(ConfigError):
        profile.make(platform, readings, [None], "age1nobody")


@pytest.mark.parametrize(("first", "then"), [("internal", "personal"), ("personal", "internal")])
def test_a_page_is_guarded_by_the_higher_of_the_snapshots_and_the_pipelines_classification(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], first: Classification, then: Classification
) -> None:
    deliver("1.csv", A, B)
    before, now = (readings.model_copy(update={"classification": name}) for name in (first, then))
    snapshot = ingest(platform, before).snapshot or ""
    assert profile.make(platform, before, [None]).made == (snapshot,)
    profile.make(platform, now, [None])
    text = platform.sites["primary"].read("lake", profile.key("readings", snapshot, "personal")).decode()
    assert "may be personal" in text and "<dt>range</dt>" not in text
    assert profile.make(platform, now, [snapshot]).made == ()


def test_a_page_that_is_too_large_is_not_returned(
    platform: Platform, readings: Pipeline, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "LARGEST", 10)
    with pytest.raises(IngestError, match="more than 10"):
        profile.make(platform, readings, [None], age.new_identity().recipient)
    assert list(platform.sites["primary"].list("lake", "profiles/readings/"))


def test_before_the_first_snapshot_there_is_nothing_to_do(platform: Platform, readings: Pipeline) -> None:
    assert profile.make(platform, readings, [None]) == profile.ProfileResult()


def test_rows_that_are_erased_while_they_are_measured_leave_no_profile(
    platform: Platform, readings: Pipeline, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def erased(*given: object) -> None:
        raise ErasedMeanwhile("Rows were erased", "Run again.")

    monkeypatch.setattr(erasures, "check_same", erased)
    with pytest.raises(ErasedMeanwhile):
        profile.make(platform, readings, [None])
    assert not list(platform.sites["primary"].versions("lake", "profiles/"))


def test_a_profile_that_cannot_be_made_is_an_error_of_its_own_and_quotes_no_value(
    platform: Platform, readings: Pipeline, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    def broken(*given: object, **more: object) -> None:
        raise duckdb.ConversionException("Could not convert 'CANARY'")

    with monkeypatch.context() as during, pytest.raises(IngestError, match="DuckDB answered Conversion") as red:
        during.setattr(profile, "profile", broken)
        profile.make(platform, readings, [None])
    assert "CANARY" not in str(red.value) and red.value.__suppress_context__
    site = platform.sites["primary"]
    now = snapshots.current(site, "lake", "readings")
    assert now
    site.delete("lake", now.parts[0].key)
    with pytest.raises(ObjectMissing):
        profile.make(replace(platform), readings, [None])
