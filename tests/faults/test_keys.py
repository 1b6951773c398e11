"""Faults of keys and locks (K1, K2, K4): on sites in memory, and on real sites whose key the attacker has."""

import dataclasses
import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import Original
from rempart.errors import (
    BackupError,
    IntegrityError,
    KeyDestroyed,
    KeyMissing,
    KeyRotated,
    KeyWrong,
    LockLapses,
    SiteError,
)
from rempart.flows.backup.seal import seal_objects
from rempart.flows.shared import keys as flow
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config, sections
from rempart.sites.s3.client import open_client
from tests.memory_site import MemorySite

BOOKINGS, ORDERS = EncryptionScope("dataset", "bookings", "395d"), EncryptionScope("dataset", "orders", "30d")
SECONDS = 60
"""How long what these tests seal is locked: longer than they need until it is."""


class House:
    """A platform of two sites with buckets of its own; the lake holds objects of two scopes."""

    def __init__(self, platform):
        self.platform = platform
        self.primary, self.haven = platform.sites["primary"], platform.sites["haven"]
        self.bucket = platform.config.buckets.backups
        self.own, self.escrow = age.new_identity(), age.new_identity()
        places = (KeyPlace(self.haven, self.bucket), KeyPlace(self.primary, self.bucket))
        self.ring = Keyring(places, self.own, (self.escrow.recipient,), platform.clock)

    def put(self, key, body, scope=BOOKINGS):
        stored = self.primary.write(self.platform.config.buckets.lake, key, body)
        return Original("lake", key, stored.version_id, hashlib.sha256(body).hexdigest(), len(body), scope)

    def seal(self, *originals, seconds=SECONDS, haven=None, **more):
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        more.setdefault("ahead", timedelta(0))
        return seal_objects(
            self.platform.ledger,
            self.platform.config,
            self.ring,
            self.primary,
            originals,
            haven or self.haven,
            until,
            **more,
        )

    def opened(self, ring, sealed, original, folder):
        key, file = ring.open(original.scope, sealed.serial), folder / secrets.token_hex(4)
        unseal(self.haven, self.bucket, key, sealed, file, sha256=original.sha256, size=original.size)
        return file.read_bytes()

    def bodies(self):
        """Every version of every object of the backups at both sites: all that anybody could still get hold of."""
        for place in self.ring.places:
            for info in place.site.versions(place.bucket):
                if not info.marker:
                    yield info.key, place.site.read(place.bucket, info.key, version_id=info.version_id)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stores)])
def house(request):
    if request.param == "memory":
        found = Platform(
            config.load(),
            config.environment_connections,
            sites={name: MemorySite(name) for name in ("primary", "haven")},
            continuity_=MemoryContinuity(),
        )
    else:
        found = request.getfixturevalue("platform")
    mark = f"keys-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", backups=f"{mark}-backups")
    settings = found.config.model_copy(update={"buckets": buckets})
    own = dataclasses.replace(found, config=settings, sites=dict(found.sites), ledger_=MemoryLedger())
    for name in ("primary", "haven"):
        site = own.site(name, "personal")
        site.ensure_bucket(buckets.lake, versioned=True)
        site.ensure_bucket(buckets.backups, versioned=True, locked=True)
    return House(own)  # its buckets stay: what is locked cannot be dropped, and the stack's state is thrown away


REAL_SITE = pytest.mark.parametrize("house", [pytest.param("s3", marks=pytest.mark.stores)], indirect=True)
"""A site in memory has no other door."""


@pytest.fixture
def attacker(house):
    """boto3 with the site's own key, as whoever broke into the platform has it."""
    return open_client("haven", house.platform.connections("s3_haven"), "local-2", attempts=1)


# --- K1: a wrong, rotated or destroyed key ----------------------------------------------------------------------------


def test_k1_a_wrong_key_is_told_as_that_and_names_whose_would_open(house, tmp_path):
    stored = house.put("a", b"one")
    (sealed,) = house.seal(stored)
    stranger = dataclasses.replace(house.ring, own=age.new_identity())
    with pytest.raises(KeyWrong) as error:
        house.opened(stranger, sealed, stored, tmp_path)
    told = str(error.value)
    assert f"keys/{BOOKINGS.id}/0001.age" in told and "haven" in told and house.escrow.recipient in told
    assert not [secret for secret in (stranger.own.secret, house.own.secret) if secret in told]
    assert not list(tmp_path.iterdir())


def test_k1_a_rotated_key_is_told_as_that_and_opens_no_copy_any_more(house, tmp_path):
    stored = house.put("a", b"one")
    (sealed,) = house.seal(stored)
    new = age.new_identity()
    fresh = dataclasses.replace(house.ring, escrow=(new.recipient,))
    flow.rewrap(house.platform.ledger, fresh, dry_run=False)
    with pytest.raises(KeyRotated, match=f"{house.escrow.recipient} opened key 0001 of scope {BOOKINGS.id} earlier"):
        house.opened(dataclasses.replace(house.ring, own=house.escrow), sealed, stored, tmp_path)
    for key, body in house.bodies():
        if key.startswith("keys/") and key.endswith(".age"):
            with pytest.raises(KeyWrong):
                age.decrypt(body, house.escrow, key)
    assert house.opened(dataclasses.replace(house.ring, own=new), sealed, stored, tmp_path) == b"one"


def test_k1_a_destroyed_key_makes_its_scope_unreadable_in_every_copy_and_nothing_else(house, tmp_path):
    gone, kept = house.put("gone", b"gone" * 100), house.put("kept", b"kept", ORDERS)
    first, second = house.seal(gone, kept)
    lost = house.ring.open(BOOKINGS)
    flow.destroy(house.platform.ledger, house.ring, BOOKINGS.id, dry_run=False)
    rings = [house.ring, dataclasses.replace(house.ring, own=house.escrow)]
    for ring in rings:
        with pytest.raises(KeyDestroyed, match=f"key 0001 of scope {BOOKINGS.id}: it was destroyed on"):
            house.opened(ring, first, gone, tmp_path)
        assert house.opened(ring, second, kept, tmp_path) == b"kept"
    # whoever holds every identity that is left, and everything that both sites still have in any version
    identities = [house.own, house.escrow, house.ring.open(ORDERS).identity]
    sealed = 0
    for key, body in house.bodies():
        for identity in identities:
            try:
                text = age.decrypt(body, identity, key)
            except (KeyWrong, IntegrityError):
                continue
            assert BOOKINGS.id not in key and lost.identity.secret.encode() not in text
        sealed += key == first.key
    assert sealed == 1, "the locked object is still there, and nobody can read it"
    assert house.platform.ledger.find("backup-key", BOOKINGS.id, limit=1)[0].body["event"] == "destroyed"


def test_k1_keys_that_an_attacker_deletes_at_the_backup_site_come_back_from_the_other(house, tmp_path):
    stored = house.put("a", b"one")
    (sealed,) = house.seal(stored)
    for info in list(house.haven.versions(house.bucket, "keys/")):
        house.haven.delete(house.bucket, info.key, version_id=info.version_id)
    assert house.opened(house.ring, sealed, stored, tmp_path) == b"one"
    assert house.seal(stored)[0].version == sealed.version
    assert [place.site.name for place in house.ring.copies(BOOKINGS)["0001"]] == ["haven", "primary"]


def test_k1_a_key_that_an_attacker_plants_seals_nothing(house):
    theirs = Keyring(house.ring.places, age.new_identity(), (house.own.recipient,), house.platform.clock)
    theirs.open_or_make(BOOKINGS)
    with pytest.raises(KeyWrong, match="did not wrap it"):
        house.seal(house.put("a", b"one"))
    assert not list(house.haven.list(house.bucket, "sealed/"))


def test_k1_a_key_that_is_gone_from_both_sites_stops_the_backup(house):
    house.seal(house.put("a", b"one"))
    for place in house.ring.places:
        for info in list(place.site.versions(place.bucket, "keys/")):
            place.site.delete(place.bucket, info.key, version_id=info.version_id)
    with pytest.raises(KeyMissing, match=f"The key of encryption scope {BOOKINGS.id} is missing"):
        house.seal(house.put("b", b"two"))


# --- K2: attacks on locked objects ------------------------------------------------------------------------------------


@REAL_SITE
def test_k2_whoever_has_the_sites_key_cannot_destroy_what_is_sealed(house, attacker, tmp_path):
    stored = house.put("a", b"one" * 1000)
    (sealed,) = house.seal(stored, seconds=600)
    where = {"Bucket": house.bucket, "Key": sealed.key, "VersionId": sealed.version}
    soon = datetime.now(UTC) + timedelta(seconds=1)

    def retain(mode, until, **more):
        return attacker.put_object_retention(**where, Retention={"Mode": mode, "RetainUntilDate": until}, **more)

    attacks = {
        "delete": lambda: attacker.delete_object(**where),
        "delete with the bypass header": lambda: attacker.delete_object(**where, BypassGovernanceRetention=True),
        "shorten": lambda: retain("COMPLIANCE", soon),
        "shorten with the bypass header": lambda: retain("COMPLIANCE", soon, BypassGovernanceRetention=True),
        "downgrade to governance": lambda: retain("GOVERNANCE", sealed.retained_until),
        "downgrade with the bypass header": lambda: retain("GOVERNANCE", soon, BypassGovernanceRetention=True),
        "suspend versioning": lambda: attacker.put_bucket_versioning(
            Bucket=house.bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
        "drop the bucket": lambda: attacker.delete_bucket(Bucket=house.bucket),
    }
    for name, attack in attacks.items():
        with pytest.raises(ClientError):
            attack()
            pytest.fail(f"{name} was accepted")
    # these are no loss: the version that the restore point names stays what it is
    attacker.delete_object(Bucket=house.bucket, Key=sealed.key)
    attacker.put_object(Bucket=house.bucket, Key=sealed.key, Body=b"ransom")
    attacker.delete_objects(
        Bucket=house.bucket, Delete={"Objects": [{"Key": sealed.key, "VersionId": sealed.version}], "Quiet": True}
    )
    assert house.haven.retained_until(house.bucket, sealed.key, sealed.version) == sealed.retained_until
    assert house.opened(house.ring, sealed, stored, tmp_path) == b"one" * 1000
    assert house.seal(stored, seconds=300, known=[sealed]) == (sealed,), "the next backup goes on"


def test_k2_a_key_is_never_locked_so_that_it_can_be_destroyed(house):
    house.seal(house.put("a", b"one"))
    found = list(house.haven.versions(house.bucket, "keys/"))
    assert found
    assert not [info.key for info in found if house.haven.retained_until(house.bucket, info.key, str(info.version_id))]


@REAL_SITE
def test_k2_a_bucket_that_locks_whatever_is_written_gets_no_key(house, attacker):
    attacker.put_object_lock_configuration(
        Bucket=house.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    with pytest.raises(BackupError, match="locks every object") as error:
        house.seal(house.put("a", b"one"))
    assert house.bucket in str(error.value)
    assert not [info.key for info in house.haven.versions(house.bucket) if info.key.endswith(".age")]


# --- K4: a lock about to lapse ----------------------------------------------------------------------------------------


class Refusing:
    """A site that extends no lock of some keys."""

    def __init__(self, site, keys):
        self._site, self._keys = site, keys

    def __getattr__(self, name):
        return getattr(self._site, name)

    def retain(self, bucket, key, version_id, until):
        if key in self._keys:
            raise SiteError(f"retain {bucket}/{key} at site '{self._site.name}': refused (AccessDenied)", "Ask.")
        return self._site.retain(bucket, key, version_id, until)


def test_k4_a_lock_that_would_lapse_before_its_point_is_extended(house, tmp_path):
    sealed = house.put("a", b"one")
    before = house.seal(sealed)
    (after,) = house.seal(sealed, seconds=600, known=before)
    assert after.version == before[0].version
    held = house.haven.retained_until(house.bucket, after.key, after.version)
    assert held == after.retained_until > before[0].retained_until + timedelta(seconds=500)
    assert house.opened(house.ring, after, sealed, tmp_path) == b"one"


def test_k4_a_lock_that_cannot_be_extended_is_an_alarm_and_stops_no_other(house):
    sealed, other = house.put("a", b"one"), house.put("b", b"two")
    before = house.seal(sealed, other)
    refusing = Refusing(house.haven, [before[0].key])
    with pytest.raises(LockLapses) as error:
        house.seal(sealed, other, seconds=600, known=before, haven=refusing)
    assert before[0].key in error.value.what and before[0].version in error.value.what
    assert f"ends {before[0].retained_until:%Y-%m-%d %H:%M}" in error.value.what
    assert house.haven.retained_until(house.bucket, before[0].key, before[0].version) == before[0].retained_until
    held = house.haven.retained_until(house.bucket, before[1].key, before[1].version)
    assert held and held > before[1].retained_until


@REAL_SITE
def test_k4_a_site_that_only_says_that_it_extended_is_an_alarm(house, attacker, monkeypatch):
    sealed = house.put("a", b"one")
    before = house.seal(sealed)
    monkeypatch.setattr(house.haven._client, "put_object_retention", lambda **_: {})
    with pytest.raises(LockLapses, match="reports a lock until"):
        house.seal(sealed, seconds=600, known=before)
