"""The steps of a backup and of a prune need a site, a ledger and keys, and no platform."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from rempart.backup.points import locking
from rempart.errors import IntegrityError
from rempart.flows.backup import collect_garbage, locks, mend_links
from rempart.flows.backup.point_store import PointStore
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import load
from tests.memory_site import MemorySite
from tests.restorable import NOW
from tests.switchovers import ROOT

KEY = signer(bytes(32))


@pytest.fixture
def store() -> PointStore:
    site = MemorySite("haven")
    site.ensure_bucket("backups", versioned=True, locked=True)
    rules = load(ROOT / "rempart.yaml").backup
    return PointStore(site, "backups", rules, MemoryLedger(KEY), lambda: NOW, lambda: KEY, lambda: {KEY.id: KEY.public})


def test_a_note_of_the_locks_is_read_as_it_was_written(store: PointStore) -> None:
    known = locking.KnownLocks({("repositories/a/data", "1"): NOW})
    locks.write_known(store, known)
    assert locks.read_known(store.site, store.bucket, store.trusted_keys().values()) == known


def test_a_note_that_a_site_stores_late_does_not_hide_the_newer_note(store: PointStore) -> None:
    """A backup gave its put up, and the next backup noted more locks before the site stored it."""
    now = datetime.now(UTC)
    earlier, later = (locking.KnownLocks({("repositories/a/data", str(n)): NOW}) for n in (1, 2))
    times = iter((now, now - timedelta(minutes=20)))
    store = dataclasses.replace(store, clock=lambda: next(times))
    locks.write_known(store, later)
    locks.write_known(store, earlier)
    assert locks.read_known(store.site, store.bucket, store.trusted_keys().values()) == later


def test_a_site_without_restore_points_needs_nothing(store: PointStore) -> None:
    assert collect_garbage.needed(store) == set()
    assert mend_links.check_chain(store) == {}
    assert mend_links.mend(store, dry_run=False) == mend_links.Mended()


def test_a_chain_that_the_ledger_knows_and_the_site_lost_is_refused(store: PointStore) -> None:
    body = {"site": "haven", "bucket": "backups", "link": 1, "link_file": "{}"}
    store.ledger.append("restore-point", "20260104T000000Z-abcdef", body)
    with pytest.raises(IntegrityError, match="All links of the chain are missing"):
        mend_links.check_chain(store)
