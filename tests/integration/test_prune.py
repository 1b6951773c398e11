"""Real restore points are pruned: deleted points leave the repositories, too, and the others restore completely."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from rempart.backup.databases.stored_dumps import file_name
from rempart.backup.keys import encryption_scopes
from rempart.backup.points import points
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.backup.prune import prune
from rempart.flows.shared.keys import kept_for, open_keyring
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.memory import MemoryLedger
from rempart.settings.retention_rules import Keep
from tests.buckets import own_buckets
from tests.conftest import OwnContinuity

pytestmark = [pytest.mark.tracking, pytest.mark.full]


HELD = ("continuity", "mlflow", "ledger")
"""Each database has a repository of its own, and these are pruned as all are."""


@pytest.fixture
def standing(
    platform: Platform,
    proven_ledger: MemoryLedger,
    own_continuity: OwnContinuity,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Platform]:
    """Three of the stack's databases, empty buckets of the test's, and rules that keep next to nothing."""
    monkeypatch.setattr(flow, "DATABASES", HELD)
    keep = Keep(hourly=1, daily=1, weekly=0, monthly=1)  # so locks last a month: none may end in the past
    backup = platform.config.backup.model_copy(update={"keep": keep, "locked": timedelta(0)})
    with own_buckets(platform, "prune") as buckets:
        settings = platform.config.model_copy(update={"buckets": buckets, "backup": backup})
        yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)


def test_a_pruned_point_leaves_the_repositories_and_the_others_come_out_whole(standing: Platform) -> None:
    now = datetime.now(UTC)

    def before(days: int) -> Platform:
        return dataclasses.replace(standing, clock=lambda: now - timedelta(days=days))

    made = [back_up(before(days)).id for days in (9, 6, 3, 0)]
    site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
    assert points.list(site, bucket) == tuple(reversed(made))
    done = prune(standing, dry_run=False)
    assert done.deleted == (made[0],) and not done.retained
    assert points.list(site, bucket) == tuple(reversed(made[1:]))
    kept, keyring = kept_for(standing.config.backup.keep), open_keyring(standing)
    for name in HELD:
        key = keyring.open(encryption_scopes.of_database(name, kept))
        tags = sorted(
            tag
            for snapshot in repository_of(standing.config, standing.connections, "haven", key).snapshots()
            for tag in snapshot.tags
        )
        assert tags == [f"point={point}" for point in made[1:]]
    ended = standing.ledger.find("prune", limit=1)[0].body
    assert ended["state"] == "ended" and set(ended["dumps_forgotten"].values()) == {1}
    for point in made[1:]:
        for dump in points.decode(site.read(bucket, f"points/{point}/manifest.json")).databases:
            repository = repository_of(
                standing.config,
                standing.connections,
                "haven",
                keyring.open(encryption_scopes.parse(dump.scope), dump.serial),
            )
            assert repository.dump(dump.snapshot, file_name(dump.name), lambda chunk: None).sha256 == dump.sha256
    assert prune(standing, dry_run=False).deleted == ()
