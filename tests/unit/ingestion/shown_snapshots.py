"""A pipeline with two snapshots and a third delivery, and what its site shows as the current one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rempart.flows.erasure.erase_stores import ErasureStores, open_stores
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.settings.pipeline import Pipeline
from tests.memory_site import MemorySite

A, B, C = "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,3,night,x", "m3,2026-02-01,3,1,base,"
CURRENT = "snapshots/readings/current.json"
Deliver = Callable[..., None]


@pytest.fixture
def two(platform: Platform, readings: Pipeline, deliver: Deliver) -> dict[str, bytes]:
    """Two snapshots were made, and a third delivery waits; what `current.json` held after the first and the second."""
    held = {}
    for name, row in (("1", A), ("2", B)):
        deliver(f"{name}.csv", row)
        ingest(platform, readings)
        held[name] = platform.sites["primary"].read("lake", CURRENT)
    deliver("3.csv", C)
    return held


def newest(platform: Platform) -> str:
    """The newest snapshot on record."""
    return str(platform.ledger.find("snapshot", "readings", limit=1)[0].body["snapshot"])


def stores_of(platform: Platform, restored: str | None = None) -> ErasureStores:
    platform.sites["haven"] = MemorySite("haven")
    return open_stores(platform, restored)


def show(platform: Platform, body: bytes | None) -> None:
    site = platform.sites["primary"]
    site.delete("lake", CURRENT) if body is None else site.write("lake", CURRENT, body)
