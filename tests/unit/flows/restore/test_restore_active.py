"""A restore that makes the backup site the active one, on a platform in memory: the active site, and the messages."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.backup.points.points import Manifest, Secrets
from rempart.backup.points.restore_plan import Part
from rempart.backup.points.sealing import SealedObject
from rempart.coordination.active import Active, ActiveSites, switchover_to
from rempart.coordination.failover import Switchover
from rempart.errors import BackupError, ConfigError, RempartError, SiteUnavailable
from rempart.flows.failover import fail_over, published_state
from rempart.flows.restore import restore_active
from rempart.flows.restore.restore_source import Wish
from rempart.flows.shared.platform import Platform
from tests import switchovers

ROOT = Path(__file__).parents[4]
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SEALED = SealedObject("platform-platform-372d", "0001", "sealed/x.age", "1", "a" * 64, 1, NOW)
POINT = Manifest(
    "20261125T113000Z-abcdef",
    *(NOW - timedelta(minutes=30), "primary", "0.1.0", "c" * 64, (), (), {}, (0, None), (), 0.0),
    Secrets(SEALED, "0" * 64, 1),
)


class UnreachableSite:
    """A site that answers nothing."""

    name, endpoint = "primary", "memory:gone"

    def __getattr__(self, name: str) -> object:
        raise SiteUnavailable(f"{name} at site 'primary': no answer", "Wait.")


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """As it was restored: the primary is lost, and nothing but the databases and `haven` is there."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    monkeypatch.setattr(
        restore_active,
        "fail_over",
        lambda *arguments, **more: fail_over.fail_over(*arguments, **more, tracking=switchovers.switch_tracking),
    )
    made = switchovers.in_memory(clock=lambda: NOW)
    return dataclasses.replace(made, sites={**made.sites, "primary": UnreachableSite()})  # type: ignore[dict-item]


def sites(platform: Platform) -> ActiveSites:
    return platform.continuity.active_sites("primary")


def restored(platform: Platform) -> Active:
    now = restore_active.switch(platform, POINT, "haven", 7, NOW)
    restore_active.resume(platform, "haven")
    return now


def test_the_platform_is_at_haven_with_evidence_of_each_step_and_its_loss(platform: Platform) -> None:
    assert (restored(platform).site, platform.active().generation) == ("haven", 1)
    records = [record.body for record in reversed(platform.ledger.find("failover", "primary->haven"))]
    assert [record["step"] for record in records] == ["fence", "drain", "verify", "switch", "resume"]
    assert records[1]["lag_seconds"] == 1800 and POINT.id in records[1]["unknown"] and not records[1]["complete"]
    assert records[2]["objects"] == 7
    told = "\n".join(published_state.lines(platform))
    assert "'haven' is active" in told and "in progress" not in told and "run `rempart site failback` to return" in told
    assert switchover_to(platform.active(), "primary", "failback", "new") is not None


def test_a_second_time_nothing_changes(platform: Platform) -> None:
    restored(platform)
    before = len(platform.ledger.find("failover"))
    assert restored(platform).generation == 1 and len(platform.ledger.find("failover")) == before


def test_a_run_that_was_killed_after_the_switch_is_resumed(platform: Platform) -> None:
    restore_active.switch(platform, POINT, "haven", 7, NOW)
    assert "run `rempart site failover --to haven" in "\n".join(published_state.lines(platform))
    restored(platform)
    assert "under way" not in "\n".join(published_state.lines(platform))


def test_a_point_that_was_made_while_the_platform_moved_is_moved_all_the_same(platform: Platform) -> None:
    with sites(platform).hold_lease("test") as lease:
        begun = Switchover("j", "failover", "primary", "haven", False)
        sites(platform).advance(lease, platform.active(), Active(0, "primary", "fenced", begun))
    assert (restored(platform).state, platform.active().generation) == ("active", 2)
    assert platform.active().switchover and platform.active().switchover.over


def test_who_restores_and_who_asks_later_is_told_that_nothing_backs_it_up(platform: Platform) -> None:
    assert not [*restore_active.lines(platform)]
    restored(platform)
    first, second = restore_active.lines(platform)
    assert first == "'haven' is the active site; rempart.yaml names 'primary'"
    assert second.startswith(restore_active.NO_BACKUP) and "'primary': no answer" in second and "backup.site" in second
    back = dataclasses.replace(platform, sites=switchovers.in_memory().sites)
    assert restore_active.no_backup(back, "haven") is None


@pytest.mark.parametrize(
    ("wish", "refusal", "arguments"),
    [
        (Wish("haven", active="nowhere"), ConfigError, "Site 'nowhere' is not declared"),
        (Wish("haven", active="haven", aside="before"), BackupError, "in place"),
        (Wish("haven", active="haven", parts=(Part("bucket", "lake"),)), BackupError, "complete restore in place"),
    ],
)
def test_only_a_whole_restore_moves_the_platform(wish: Wish, refusal: type[RempartError], arguments: str) -> None:
    with pytest.raises(refusal, match=arguments):
        restore_active.check(switchovers.in_memory().config, wish)
