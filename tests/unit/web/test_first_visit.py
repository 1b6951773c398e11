"""The cockpit's texts for a first visit, after some hours, and right after an event."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from rempart.orchestration.run_notes import _validate
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.messages import moment
from rempart.web.read_models.models import models
from rempart.web.read_models.sites import sites
from rempart.web.refreshing_cache import RefreshingCache
from rempart.web.wording import LANGUAGES, Texts
from tests.cockpit import NOW, Watched

PASSED, REFUSED = "passed: mae 22 is at most 25", "refused: mae 22 is above 20"


@pytest.mark.parametrize("language", LANGUAGES)
def test_old_facts_are_told_with_what_happens_and_what_to_do_and_accuse_nobody(language: str) -> None:
    told = Texts(language)("stale")
    assert ("reload" in told) or ("rechargez" in told)
    assert "hangs" not in told and "bloqué" not in told


def test_the_first_visit_waits_for_the_first_facts_longer_than_later_ones_do() -> None:
    begun = threading.Event()

    def gather() -> int:
        begun.wait(0.3)
        return 1

    assert RefreshingCache(gather, 15, patience=0.01, first_patience=60).get() == 1


def test_sources_that_are_silent_for_one_reason_are_told_in_one_line() -> None:
    waiting = Unknown("The first facts are being read")
    found = moment(CockpitFacts(NOW, waiting, waiting, waiting, waiting), NOW)
    assert found.silent == {"The first facts are being read": ("configuration", "active site", "ledger", "pipelines")}
    assert found.unknown.keys() == {"configuration", "active site", "ledger", "pipelines"}


def test_a_refusal_is_shown_with_the_rule_that_refused_first() -> None:
    watched = Watched()
    watched.record("refusal", "hotel_bookings", {"version": "2", "metrics": {}, "reasons": [PASSED, REFUSED]})
    assert models(watched.facts(), NOW).judgements[0].reasons == (REFUSED, PASSED)


def test_a_run_note_of_a_refusal_names_the_refusing_rule_alone_and_no_version_none() -> None:
    told = {"version": "1", "promoted": False, "champion": None, "reasons": [PASSED, REFUSED]}
    assert _validate(told) == "Version 1 was refused, and the model still has no champion: mae 22 is above 20"
    assert "the champion is still version 3" in _validate({**told, "champion": "3"})


def test_a_count_says_how_many_objects_were_replicated_since_and_are_not_in_it() -> None:
    watched = Watched()
    watched.usage(ago=timedelta(hours=2))
    watched.replication(ago=timedelta(hours=3), copied=40)
    watched.replication(ago=timedelta(minutes=5), copied=160)
    watched.replication(ago=timedelta(minutes=2), copied=2)
    found = {site.place.name: site.usage for site in sites(watched.facts(), NOW).sites}
    assert found["haven"] is not None and found["haven"].since == 162
    for language in LANGUAGES:
        assert "162" in Texts(language)("usage.since", count="162")
