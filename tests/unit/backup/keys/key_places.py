"""Two sites in memory that hold keys, and a key ring on them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from tests.memory_site import MemorySite

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BUCKET = "backups"
BOOKINGS, LEDGER = EncryptionScope("dataset", "bookings", "395d"), EncryptionScope("database", "ledger", "372d")
PLATFORM, ESCROW, STRANGER = age.new_identity(), age.new_identity(), age.new_identity()


def place(name: str, **how: bool) -> KeyPlace:
    site = MemorySite(name)
    site.ensure_bucket(BUCKET, versioned=how.get("versioned", True), locked=how.get("locked", False))
    return KeyPlace(site, BUCKET)


def new_ring(request: pytest.FixtureRequest) -> Keyring:
    places = (place("haven", versioned=request.param), place("primary", versioned=request.param))
    return Keyring(places, PLATFORM, (ESCROW.recipient,), lambda: NOW)
