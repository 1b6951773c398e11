"""Keys of backups on servers of the test's own: their evidence in the real ledger, and a restore with escrow alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import Original
from rempart.errors import KeyDestroyed
from rempart.flows.backup.seal import seal_objects
from rempart.flows.shared import keys as flow
from rempart.flows.shared.platform import Platform
from rempart.ledger.verification import verify
from tests.integration.own_servers import Servers, own_servers

BOOKINGS, ORDERS = EncryptionScope("dataset", "bookings", "395d"), EncryptionScope("dataset", "orders", "30d")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    names = ("postgresql", "site-primary", "site-haven")
    with own_servers(tmp_path_factory.mktemp("keys") / "var", names) as running:
        yield running


@pytest.fixture
def platform(servers: Servers) -> Platform:
    """The shipped configuration with a bucket of backups that has locks, at both sites."""
    buckets = servers.stack.config.buckets.model_copy(update={"backups": f"sealed-{uuid4().hex[:8]}"})
    made = Platform(servers.stack.config.model_copy(update={"buckets": buckets}), servers.connections)
    for name in ("primary", "haven"):
        made.site(name, "personal").ensure_bucket(buckets.backups, versioned=True, locked=True)
    return made


def test_from_seal_to_destruction_and_a_restore_elsewhere_with_the_escrow_file_alone(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "escrow.key"
    backup = platform.config.backup.model_copy(update={"recipients": [flow.new_recipient(file, datetime.now(UTC))]})
    platform = dataclasses.replace(platform, config=platform.config.model_copy(update={"backup": backup}))
    ring = flow.open_keyring(platform)
    primary, haven = (place.site for place in reversed(ring.places))
    originals = []
    for scope, count in ((BOOKINGS, 20), (ORDERS, 5)):
        for number in range(count):
            key, body = f"raw/{scope.name}/{number}", f"{scope.name} {number}\n".encode() * 2000
            version = primary.write("lake", key, body).version_id
            originals.append(Original("lake", key, version, hashlib.sha256(body).hexdigest(), len(body), scope))
    until = datetime.now(UTC) + timedelta(minutes=5)
    sealed = seal_objects(platform.ledger, platform.config, ring, primary, originals, haven, until, ahead=timedelta(0))
    flow.destroy(platform.ledger, ring, BOOKINGS.id, dry_run=False)

    bucket = platform.config.buckets.backups
    elsewhere = Keyring((KeyPlace(haven, bucket),), age.read_identity_file(file), (), platform.clock)
    for original, sealed_object in zip(originals, sealed, strict=True):
        if original.scope == BOOKINGS:
            with pytest.raises(KeyDestroyed):
                elsewhere.open(original.scope, sealed_object.serial)
            continue
        key = elsewhere.open(original.scope, sealed_object.serial)
        unseal(haven, bucket, key, sealed_object, tmp_path / "out", sha256=original.sha256, size=original.size)
        assert (tmp_path / "out").read_bytes() == primary.read("lake", original.key)

    found = [
        (record.subject, record.body["event"])
        for record in reversed(platform.ledger.find("backup-key"))
        if record.body["places"][0].startswith(f"bucket {bucket} ")
    ]
    assert found == [(BOOKINGS.id, "made"), (ORDERS.id, "made"), (BOOKINGS.id, "destroyed")]
    lines = [entry.line for entry in platform.ledger.entries()]
    assert verify(lines, [platform.signer().public], {}).ok
    assert "AGE-SECRET-KEY" not in "".join(lines)
