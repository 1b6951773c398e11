"""Keys of encryption scopes: created once, opened by each recipient, attested, destroyed in every copy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.keys import age, key_envelope
from rempart.backup.keys.key_envelope import Card
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.errors import BackupError, IntegrityError, KeyDestroyed, KeyMissing, KeyWrong, SiteUnavailable
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite
from tests.unit.backup.keys.key_places import BOOKINGS, BUCKET, ESCROW, LEDGER, NOW, PLATFORM, STRANGER, new_ring


@pytest.fixture(params=[True, False], ids=["versioned", "plain"])
def ring(request: pytest.FixtureRequest) -> Keyring:
    return new_ring(request)


def everything(ring: Keyring) -> bytes:
    """Every version of every object at every place."""
    found = b""
    for key_place in ring.places:
        for info in key_place.site.versions(key_place.bucket):
            if not info.marker:
                found += key_place.site.read(key_place.bucket, info.key, version_id=info.version_id)
    return found


def test_a_key_is_made_once_and_stands_at_every_place(ring: Keyring) -> None:
    key = ring.open_or_make(BOOKINGS)
    assert ring.open_or_make(BOOKINGS) == ring.open(BOOKINGS) == key
    assert key.proven and key.serial == "0001" and len(key.hash_key) == 32
    assert ring.copies(BOOKINGS) == {"0001": list(ring.places)}
    assert ring.open_or_make(LEDGER).recipient != key.recipient
    assert [(card.scope, card.made, card.recipients) for card in ring.cards(BOOKINGS)] == [
        (BOOKINGS.id, NOW, (PLATFORM.recipient, ESCROW.recipient))
    ]


def test_no_secret_stands_in_the_clear_or_in_a_repr(ring: Keyring) -> None:
    key = ring.open_or_make(BOOKINGS)
    secrets = (key.identity.secret, key.restic_password, key.hash_key.hex(), PLATFORM.secret)
    seen = everything(ring).decode(errors="replace") + repr(key) + repr(ring)
    assert not [secret for secret in secrets if secret in seen]


def test_escrow_alone_opens_it_and_the_command_age_would_too(ring: Keyring) -> None:
    key = ring.open_or_make(BOOKINGS)
    alone = Keyring(ring.places[:1], ESCROW, (), lambda: NOW).open(BOOKINGS)
    assert (alone.identity, alone.restic_password, alone.hash_key) == (key.identity, key.restic_password, key.hash_key)
    assert not alone.proven, "only the platform can tell that the platform wrapped it"
    body = ring.places[0].site.read(BUCKET, f"keys/{BOOKINGS.id}/0001.age")
    assert json.loads(age.decrypt(body, ESCROW, "it"))["identity"] == key.identity.secret


def test_a_copy_that_is_gone_or_damaged_is_answered_by_another_place(ring: Keyring) -> None:
    key = ring.open_or_make(BOOKINGS)
    first, path = ring.places[0], f"keys/{BOOKINGS.id}/0001.age"
    first.site.write(BUCKET, path, b"damaged")
    assert ring.open(BOOKINGS) == key
    first.site.delete(BUCKET, path)
    assert ring.open_or_make(BOOKINGS) == key
    assert ring.copies(BOOKINGS) == {"0001": list(ring.places)}


@pytest.mark.parametrize("down", [0, 1])
def test_one_site_that_answers_opens_it_and_making_wants_both(ring: Keyring, down: int) -> None:
    class Down(MemorySite):
        def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
            raise SiteUnavailable("list", "Retry.")

    key = ring.open_or_make(BOOKINGS)
    places = list(ring.places)
    places[down] = KeyPlace(Down("down"), BUCKET)
    half = dataclasses.replace(ring, places=tuple(places))
    assert half.open(BOOKINGS) == key
    for act in (lambda: half.open_or_make(BOOKINGS), lambda: half.destroy(BOOKINGS, dry_run=False)):
        with pytest.raises(SiteUnavailable):
            act()
    with pytest.raises(SiteUnavailable):
        half.open(LEDGER)
    assert ring.open(BOOKINGS) == key


def test_nothing_is_sealed_with_a_key_that_a_stranger_wrapped(ring: Keyring) -> None:
    theirs = Keyring(ring.places, STRANGER, (PLATFORM.recipient,), lambda: NOW)
    theirs.open_or_make(BOOKINGS)
    with pytest.raises(KeyWrong, match="did not wrap it"):
        ring.open_or_make(BOOKINGS)


def test_a_key_of_another_scope_does_not_pass_for_it(ring: Keyring) -> None:
    ring.open_or_make(LEDGER)
    ring.open_or_make(BOOKINGS)
    for key_place in ring.places:
        key_place.site.write(
            BUCKET, f"keys/{BOOKINGS.id}/0001.age", key_place.site.read(BUCKET, f"keys/{LEDGER.id}/0001.age")
        )
    with pytest.raises(IntegrityError, match="no key of this scope"):
        ring.open(BOOKINGS)


def test_a_scope_that_never_had_a_key_and_one_whose_copies_are_gone(ring: Keyring) -> None:
    with pytest.raises(KeyMissing, match=r"no key of scope dataset-bookings-395d in bucket backups at site 'haven'"):
        ring.open(BOOKINGS)
    ring.open_or_make(BOOKINGS)
    for key_place in ring.places:
        key_place.site.delete(BUCKET, f"keys/{BOOKINGS.id}/0001.age")
    with pytest.raises(KeyMissing, match="no key 0001"):
        ring.open_or_make(BOOKINGS)


def test_a_dry_run_of_destruction_names_every_copy_and_changes_nothing(ring: Keyring) -> None:
    key, before = ring.open_or_make(BOOKINGS), everything(ring)
    planned = ring.destroy(BOOKINGS)
    assert len(planned.copies) == 2 and planned.serials == ("0001",)
    assert everything(ring) == before and ring.open(BOOKINGS) == key


def test_destroyed_means_every_version_at_every_place_and_a_new_key_is_another_one(ring: Keyring) -> None:
    key, kept = ring.open_or_make(BOOKINGS), ring.open_or_make(LEDGER)
    ring.rewrap()  # so that there were several versions
    ring.destroy(BOOKINGS, dry_run=False)
    with pytest.raises(KeyDestroyed, match=r"destroyed on 2026-03-01 12:00 UTC"):
        ring.open(BOOKINGS)
    left = [
        info.key for key_place in ring.places for info in key_place.site.versions(BUCKET) if info.key.endswith(".age")
    ]
    assert left and all(LEDGER.id in name for name in left)
    assert ring.open(LEDGER) == kept
    again = ring.open_or_make(BOOKINGS)
    assert again.serial == "0002" and again.recipient != key.recipient and again.hash_key != key.hash_key
    with pytest.raises(KeyDestroyed):
        ring.open(BOOKINGS, "0001")


def test_a_destruction_that_was_cut_off_is_finished_and_nothing_comes_back_meanwhile(ring: Keyring) -> None:
    class CutOff(MemorySite):
        def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
            raise KeyboardInterrupt

    ring.open_or_make(BOOKINGS)
    second = ring.places[1]
    broken = CutOff("primary")
    broken.__dict__.update(second.site.__dict__)
    cut = dataclasses.replace(ring, places=(ring.places[0], KeyPlace(broken, BUCKET)))
    with pytest.raises(KeyboardInterrupt):
        cut.destroy(BOOKINGS, dry_run=False)
    assert ring.copies(BOOKINGS) == {"0001": [second]}
    with pytest.raises(KeyDestroyed):
        ring.open(BOOKINGS)
    assert ring.open_or_make(BOOKINGS).serial == "0002"
    ring.destroy(BOOKINGS, dry_run=False)
    assert ring.copies(BOOKINGS) == {}


def test_a_site_that_keeps_a_copy_in_spite_of_deleting_it_is_told() -> None:
    class Keeping(MemorySite):
        def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
            return None

    site = Keeping("haven")
    site.ensure_bucket(BUCKET, versioned=True)
    ring = Keyring((KeyPlace(site, BUCKET),), PLATFORM, (), lambda: NOW)
    ring.open_or_make(BOOKINGS)
    with pytest.raises(BackupError, match=r"1 copies still exist"):
        ring.destroy(BOOKINGS, dry_run=False)


def test_no_key_is_written_where_it_would_be_locked() -> None:
    class Locking(MemorySite):
        def write(self, bucket: str, key: str, body: bytes, **more: object) -> ObjectInfo:
            stored = super().write(bucket, key, body, **more)  # type: ignore[arg-type]
            self.retain(bucket, key, str(stored.version_id), NOW + timedelta(days=9999))
            return stored

    site = Locking("haven")
    site.ensure_bucket(BUCKET, versioned=True, locked=True)
    ring = Keyring((KeyPlace(site, BUCKET),), PLATFORM, (), lambda: NOW)
    with pytest.raises(BackupError, match="locks every object"):
        ring.open_or_make(BOOKINGS)
    assert ring.copies(BOOKINGS) == {}


@pytest.mark.parametrize("cut", ["before the key", "after the key"])
def test_a_run_that_is_killed_while_it_makes_a_key_is_taken_up_by_the_next(cut: str) -> None:
    class Killed(BaseException):
        pass

    class Cut(MemorySite):
        armed = True

        def write_new(self, bucket: str, key: str, body: bytes, **more: object) -> ObjectInfo:
            if self.armed and cut == "before the key":
                raise Killed
            stored = super().write_new(bucket, key, body, **more)  # type: ignore[arg-type]
            if self.armed:
                raise Killed
            return stored

    site = Cut("haven")
    site.ensure_bucket(BUCKET, versioned=True, locked=True)
    ring = Keyring((KeyPlace(site, BUCKET),), PLATFORM, (ESCROW.recipient,), lambda: NOW)
    with pytest.raises(Killed):
        ring.open_or_make(BOOKINGS)
    site.armed = False
    if cut == "before the key":
        assert ring.rewrap() == ()
    key = ring.open_or_make(BOOKINGS)
    assert key.serial == "0001" and ring.open_or_make(BOOKINGS) == key
    assert [card.recipients for card in ring.cards(BOOKINGS)] == [(PLATFORM.recipient, ESCROW.recipient)]


def test_rewrapping_lets_in_the_new_and_shuts_out_the_old(ring: Keyring) -> None:
    keys = [ring.open_or_make(BOOKINGS), ring.open_or_make(LEDGER)]
    ring.destroy(LEDGER, dry_run=False)
    fresh = dataclasses.replace(ring, escrow=(STRANGER.recipient,))
    assert [card.scope for card in fresh.rewrap()] == [BOOKINGS.id]
    opened = dataclasses.replace(ring, own=STRANGER).open(BOOKINGS)
    assert opened.identity == keys[0].identity
    for key_place in ring.places:
        bodies = [
            key_place.site.read(BUCKET, info.key, version_id=info.version_id)
            for info in key_place.site.versions(BUCKET, f"keys/{BOOKINGS.id}/")
            if info.key.endswith(".age")
        ]
        assert len(bodies) == 1
        with pytest.raises(KeyWrong):
            age.decrypt(bodies[0], ESCROW, "it")
    assert ring.open(BOOKINGS) == keys[0]


def test_the_platforms_own_key_is_replaced_with_the_help_of_escrow(ring: Keyring) -> None:
    key = ring.open_or_make(BOOKINGS)
    fresh = dataclasses.replace(ring, own=STRANGER)
    with pytest.raises(BackupError, match="1 keys could not be opened"):
        fresh.rewrap()
    fresh.rewrap(dataclasses.replace(ring, own=ESCROW))
    assert fresh.open_or_make(BOOKINGS).identity == key.identity


texts = st.text(max_size=20)
moments = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
cards = st.builds(
    Card,
    st.just(BOOKINGS.id),
    texts,
    moments,
    st.lists(texts).map(tuple),
    st.lists(texts).map(tuple),
    st.none() | moments,
)


@given(cards)
def test_a_card_is_read_as_it_was_written(card: Card) -> None:
    assert key_envelope.decode_card(key_envelope.encode_card(card), "it") == card


@given(st.binary(max_size=60) | st.just(b"[]") | st.just(b'{"scope": "../x"}'))
def test_what_is_no_card_is_refused(body: bytes) -> None:
    with pytest.raises(IntegrityError, match="the card"):
        key_envelope.decode_card(body, "the card")


def test_a_key_of_another_format_is_named_as_that_and_stays_as_it_is(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other_release:
        other_release.setattr(key_envelope, "FORMAT", 1)
        ring.open_or_make(BOOKINGS)
    before = everything(ring)
    for use in (ring.open, ring.open_or_make):
        with pytest.raises(
            IntegrityError, match=r"0001\.age .* has format 1, but this release reads format 2"
        ) as refused:
            use(BOOKINGS)
        assert "the release that wrote it" in refused.value.hint
    (card,) = ring.damaged(BOOKINGS).values()
    assert "has format 1" in card.what
    assert everything(ring) == before


def test_a_renewed_key_stands_beside_the_one_before_it(ring: Keyring) -> None:
    before = ring.open_or_make(BOOKINGS)
    after = ring.renew(BOOKINGS)
    assert (before.serial, after.serial) == ("0001", "0002") and after.restic_password != before.restic_password
    assert ring.open_or_make(BOOKINGS) == after and ring.open(BOOKINGS, "0001") == before
    assert ring.copies(BOOKINGS) == {serial: list(ring.places) for serial in ("0001", "0002")}
