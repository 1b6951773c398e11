"""The register of erasures is written to sites and the ledger, without a platform."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.points import erasures as files
from rempart.backup.points.erasures import Erasure
from rempart.errors import SiteError
from rempart.flows.shared import erasures
from rempart.flows.shared.erasures import Register
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from tests.memory_site import MemorySite
from tests.restorable import NOW

KEY, KEPT = signer(bytes(32)), timedelta(days=30)


@pytest.fixture
def sites() -> dict[str, MemorySite]:
    made = {name: MemorySite(name) for name in ("primary", "haven")}
    for site in made.values():
        site.ensure_bucket("backups", versioned=True, locked=True)
    return made


@pytest.fixture
def register() -> Register:
    return Register("backups", KEPT, MemoryLedger(KEY), lambda: KEY, lambda: NOW)


def entry() -> Erasure:
    scope = EncryptionScope("platform", files.KEYS, "30d")
    key = ScopeKey(scope, "0001", age.new_identity(), "restic", b"k" * 32, True)
    return erasures.new_entry(key, NOW, "bookings", [("1",), ("1",), ("2",)], "officer", "subject-request", "abcd")


def test_an_entry_is_locked_at_every_site_as_long_as_an_older_point_may_live(
    sites: dict[str, MemorySite], register: Register
) -> None:
    made = entry()
    assert len(made.subjects) == 2 and register.write(sites, [made], must="haven") == {}
    for site in sites.values():
        (info,) = site.versions("backups", files.key_of(made.id))
        assert site.retained_until("backups", info.key, info.version_id) == NOW + KEPT
    assert erasures.on_record(register.ledger, "bookings") == [made]
    assert register.write(sites, [made], must="haven") == {}
    assert len(register.ledger.find("erasure")) == 1, "an entry that is there is not written again"


def test_without_the_site_of_the_restore_points_nothing_is_written(
    sites: dict[str, MemorySite], register: Register
) -> None:
    with pytest.raises(SiteError, match="'haven', which stores restore points, cannot be reached"):
        register.write({"primary": sites["primary"]}, [entry()], must="haven")
    assert not list(sites["primary"].list("backups")) and register.ledger.find("erasure") == []
