"""Deliveries that wait for ingestion, as `rempart pipeline show` tells them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rempart.cli.views import waiting
from rempart.cli.views.waiting import WaitingFiles
from rempart.errors import SiteUnavailable
from rempart.flows.shared.platform import Platform
from rempart.settings import pipelines
from rempart.web.read_models.pipeline_states import NextStep
from tests.restorable import house

PIPELINE = pipelines.named("hotel_bookings")
DELIVER = NextStep("Nothing was delivered yet.", "rempart pipeline deliver hotel_bookings FILE")


def _gone() -> Platform:
    raise SiteUnavailable("list landing: no answer", "Start it.")


def _empty() -> Platform:
    platform = house().platform
    platform.active_site(PIPELINE.classification).ensure_bucket(platform.config.buckets.landing, versioned=True)
    return platform


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        (_gone, "UNKNOWN: which deliveries wait: list landing: no answer"),
        (_empty, "Waiting: no file"),
    ],
)
def test_what_waits_is_said_or_unknown(opened: Callable[[], Platform], told: str) -> None:
    assert waiting.line(waiting.look(opened, PIPELINE)) == told


def test_files_that_wait_are_named_and_come_before_the_next_delivery() -> None:
    platform = _empty()
    site = platform.active_site(PIPELINE.classification)
    for name in ("may.csv", "june.csv", "july.csv", "august\n.csv"):
        site.write(platform.config.buckets.landing, f"hotel_bookings/{name}", b"x" * 300, content_type="text/csv")
    found = waiting.look(lambda: platform, PIPELINE)
    assert waiting.line(found).startswith("Waiting: 4 files (1.2 kB): august") and "\n" not in waiting.line(found)
    assert waiting.line(found).endswith(", july.csv, june.csv and 1 more")
    step = waiting.step(found, "hotel_bookings", DELIVER)
    assert step == NextStep("4 deliveries wait for ingestion.", "rempart pipeline run hotel_bookings --follow")
    decide = NextStep(
        "A delivery is held back: decide about its rows, or leave it.",
        "rempart quarantine show hotel_bookings",
    )
    assert waiting.step(found, "hotel_bookings", decide) is decide
    assert waiting.step(WaitingFiles(), "hotel_bookings", DELIVER) is DELIVER
    assert waiting.as_json(found) == {"files": 4, "bytes": 1200, "unknown": None}
