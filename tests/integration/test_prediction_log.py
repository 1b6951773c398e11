"""The prediction log on real sites: killed at every step of a shipment, then erased, then expired."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.flows.erasure import erase as erase_flow
from rempart.flows.prediction_log import files, keys, retention, shipment
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.serving import hour_files, segments
from rempart.serving.entries import PredictionEntry
from rempart.settings import pipelines
from rempart.sites.s3.site import S3Site
from tests.buckets import own_buckets
from tests.conftest import OwnContinuity
from tests.logged import Killed, entry, journal, killed_at, written
from tests.unit.flows.erasure.booked import without_features

pytestmark = pytest.mark.stores
NAME = "hotel_bookings"
BEGAN = datetime(2020, 6, 1, 8, tzinfo=UTC)


@pytest.fixture
def own(
    platform: Platform,
    proven_ledger: MemoryLedger,
    own_continuity: OwnContinuity,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Platform]:
    """The stack's sites with buckets of the test's own."""
    without_features(monkeypatch)
    with own_buckets(platform, "predictions") as buckets:
        config = platform.config.model_copy(update={"buckets": buckets})
        yield dataclasses.replace(platform, config=config, ledger_=proven_ledger, continuity_=own_continuity)


def at(number: int) -> PredictionEntry:
    return entry(number, BEGAN + timedelta(minutes=20 * number))


def ids(platform: Platform, count: int) -> list[str]:
    """Every id in files that evidence names, with repetitions."""
    site, lake = platform.site("primary", "personal"), platform.config.buckets.lake
    until = BEGAN + timedelta(minutes=20 * count)
    tables = files.entries(platform.ledger, site, lake, NAME, BEGAN, until)
    return sorted(name for table in tables for name in table["id"].to_pylist())


def test_a_log_on_a_real_site_is_whole_whatever_is_killed_and_goes_when_it_must(
    own: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, folder = pipelines.with_model(pipelines.named(NAME)), tmp_path / NAME

    def log(*numbers: int) -> None:
        keys.make(own, pipeline)
        written(journal(own, pipeline, tmp_path), [at(number) for number in numbers])

    log(0)
    shipment.ship(own, folder)
    number, step, ended = 1, 0, False
    while not ended:
        step += 1
        log(number, number + 1)
        with monkeypatch.context() as broken, suppress(Killed):
            count = killed_at(step, broken, S3Site, MemoryLedger, ["write_new"])
            shipment.ship(own, folder)
        ended = count() < step
        log(number + 2)
        number += 3
        shipment.ship(own, folder)
    assert step > 5 and segments.all_in(folder) == []
    assert ids(own, number) == sorted(at(each).id for each in range(number))

    done = erase_flow.erase(own, pipeline, [(2,)], by="data-protection-officer", reason="objection", dry_run=False)
    assert not done.pending and done.rewritten == 1
    assert ids(own, number) == sorted(at(each).id for each in range(number) if each != 2)

    expired = retention.expire(own, pipeline)
    assert expired and expired.files > 3 and not expired.pending
    site = own.site("primary", "personal")
    assert not list(site.versions(own.config.buckets.lake, hour_files.ROOT))
