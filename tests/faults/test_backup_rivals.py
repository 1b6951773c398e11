"""A backup beside another, a backup that was paused, and an attacker with the site's key."""

import dataclasses
import secrets
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rempart.backup.databases.stored_dumps import file_name
from rempart.backup.points import points
from rempart.coordination import lease
from rempart.errors import BackupError, LeaseHeld, LeaseLost, SiteError
from rempart.flows.backup import back_up as flow
from rempart.flows.backup.back_up import back_up
from rempart.flows.backup.locks import read_known
from rempart.flows.backup.prune import prune
from rempart.flows.restore.repair import uncover
from rempart.flows.restore.restore_source import Wish, find, open_point
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.memory import MemoryLedger
from tests.faults.backed_up import own_platform, small_platform, stored

pytestmark = pytest.mark.tracking


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    yield from own_platform(platform, proven_ledger, own_continuity, monkeypatch)


@pytest.fixture
def small(standing, monkeypatch):
    return small_platform(standing, monkeypatch)


# --- K2, K3: what an attacker with the site's key cannot take away ----------------------------------------------------


def attack(site, bucket):
    """Delete whatever can be deleted, hide all else, write rubbish over it, and lock some of that."""
    for info in list(site.versions(bucket)):
        if info.key.startswith("heartbeats/"):
            continue
        try:
            site.delete(bucket, info.key, version_id=info.version_id)
            continue
        except SiteError:
            rubbish = site.write(bucket, info.key, b"ransom")
            if "/data/" in info.key:
                site.retain(bucket, info.key, rubbish.version_id, datetime.now(UTC) + timedelta(minutes=5))
            else:
                site.delete(bucket, info.key)


@pytest.mark.full
def test_k2_an_attacker_with_the_backup_sites_key_takes_no_restore_point_away(small):
    primary, (point, site) = small.site("primary", "personal"), (back_up(small), small.site("haven", "personal"))
    bucket = small.config.buckets.backups
    record = small.ledger.find("restore-point", point.id)[0].body
    locked = {
        info.key: site.retained_until(bucket, info.key, info.version_id)
        for info in site.versions(bucket)
        if not info.marker and not info.key.startswith(("keys/", "heartbeats/")) and "/locks/" not in info.key
    }
    assert {key.split("/")[0] for key in locked} == {"chain", "locks", "points", "restic", "sealed"}
    now = small.clock()
    assert not [key for key, until in locked.items() if not until or until < now + small.config.backup.locked], locked
    assert record["locks_set"] == sum(key.startswith("restic/") for key in locked)
    second = back_up(small)
    assert small.ledger.find("restore-point", second.id)[0].body["locks_set"] <= 4  # pack, index, snapshot; no more

    attack(site, bucket)
    assert points.list(site, bucket) == () and not list(site.list(bucket, "keys/"))
    with pytest.raises(BackupError, match="Nothing was pruned"):
        prune(small, dry_run=False)
    trusted = small.trusted_keys()
    note = read_known(site, bucket, trusted.values())
    assert note and len(uncover(site, bucket, note).keys) > 10
    uncover(site, bucket, note, dry_run=False)
    assert uncover(site, bucket, note).keys == ()
    wish = Wish("haven", point=second.id)
    detached = dataclasses.replace(small, ledger_=MemoryLedger())
    opened = open_point(
        find(detached, wish, trusted), wish, own_identity(small.connections)
    )  # keys come from the other site
    (dump,) = opened.manifest.databases
    repository = repository_of(small.config, small.connections, "haven", opened.keys.of(dump.scope, dump.serial))
    assert repository.dump(dump.snapshot, file_name(dump.name), lambda chunk: None).sha256 == dump.sha256
    assert opened.secrets() and list(primary.list(bucket, "keys/"))
    prune(small, dry_run=False)  # and the platform goes on
    last = back_up(small)
    assert stored(small) == (last.id, second.id, point.id)


def test_x2_a_second_backup_beside_a_live_one_is_refused_and_writes_nothing(small, monkeypatch):
    refused, before = [], flow.before_bringing

    def meanwhile(*arguments):  # half way, the first one's dumps are made
        with pytest.raises(LeaseHeld, match="restore points at haven") as error:
            back_up(small)
        refused.append(error.value)
        with pytest.raises(LeaseHeld):  # nor does a prune take away what it is about to name
            prune(small, dry_run=False, patience=0)
        return before(*arguments)

    monkeypatch.setattr(flow, "before_bringing", meanwhile)
    point = back_up(small)
    assert refused[0].transient and stored(small) == (point.id,)
    assert [record.subject for record in small.ledger.find("restore-point")] == [point.id]
    assert not small.ledger.find("prune")


def test_x3_who_was_paused_past_his_turn_does_not_commit_his_point(small, monkeypatch):
    before = flow.before_bringing

    def paused(*arguments):  # so long that his lease ended, and another began
        with psycopg.connect(small.database("continuity").postgresql_url(), autocommit=True) as session:
            ended = "UPDATE lease SET until = now() - interval '1 s' WHERE name LIKE '%% restore points at haven'"
            session.execute(ended + " AND holder = %s", [flow.holder()])
        held.append(small.continuity.take("restore points at haven", "the next one", 60))
        return before(*arguments)

    held = []
    monkeypatch.setattr(flow, "before_bringing", paused)
    with pytest.raises(LeaseLost, match="restore points at haven"):
        back_up(small)
    assert stored(small) == () and not small.ledger.find("restore-point")
    assert not list(small.site("haven", "personal").list(small.config.buckets.backups, "chain/"))
    small.continuity.release(held[0])


def test_x3_nobody_takes_a_turn_while_its_holder_commits_even_if_he_is_paused(small, monkeypatch):
    monkeypatch.setattr(lease, "WAIT_SECONDS", 16)  # longer than what is left of the first one's lease
    name, continuity = f"test {secrets.token_hex(4)}", small.database("continuity")
    first = lease.take(continuity, name, "the first", seconds=60)
    over_before_the_block = lease.still(continuity, first, seconds=15)
    with over_before_the_block, pytest.raises(LeaseHeld, match="the first"):
        lease.take(continuity, name, "the second")
    lease.release(continuity, lease.take(continuity, name, "the second"))
    with pytest.raises(LeaseLost), lease.still(continuity, first):
        pytest.fail("a stale holder committed")
