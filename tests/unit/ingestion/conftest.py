"""A small pipeline and a platform in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import yaml

from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from tests.memory_site import MemorySite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

READINGS = """
name: readings
classification: personal
source: {prefix: readings/}
key: [meter, day]
moments: {read: {column: day}}
partition_by: day
schema:
  meter: {type: string, known: read}
  day: {type: date, known: read}
  kwh: {type: number, known: read}
  people: {type: integer, known: read, nullable: true}
  tariff: {type: category, known: read, values: [base, night]}
  note: {type: string, known: read, nullable: true}
expectations:
  - {expect: expect_column_values_to_be_between, column: kwh, min_value: 0, max_value: 100, reason: kwh out of range}
max_quarantined: 1
features: {own: {kind: row, at: read, columns: [people, tariff]}}
prediction: {target: kwh, task: regression, at: read}
holdout: {column: day, start: 2026-02-01}
gate: {metric: mae, limit: 10, baseline_by: [tariff]}
"""
HEADER = "meter,day,kwh,people,tariff,note\n"


def no_connection(name: str) -> Connection:
    raise AssertionError(f"a test in memory asked for connection {name}")


@pytest.fixture
def readings() -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(READINGS))


@pytest.fixture
def make_platform() -> Callable[[], Platform]:
    def make() -> Platform:
        site = MemorySite("primary")
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        config = configuration.load()
        return Platform(
            config, no_connection, lambda: NOW, {config.active_site: site}, MemoryLedger(), MemoryContinuity()
        )

    return make


@pytest.fixture
def platform(make_platform: Callable[[], Platform]) -> Platform:
    return make_platform()


@pytest.fixture
def deliver(platform: Platform) -> Callable[..., None]:
    """Put a delivery into the landing bucket."""

    def put(name: str, *rows: str, header: str = HEADER, to: Platform | None = None) -> None:
        body = (header + "".join(f"{row}\n" for row in rows)).encode()
        target = to or platform
        target.sites[target.config.active_site].write("landing", f"readings/{name}", body)

    return put
