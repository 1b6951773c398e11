"""A pipeline whose data may not be where the platform keeps data: told by the check, and by each denial."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from rempart.errors import PlacementDenied
from rempart.flows.shared import platform as flows
from rempart.flows.shared.platform import Platform
from rempart.flows.training import check_pipeline
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config, pipelines
from rempart.settings.config import Connection

SENSITIVE = pipelines.named("hotel_bookings").model_copy(update={"classification": "sensitive", "name": "clinic"})


def test_a_pipeline_whose_data_may_not_be_at_the_platforms_places_is_refused() -> None:
    today = date(2026, 11, 1)
    with pytest.raises(PlacementDenied) as refused:
        check_pipeline.check_places(config.load(), SENSITIVE, on=today)
    for place in ("site 'primary'", "site 'haven'", "server 'postgresql'"):
        assert place in refused.value.what
    assert refused.value.what.startswith("include/pipelines/clinic.yaml: classification: data (sensitive) may not be")
    check_pipeline.check_places(config.load(), pipelines.named("hotel_bookings"), on=today)


def test_a_denial_names_the_pipelines_that_raise_the_classification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "load_all", lambda: {"clinic": SENSITIVE, "bikes": pipelines.named("hotel_bookings")})
    platform = Platform(
        config.load(),
        lambda name: Connection(name, "postgres", "127.0.0.1"),
        clock=lambda: datetime(2026, 11, 1, tzinfo=UTC),
        ledger_=MemoryLedger(),
    )
    with pytest.raises(PlacementDenied) as refused:
        platform.database("feast_offline")
    assert "may not be at server 'postgresql'" in refused.value.what
    assert refused.value.hint.endswith("Pipelines with this classification: clinic.")
