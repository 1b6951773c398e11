"""Replicas read back at sites in memory, while others work on the same pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, BinaryIO

import pytest

from rempart.flows.replication.replicate import replicate
from rempart.flows.replication.verify_replicas import verify
from rempart.flows.shared.leases import pair_lease
from rempart.flows.shared.platform import Platform
from rempart.replication.plan import Replica
from tests.switchovers import fill, in_memory

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAIR = ("primary", "haven")


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("change", ["hidden", "forgotten", "copied again"])
def test_what_another_run_records_while_replicas_are_read_back_stands(
    monkeypatch: pytest.MonkeyPatch, change: str, damaged: bool
) -> None:
    platform = in_memory()
    fill(platform, count=2)
    replicate(platform, *PAIR)
    verify(platform, *PAIR)  # the new ones
    bucket, haven = platform.config.buckets.lake, platform.sites["haven"]
    (row,) = rows(platform)
    after = {
        "hidden": [replace(row, hidden=NOW)],
        "forgotten": [],
        "copied again": [replace(row, target_version="another", target_etag="another")],
    }[change]
    opened = haven.open

    @contextmanager
    def meanwhile(where: str, key: str, **more: Any) -> Iterator[BinaryIO]:
        if key == row.key:
            with platform.continuity.hold_lease(pair_lease(*PAIR), "another run") as lease:
                platform.continuity.catalogue(*PAIR).forget(bucket, [row], lease)
                platform.continuity.catalogue(*PAIR).record(bucket, after, lease)
        with opened(where, key, **more) as body:
            yield body

    monkeypatch.setattr(haven, "open", meanwhile)
    if damaged:
        haven.write(bucket, row.key, b"other")
        haven.delete(bucket, row.key, version_id=row.target_version)
    monkeypatch.setattr("rempart.flows.replication.verify_replicas.bring", lambda *given: None)
    result = verify(platform, *PAIR, whole=True)
    assert rows(platform) == after
    assert result.damaged == ()


def rows(platform: Platform) -> list[Replica]:
    return list(platform.continuity.catalogue(*PAIR).rows(platform.config.buckets.lake))
