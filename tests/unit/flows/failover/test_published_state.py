"""The state that a platform publishes at its sites, when two commands would publish at the same time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rempart.coordination.active import Active
from rempart.errors import FailoverError, LeaseHeld
from rempart.flows.failover import published_state
from rempart.flows.failover.fail_over import abandon
from tests import switchovers

ROOT = Path(__file__).parents[4]


def test_a_state_that_a_site_stores_late_does_not_hide_the_newer_one_from_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the database, what the sites tell decides where a person looks for the data."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    platform = switchovers.in_memory()
    site, bucket = platform.sites["primary"], platform.config.buckets.backups
    site.ensure_bucket(bucket, versioned=True)
    for generation, active in ((4, "haven"), (2, "primary")):
        state = published_state.body(Active(generation, active, "active"))
        site.write(bucket, published_state.KEY, state)
    told = published_state.read(platform)["primary"]
    assert isinstance(told, dict) and (told["generation"], told["site"]) == (4, "haven")


def test_a_switchover_cannot_publish_while_an_abandoned_one_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """It published generation 4 between the read and the write of generation 2, which then stood at the site."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    platform = switchovers.in_memory()
    switchovers.fill(platform)
    with platform.committing(platform.active()), pytest.raises(FailoverError, match="A task still commits"):
        switchovers.over(platform)
    refused: list[LeaseHeld] = []

    class Crossed:
        """The site `primary`: another switchover runs just before its published state is written."""

        def __getattr__(self, name: str) -> Any:
            return getattr(platform.sites["primary"], name)

        def write(self, bucket: str, key: str, body: bytes, **more: Any) -> object:
            if key == published_state.KEY:
                try:
                    switchovers.over(platform)
                except LeaseHeld as error:
                    refused.append(error)
            return platform.sites["primary"].write(bucket, key, body, **more)

    crossed = dataclasses.replace(platform, sites={**platform.sites, "primary": Crossed()})  # type: ignore[dict-item]
    assert abandon(crossed, dry_run=False).generation == 2
    for _ in range(2):
        for site in platform.sites.values():
            told = json.loads(site.read(platform.config.buckets.backups, published_state.KEY))
            now = platform.active()
            assert (told["generation"], told["site"]) == (now.generation, now.site)
        switchovers.over(platform)
    assert [error.what for error in refused] == ["take lease 'active-site': abandon has it"]
