"""The Sites page and the figures: stored data, locks, and values that were never measured."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rempart.web.facts import CockpitFacts
from rempart.web.metrics import exposition
from rempart.web.read_models.sites import sites
from rempart.web.read_models.usage import OLD, Usage
from rempart.web.wording import LANGUAGES, Texts
from tests.cockpit import NOW, Watched

SOON = {"name": "backups/points/p/manifest.json", "until": (NOW + timedelta(hours=9)).isoformat()}
LOCKS = {"looked_at": 9, "within_seconds": 129600.0, "lapsing": 1, "first_ends": SOON["until"], "named": [SOON]}


def of(facts: CockpitFacts, site: str = "haven") -> Usage:
    found = next(entry.usage for entry in sites(facts, NOW).sites if entry.place.name == site)
    assert found
    return found


def figures(facts: CockpitFacts) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in exposition(facts, NOW).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_newest_measurement_is_shown_with_its_age_and_how_it_grew() -> None:
    watched = Watched()
    watched.usage(ago=timedelta(days=1), buckets={"lake": dict.fromkeys(BUCKET, 7)})
    watched.usage()
    found = of(watched.facts())
    assert (found.state, found.age_seconds, found.old) == ("good", 7200, False)
    assert [(sample.bytes, sample.old_bytes) for sample in found.history] == [(7, 7), (5_000_000, 1_000_000)]


BUCKET = ("objects", "bytes", "old_versions", "old_bytes", "markers")


@pytest.mark.parametrize(("protects", "state"), [("restore-points", "bad"), ("evidence", "warning")])
def test_a_lock_about_to_lapse_is_named_with_what_would_be_lost(protects: str, state: str) -> None:
    watched = Watched()
    watched.usage(locks={"b": LOCKS | {"protects": protects}})
    found = of(watched.facts())
    assert found.state == state == found.locks[0].state
    assert found.locks[0].named[0].name == SOON["name"]
    labels = f'{{site="haven",bucket="b",protects="{protects}"}}'
    assert figures(watched.facts())[f"rempart_locks_lapsing{labels}"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"buckets": {"lake": {"why": "list lake: refused"}}},
        {"locks": {"backups": {"protects": "restore-points", "why": "it was written over"}}},
    ],
)
def test_what_a_site_did_not_tell_is_unknown_with_its_reason(body: dict[str, Any]) -> None:
    watched = Watched()
    watched.usage(**body)
    found = of(watched.facts())
    assert found.state == "unknown"
    assert [why for why in (*(bucket.why for bucket in found.buckets), *(lock.why for lock in found.locks)) if why] in (
        ["list lake: refused"],
        ["it was written over"],
    )
    assert figures(watched.facts())['rempart_usage_known{site="haven"}'] == 0


def test_a_site_that_nobody_measured_lately_is_not_known_and_has_no_figures() -> None:
    watched = Watched()
    assert next(site.usage for site in sites(watched.facts(), NOW).sites) is None
    watched.usage(ago=OLD + timedelta(hours=1))
    assert of(watched.facts()).old and of(watched.facts()).state == "unknown"
    found = figures(watched.facts())
    assert found['rempart_usage_known{site="haven"}'] == 0 == found['rempart_usage_known{site="primary"}']
    assert not [name for name in found if name.startswith(("rempart_site_bytes", "rempart_locks"))]


def test_figures_of_size_are_told_to_the_byte() -> None:
    watched = Watched()
    watched.usage(buckets={"lake": dict.fromkeys(BUCKET, 1_234_567_890_123)})
    assert figures(watched.facts())['rempart_site_bytes{site="haven",bucket="lake"}'] == 1_234_567_890_123


def test_throughput_is_of_runs_that_copied_something() -> None:
    watched = Watched()
    watched.replication(ago=timedelta(minutes=9), copied=2, throughput=5.0)
    watched.replication(copied=0, throughput=0.0)
    pair = sites(watched.facts(), NOW).pairs[0]
    assert [value for _, value in pair.throughput] == [5.0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_it_in_each_language(language: Any) -> None:
    from rempart.web import charts
    from rempart.web.rendering import _templates

    watched = Watched()
    watched.usage(ago=timedelta(days=1))
    watched.usage(
        locks={"b": LOCKS | {"protects": "restore-points"}, "c": {"protects": "evidence", "why": "<refused>"}}
    )
    shown = {site.place.name: site for site in sites(watched.facts(), NOW).sites}
    module: Any = _templates().get_template("usage.html").module
    text = str(module.of_site(shown["haven"], Texts(language), charts))
    assert SOON["name"] in text and "&lt;refused&gt;" in text and text.count("<svg") == 1
    assert Texts(language)("usage.never") in str(module.of_site(shown["primary"], Texts(language), charts)).replace(
        "&#39;", "'"
    )
