"""Keys of encryption scopes, created again if a repository is damaged: at sites in memory."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.errors import RepositoryDamaged
from rempart.flows.shared.keys import RENEWALS, key_of, open_keyring, renewed_key
from tests.erasable import in_two_memories

LEDGER = EncryptionScope("database", "ledger", "372d")
DAMAGE = RepositoryDamaged("restic dump: it does not give back what was stored in it", "Another one is begun.")


def test_i10_a_site_that_alters_every_repository_gets_a_few_a_day_and_then_the_backup_says_so() -> None:
    platform = dataclasses.replace(in_two_memories().platform, clock=lambda: datetime.now(UTC))
    keyring = open_keyring(platform)
    first = key_of(platform.ledger, keyring, LEDGER)
    serials = [renewed_key(platform.ledger, keyring, LEDGER, DAMAGE).serial for _ in range(RENEWALS)]
    assert [first.serial, *serials] == ["0001", "0002", "0003", "0004"]
    with pytest.raises(RepositoryDamaged, match="failed the same way") as refused:
        renewed_key(platform.ledger, keyring, LEDGER, DAMAGE)
    assert "another backup.site" in refused.value.hint
    assert key_of(platform.ledger, keyring, LEDGER).serial == "0004" and len(platform.ledger.find("backup-key")) == 4
