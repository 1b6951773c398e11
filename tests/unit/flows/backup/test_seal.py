"""Sealing at a backup site in memory: once for each object, verified, locked long enough; errors name the object."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import Original, SealedObject
from rempart.errors import (
    ConfigError,
    IntegrityError,
    KeyMissing,
    KeyWrong,
    LockLapses,
    ObjectMissing,
    RempartError,
    SiteError,
    SiteUnavailable,
)
from rempart.flows.backup.seal import seal_objects
from rempart.flows.shared import keys as flow
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Connection
from tests.memory_site import MemorySite
from tests.switchovers import in_memory

NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)  # the site in memory has the real clock: these locks hold
UNTIL = NOW + timedelta(days=30)
BOOKINGS, MODELS = EncryptionScope("dataset", "bookings", "395d"), EncryptionScope("platform", "platform", "372d")
OWN, ESCROW = age.new_identity(), age.new_identity()


class Faulty(MemorySite):
    """A site of which a test replaces operations: each gets the real one first."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.faults: dict[str, Callable[..., Any]] = {}
        self.asked: list[tuple[str, str]] = []

    def __getattribute__(self, name: str) -> Any:
        real = super().__getattribute__(name)
        if name.startswith("_") or name in ("faults", "asked", "name", "endpoint", "clock"):
            return real

        def call(bucket: str, *args: Any, **more: Any) -> Any:
            self.asked.append((name, args[0] if args and isinstance(args[0], str) else ""))
            fault = self.faults.get(name)
            return fault(real, bucket, *args, **more) if fault else real(bucket, *args, **more)

        return call


@dataclasses.dataclass
class House:
    platform: Platform
    ring: Keyring
    lake: MemorySite
    haven: Faulty

    def put(self, key: str, body: bytes, scope: EncryptionScope = BOOKINGS) -> Original:
        stored = self.lake.write("lake", key, body)
        return Original("lake", key, stored.version_id, hashlib.sha256(body).hexdigest(), len(body), scope)

    def seal(self, *originals: Original, **more: Any) -> tuple[SealedObject, ...]:
        until = more.pop("until", UNTIL)
        return seal_objects(
            self.platform.ledger, self.platform.config, self.ring, self.lake, originals, self.haven, until, **more
        )

    def open(self, sealed: SealedObject, original: Original, folder: Path) -> bytes:
        key, file = self.ring.open(original.scope, sealed.serial), folder / "opened"
        unseal(self.haven, "backups", key, sealed, file, sha256=original.sha256, size=original.size)
        return file.read_bytes()

    def writes(self) -> int:
        return sum(name == "write_file" for name, _ in self.haven.asked)


@pytest.fixture
def house() -> House:
    lake, haven = MemorySite("primary"), Faulty("haven")
    lake.ensure_bucket("lake", versioned=True)
    lake.ensure_bucket("backups", versioned=True)
    haven.ensure_bucket("backups", versioned=True, locked=True)
    platform = dataclasses.replace(in_memory(), sites={"primary": lake, "haven": haven}, clock=lambda: NOW)
    places = (KeyPlace(haven, "backups"), KeyPlace(lake, "backups"))
    return House(platform, Keyring(places, OWN, (ESCROW.recipient,), lambda: NOW), lake, haven)


def test_each_content_is_sealed_once_under_lock_and_opens_to_the_same(house: House, tmp_path: Path) -> None:
    originals = [
        house.put("a", b"one" * 1000),
        house.put("b", b"two"),
        house.put("c", b"one" * 1000),
        house.put("d", b""),
    ]
    told: list[tuple[int, int]] = []
    sealed = house.seal(*originals, progress=lambda done, total: told.append((done, total)))
    assert sealed[0] == sealed[2] and len(set(sealed)) == 3 == house.writes()
    assert told[-1] == (3, 3)
    for original, info in zip(originals, sealed, strict=True):
        assert house.haven.retained_until("backups", info.key, info.version) == info.retained_until >= UNTIL
        assert house.open(info, original, tmp_path) == house.lake.read("lake", original.key)
        with pytest.raises(SiteError, match="locked"):
            house.haven.delete("backups", info.key, version_id=info.version)


def test_what_earlier_points_sealed_is_neither_sent_nor_asked_for_again(house: House) -> None:
    originals = [house.put(str(n), bytes([n])) for n in range(5)]
    before = house.seal(*originals)
    house.haven.asked.clear()
    assert house.seal(*originals, known=before) == before
    assert not [key for name, key in house.haven.asked if name != "versions" and key.startswith("sealed/")]


def test_a_lock_that_ends_too_soon_is_extended_with_some_days_in_hand(house: House) -> None:
    sealed = house.put("a", b"one")
    before = house.seal(sealed)
    later = UNTIL + timedelta(days=20)
    after = house.seal(sealed, known=before, until=later)
    assert after[0].version == before[0].version and after[0].retained_until >= later
    assert house.haven.retained_until("backups", after[0].key, after[0].version) == after[0].retained_until
    assert house.writes() == 1
    assert house.seal(sealed, known=after, until=later + timedelta(days=3)) == after, "that needs no request"


def test_one_that_is_known_and_gone_is_stored_again(house: House, tmp_path: Path) -> None:
    sealed = house.put("a", b"one")
    before = house.seal(sealed)
    house.haven._retained.clear()
    house.haven.delete("backups", before[0].key, version_id=before[0].version)
    after = house.seal(sealed, known=before)
    assert after[0].version != before[0].version and house.open(after[0], sealed, tmp_path) == b"one"


def test_one_that_a_killed_run_left_is_opened_and_taken(house: House) -> None:
    sealed = house.put("a", b"one")
    before = house.seal(sealed)
    assert house.seal(sealed) == before and house.writes() == 1


def test_what_a_stranger_put_under_its_name_is_not_taken(house: House, tmp_path: Path) -> None:
    sealed = house.put("a", b"one")
    (before,) = house.seal(sealed)
    key = house.ring.open(BOOKINGS)
    house.haven.write("backups", before.key, b"garbage")
    house.haven.write("backups", before.key, age.encrypt(b"other", [key.recipient]))
    assert house.seal(sealed) == (before,), "the older version is the one that opens"
    house.haven._retained.clear()
    house.haven.delete("backups", before.key, version_id=before.version)
    (after,) = house.seal(sealed)
    assert house.writes() == 2 and house.open(after, sealed, tmp_path) == b"one"


def test_a_source_that_is_not_what_is_on_record_is_not_sealed_and_stops_no_other(house: House) -> None:
    good, bad = house.put("good", b"good"), house.put("bad", b"bad")
    bad = dataclasses.replace(bad, sha256="00" * 32)
    with pytest.raises(IntegrityError, match=r"lake/bad at site 'primary'.*expected 000000000000"):
        house.seal(bad, good)
    assert house.writes() == 1
    with pytest.raises(IntegrityError, match=r"2 objects are not sealed.*lake/bad"):
        house.seal(bad, dataclasses.replace(bad, sha256="11" * 32), good)


def test_a_site_that_stores_something_else_is_told(house: House) -> None:
    def write_file(real: Any, bucket: str, key: str, file: Path, **more: Any) -> Any:
        file.write_bytes(file.read_bytes()[:-1])
        return real(bucket, key, file, **more)

    house.haven.faults["write_file"] = write_file
    with pytest.raises(IntegrityError, match="read back backups/sealed/"):
        house.seal(house.put("a", b"one"))


def test_a_site_that_sets_no_lock_is_told(house: House) -> None:
    house.haven.faults["write_file"] = lambda real, *args, retain_until, **more: real(*args, **more)

    def retain(*_: Any) -> datetime:
        raise SiteError("retain: refused", "Ask.")

    house.haven.faults["retain"] = retain
    with pytest.raises(LockLapses, match="could not be extended: retain: refused"):
        house.seal(house.put("a", b"one"))


def test_a_site_that_does_not_answer_ends_it_soon(house: House) -> None:
    tries = []

    def down(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise SiteUnavailable("put", "Retry.")

    house.haven.faults["write_file"] = down
    with pytest.raises(SiteUnavailable) as error:
        house.seal(*(house.put(str(n), str(n).encode()) for n in range(500)), workers=2)
    assert error.value.transient and len(tries) < 40


def test_a_large_object_goes_in_parts_and_is_locked(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.replication.transfer.ONE_PUT", 100)
    monkeypatch.setattr("rempart.replication.transfer.PART", 64)
    monkeypatch.setattr("rempart.flows.backup.seal.IN_MEMORY", 10)
    body = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(50))
    stored = house.put("a", body)
    (sealed,) = house.seal(stored)
    assert house.writes() == 0 and house.open(sealed, stored, tmp_path) == body
    assert house.haven.retained_until("backups", sealed.key, sealed.version) == sealed.retained_until >= UNTIL


def test_opening_checks_the_key_the_bytes_and_the_content(house: House, tmp_path: Path) -> None:
    sealed, other = house.put("a", b"one"), house.put("b", b"model", MODELS)
    first, second = house.seal(sealed, other)
    with pytest.raises(KeyWrong, match=second.key):
        unseal(
            house.haven, "backups", house.ring.open(BOOKINGS), second, tmp_path / "x", sha256=other.sha256, size=5
        )  # fmt: skip
    sound = house.haven.read("backups", first.key)
    for letter, told in (
        (b"B" if sound[60:61] == b"A" else b"A", "SHA-256 of its encrypted bytes"),  # age takes that for a wrong key
        (b".", "cannot be decrypted completely"),  # no letter of base64: age reads no header
    ):
        damaged = sound[:60] + letter + sound[61:]
        house.haven._buckets["backups"][first.key][-1] = (house.haven.head("backups", first.key), damaged)
        with pytest.raises(IntegrityError, match=told):
            house.open(first, sealed, tmp_path)
    with pytest.raises(IntegrityError, match="SHA-256 of its content"):
        house.open(second, dataclasses.replace(other, sha256=sealed.sha256), tmp_path)
    with pytest.raises(ObjectMissing):
        house.open(dataclasses.replace(first, version="none"), sealed, tmp_path)
    assert not list(tmp_path.iterdir()), "what was not proven is not there"


def test_making_destroying_and_rewrapping_keys_is_evidence_without_a_secret(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.seal(house.put("a", b"one"))
    house.seal(house.put("b", b"two"))
    lines = list(flow.destruction_lines(flow.destroy(house.platform.ledger, house.ring, BOOKINGS.id), dry_run=True))
    assert "Pass --yes" in lines[-1]
    lines += flow.rewrap_lines(house.ring, flow.rewrap(house.platform.ledger, house.ring, dry_run=False), dry_run=False)
    key = house.ring.open(BOOKINGS)
    done = flow.destroy(house.platform.ledger, house.ring, BOOKINGS.id, dry_run=False)
    lines += flow.destruction_lines(done, dry_run=False)
    house.seal(house.put("c", b"three"))
    records = house.platform.ledger.find("backup-key", BOOKINGS.id)[::-1]
    assert [(record.body["event"], record.body["serial"]) for record in records] == [
        ("made", "0001"), ("rewraps", "0001"), ("rewrapped", "0001"), ("destroyed", "0001"), ("made", "0002"),
    ]  # fmt: skip
    text = str(house.platform.ledger.find("backup-key")) + "".join(lines) + caplog.text
    assert not [secret for secret in (key.identity.secret, key.restic_password, OWN.secret) if secret in text]
    lines = list(flow.listing(house.platform.ledger, house.ring))
    assert "0001  destroyed on 2099-03-01" in lines[0] and "opened by the platform, age1" in lines[1]
    with pytest.raises(KeyMissing, match="never had a key"):
        flow.destroy(house.platform.ledger, house.ring, MODELS.id)


def test_a_key_that_vanished_everywhere_is_not_quietly_replaced(house: House) -> None:
    sealed = house.put("a", b"one")
    house.seal(sealed)
    for place in house.ring.places:
        for info in list(place.site.versions("backups", "keys/")):
            place.site.delete("backups", info.key, version_id=info.version_id)
    with pytest.raises(
        KeyMissing, match="is missing at bucket backups at site 'haven', bucket backups at site 'primary'"
    ):
        house.seal(sealed)
    flow.destroy(house.platform.ledger, house.ring, BOOKINGS.id, dry_run=False)
    assert house.seal(sealed), "once it is on record, a new one is made"


def settings(recipients: list[str], escrow: str) -> Any:
    loaded = in_memory().config
    backup = loaded.backup.model_copy(update={"recipients": recipients, "escrow": escrow})
    return loaded.model_copy(update={"backup": backup})


def test_without_escrow_nothing_is_sealed_unless_that_was_chosen() -> None:
    with pytest.raises(ConfigError, match=r"backup\.recipients is empty"):
        flow.escrow_warning(settings([], "required"), "personal")
    assert "only the platform's own key" in str(flow.escrow_warning(settings([], "none"), "sensitive"))
    assert "only the platform's own key" in str(flow.escrow_warning(settings([], "required"), "internal"))
    assert flow.escrow_warning(settings([ESCROW.recipient], "required"), "sensitive") is None


def test_the_keyring_of_a_platform_is_at_both_sites_with_its_own_key_and_escrow(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def connections(name: str) -> Connection:
        return Connection(name, "age", login=OWN.recipient, password=OWN.secret)

    platform = dataclasses.replace(
        house.platform, config=settings([ESCROW.recipient], "required"), connections=connections
    )
    ring = flow.open_keyring(platform)
    flow.warn_of_escrow(platform.config)
    assert [str(place) for place in ring.places] == [
        "bucket backups at site 'haven'",
        "bucket backups at site 'primary'",
    ]
    assert ring.recipients == (OWN.recipient, ESCROW.recipient) and not caplog.messages
    alone = dataclasses.replace(platform, config=settings([], "none"))
    flow.warn_of_escrow(alone.config)
    assert flow.open_keyring(alone).escrow == ()
    assert len(caplog.messages) == 1 and caplog.text.startswith("WARNING")
    assert caplog.messages[0].startswith("only the platform's own key opens")


@pytest.mark.parametrize(
    ("login", "password"),
    [(ESCROW.recipient, OWN.secret), (OWN.recipient, "hunter2")],
    ids=["another's", "no key"],
)
def test_a_wrong_own_key_is_refused_without_showing_it(house: House, login: str, password: str) -> None:
    platform = dataclasses.replace(
        house.platform, connections=lambda name: Connection(name, "age", login=login, password=password)
    )
    with pytest.raises(RempartError, match="Connection 'backup_key'") as error:
        flow.own_identity(platform.connections)
    assert password not in str(error.value)
