"""Two sites in memory, one the replica of the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[3]


def fresh() -> Platform:
    sites = {name: MemorySite(name) for name in ("primary", "haven")}
    for site in sites.values():
        for bucket in ("lake", "artifacts", "backups"):
            site.ensure_bucket(bucket, versioned=True)
    return Platform(
        config.load(ROOT / "rempart.yaml"),
        config.environment_connections,
        sites=dict(sites),
        ledger_=MemoryLedger(),
        continuity_=MemoryContinuity(),
    )


def new_platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    return fresh()


def later(platform: Platform, **ahead: float) -> Platform:
    """The same platform when that much time has passed."""
    return dataclasses.replace(platform, clock=lambda: datetime.now(UTC) + timedelta(**ahead))


def paired(platform: Platform, **rules: Any) -> Platform:
    """The same platform with other rules for its pair."""
    pair = platform.config.replication[0].model_copy(update=rules)
    return dataclasses.replace(platform, config=platform.config.model_copy(update={"replication": [pair]}))


@contextmanager
def other_run(platform: Platform) -> Iterator[None]:
    with platform.continuity.hold_lease("replicate primary -> haven", "another"):
        yield
