"""Rows that wait in quarantine have one figure everywhere, and bytes that come again keep what they brought first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rempart.cli.views import pipelines
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion.acceptance import HELD
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource
from rempart.web.facts import CockpitFacts, Unknown, gather
from rempart.web.metrics import exposition
from rempart.web.read_models import quarantine as quarantines
from rempart.web.read_models.data import data
from tests.cockpit import NOW, Watched
from tests.unit.cli.test_models_view import MODEL
from tests.unit.cli.test_pipelines_view import state
from tests.unit.ingestion.conftest import deliver, make_platform, platform, readings

__all__ = ["deliver", "make_platform", "platform", "readings"]  # the fixtures

GOOD: dict[str, Any] = {"outcome": "accepted", "accepted": 20, "quarantined": 0, "reasons": {}}
REPEATED = GOOD | {"accepted": 0, "repeated": 20, "added": -20, "added_repeated": 20, "came_again": True}
HOURS = [timedelta(hours=hours) for hours in (5, 4, 3)]


def cells(watched: Watched) -> list[list[str]]:
    head, *rows = pipelines.deliveries(state(watched.facts()).newest)
    named = ("LANDED", "ACCEPTED", "REPEATED", "IN QUARANTINE", "OUTCOME")
    return [[re.split("  +", row[head.index(column) :])[0] for column in named] for row in rows]


def test_what_a_delivery_brought_stays_in_view_when_the_same_bytes_come_again() -> None:
    watched = Watched()
    watched.delivery(ago=HOURS[0], **GOOD)
    watched.delivery(ago=HOURS[1], again=1, **REPEATED)
    first = ["2026-03-01 07:00 UTC", "20", "0", "0", "accepted; these bytes came first"]
    assert cells(watched) == [["2026-03-01 08:00 UTC", "0", "20", "0", "accepted; the same bytes again"], first]
    watched.delivery(ago=HOURS[2], again=2, **REPEATED)
    newest = ["2026-03-01 09:00 UTC", "0", "20", "0", "accepted; the same bytes again, delivered 3 times"]
    assert cells(watched) == [newest, first] and state(watched.facts()).deliveries == 1


def test_rows_of_bytes_that_came_again_wait_once_and_a_new_judgement_is_no_second_delivery() -> None:
    watched = Watched()
    watched.delivery(ago=HOURS[0])
    watched.delivery(ago=HOURS[1], again=1, came_again=True, accepted=0, repeated=17, added=-17, added_repeated=17)
    newest, first = cells(watched)
    assert newest[3:] == ["3", "accepted in part; the same bytes again"]
    assert first[3:] == ["0", "accepted in part; these bytes came first; 3 refused rows were judged again since"]
    assert state(watched.facts()).quarantined == 3
    judged = Watched()
    judged.delivery(ago=HOURS[0])
    judged.delivery(ago=HOURS[0], again=1, **GOOD | {"added": 3})
    assert cells(judged) == [["2026-03-01 07:00 UTC", "20", "0", "0", "accepted"]]


def figures_of_quarantine(facts: CockpitFacts) -> set[int]:
    """The rows in quarantine, as each place tells them."""
    quality, listed = (
        quarantines.quality(facts, MODEL, NOW),
        {each.pipeline: each for each in data(facts, NOW).pipelines},
    )
    told = next(line for line in exposition(facts, NOW).splitlines() if line.startswith("rempart_quarantined_rows{"))
    assert quality
    shown = [told.split(" ")[-1], re.findall(r"(\d+) rows?", told_rows(facts))[0]]
    return {quality.quarantined, state(facts).quarantined, listed[MODEL].quarantined, *map(int, map(float, shown))}


def told_rows(facts: CockpitFacts) -> str:
    return next(line for line in pipelines.state_lines(state(facts), "landing") if line.startswith("Quarantine: "))


def test_every_place_counts_the_rows_that_wait_now() -> None:
    watched = Watched()
    watched.delivery(ago=HOURS[0])
    assert figures_of_quarantine(watched.facts()) == {3}
    watched.delivery(ago=HOURS[0], again=1, accepted=19, quarantined=1, added=2)
    assert figures_of_quarantine(watched.facts()) == {1}, "two rows were accepted later"
    watched.record("snapshot", MODEL, {"snapshot": "s0", "site": "primary", "rows": 5, "quarantined": 4})
    assert figures_of_quarantine(watched.facts()) == {5}, "of a delivery that the records read do not reach"
    watched.delivery("cd" * 32, again=1, accepted=20, quarantined=0, reasons={}, added=3)
    assert figures_of_quarantine(watched.facts()) == {2}, "three of its rows were accepted since"
    watched.record("removal", MODEL, {"what": "reset", "state": "ended"})
    assert quarantines.rows(watched.facts()).get(MODEL, 0) == state(watched.facts()).quarantined == 0


def test_of_a_derived_pipeline_only_rows_of_the_newest_delivery_wait() -> None:
    watched = Watched()
    watched.delivery("cd" * 32, ago=HOURS[0], outcome="held back", accepted=0, quarantined=20, reasons={HELD: 20})
    watched.delivery(ago=HOURS[1])
    facts = watched.facts()
    assert not isinstance(facts.pipelines, Unknown)
    source = DerivedSource.model_construct(kind="derived", inputs=["other"], prefix=f"{MODEL}/")
    spec = facts.pipelines[MODEL]
    assert isinstance(spec, Pipeline)
    found = state(dataclasses.replace(facts, pipelines={MODEL: spec.model_copy(update={"source": source})}))
    assert (state(facts).quarantined, state(facts).held_back) == (23, 1)
    assert (found.quarantined, found.held_back) == (3, 0)
    assert "derived again since" in "\n".join(pipelines.deliveries(found.newest))


def test_the_evidence_of_a_second_delivery_of_the_same_bytes_keeps_the_first(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    newest = readings.model_copy(update={"on_conflict": "newest"})
    for _ in range(2):
        deliver("1.csv", "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,,base,", "m3,2026-01-01,3,,wrong,")
        ingest(platform, newest)
    facts = gather(lambda: platform, platform.clock)
    (found,) = quarantines.deliveries(facts, "readings")
    assert (found.accepted, found.repeated, found.quarantined) == (0, 2, 1)
    assert [(each.accepted, each.repeated) for each in found.earlier] == [(2, 0)]
    assert quarantines.rows(facts) == {"readings": 1}
