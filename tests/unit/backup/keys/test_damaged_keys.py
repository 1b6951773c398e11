"""A key or a card that a site stored, read or kept wrong is found, and replaced only by an intact copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rempart.backup.keys import key_envelope
from rempart.backup.keys.keyring import KeyPlace, Keyring, path_of
from rempart.errors import IntegrityError, ObjectMissing
from tests.memory_site import MemorySite
from tests.unit.backup.keys.key_places import BOOKINGS, BUCKET, ESCROW, NOW, PLATFORM, STRANGER, new_ring


@pytest.fixture(params=[True, False], ids=["versioned", "plain"])
def ring(request: pytest.FixtureRequest) -> Keyring:
    return new_ring(request)


class Altering(MemorySite):
    """Stores the first byte of some objects wrong, and refuses to read those, as S3Site does; may end that run."""

    wrong = True
    killed: type[BaseException] | None = None

    def __init__(self, name: str, ending: str = ".age") -> None:
        super().__init__(name)
        self.ending = ending
        self.spoilt: set[tuple[str, str | None]] = set()

    def write(self, bucket: str, key: str, body: bytes, **how: Any) -> Any:
        if not (self.wrong and key.endswith(self.ending)):
            self.spoilt.discard((key, None))
            return super().write(bucket, key, body, **how)
        info = super().write(bucket, key, bytes([body[0] ^ 1]) + body[1:], **how)
        self.spoilt.add((key, info.version_id))
        if self.killed:
            raise self.killed
        return info

    def fetch(self, bucket: str, key: str, **how: Any) -> Any:
        info, body = super().fetch(bucket, key, **how)
        if (key, info.version_id) in self.spoilt:
            raise IntegrityError(f"get {bucket}/{key}: not of the SHA-256 that its writer recorded", "Restore it.")
        return info, body


def test_a_key_that_the_site_stored_wrong_seals_nothing_and_the_next_run_makes_another(ring: Keyring) -> None:
    site = Altering("haven")
    site.ensure_bucket(BUCKET, versioned=True)
    spoilt = dataclasses.replace(ring, places=(KeyPlace(site, BUCKET), ring.places[1]))
    with pytest.raises(IntegrityError, match="the site returned other bytes"):
        spoilt.open_or_make(BOOKINGS)
    assert spoilt.copies(BOOKINGS) == {}
    site.wrong = False
    assert spoilt.open_or_make(BOOKINGS) == spoilt.open(BOOKINGS)


def test_what_was_deleted_under_the_name_of_a_key_stays_deleted_when_the_new_one_is_taken_back() -> None:
    """To delete the marker above an old version would show that version again."""
    site = Altering("haven")
    site.ensure_bucket(BUCKET, versioned=True)
    ring = Keyring((KeyPlace(site, BUCKET),), PLATFORM, (ESCROW.recipient,), lambda: NOW)
    path = path_of(BOOKINGS, "0001")
    site.wrong = False
    site.write(BUCKET, path, b"of another time")
    marker = site.delete(BUCKET, path)
    site.wrong = True
    with pytest.raises(IntegrityError, match="the site returned other bytes"):
        ring.open_or_make(BOOKINGS)
    assert marker in [version.version_id for version in site.versions(BUCKET, path) if version.marker]
    with pytest.raises(ObjectMissing):
        site.read(BUCKET, path)


class WrongOnce(MemorySite):
    """A site that stores right, and gives the first read of each new version wrong."""

    kind = ".age"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.read_before: set[tuple[str, str | None]] = set()

    def fetch(self, bucket: str, key: str, **how: Any) -> Any:
        info, body = super().fetch(bucket, key, **how)
        if key.endswith(self.kind) and (key, info.version_id) not in self.read_before:
            self.read_before.add((key, info.version_id))
            return info, body[:-1]
        return info, body


@pytest.mark.parametrize("kind", [".age", ".json"])
def test_i3_one_wrong_read_deletes_no_key_and_no_card(ring: Keyring, kind: str) -> None:
    """Another run may have sealed with the key since."""
    site = WrongOnce("haven")
    site.kind = kind
    site.ensure_bucket(BUCKET, versioned=ring.places[0].site.keeps_versions(BUCKET))
    place = KeyPlace(site, BUCKET)
    key = dataclasses.replace(ring, places=(place, ring.places[1])).open_or_make(BOOKINGS)
    assert key.serial == "0001" and dataclasses.replace(ring, places=(place,)).open(BOOKINGS) == key


@pytest.mark.parametrize("place", [0, 1])
def test_a_card_that_a_site_stored_wrong_is_found_before_it_counts(ring: Keyring, place: int) -> None:
    site = Altering("other", ".json")
    site.ensure_bucket(BUCKET, versioned=ring.places[0].site.keeps_versions(BUCKET))
    places = [ring.places[0], ring.places[1]]
    places[place] = KeyPlace(site, BUCKET)
    spoilt = dataclasses.replace(ring, places=tuple(places))
    with pytest.raises(
        IntegrityError, match=rf"keys/{BOOKINGS.id}/0001.json in .*'other': the site returned other bytes"
    ):
        spoilt.open_or_make(BOOKINGS)
    assert spoilt.copies(BOOKINGS) == {} and spoilt.damaged() == {}
    site.wrong = False
    key = spoilt.open_or_make(BOOKINGS)
    site.wrong = True
    with pytest.raises(IntegrityError, match="the site returned other bytes"):
        spoilt.destroy(BOOKINGS, dry_run=False)
    assert spoilt.damaged() == {}
    site.wrong = False
    if place:
        assert dataclasses.replace(spoilt, places=(places[1],)).open(BOOKINGS) == key, "no copy went"
    spoilt.destroy(BOOKINGS, dry_run=False)
    assert spoilt.copies(BOOKINGS) == {} and [card.destroyed for card in spoilt.cards(BOOKINGS)] == [NOW]


def test_a_copy_that_was_stored_wrong_at_another_place_does_not_pass_for_a_copy(ring: Keyring) -> None:
    site = Altering("primary")
    site.ensure_bucket(BUCKET, versioned=True)
    spoilt = dataclasses.replace(ring, places=(ring.places[0], KeyPlace(site, BUCKET)))
    for _ in range(2):
        with pytest.raises(IntegrityError):
            spoilt.open_or_make(BOOKINGS)
    site.wrong = False
    key = spoilt.open_or_make(BOOKINGS)
    assert dataclasses.replace(spoilt, places=spoilt.places[1:]).open(BOOKINGS) == key


def test_a_copy_that_somebody_altered_is_put_back_before_it_is_needed(ring: Keyring) -> None:
    key, last = ring.open_or_make(BOOKINGS), ring.places[1]
    theirs = dataclasses.replace(key, identity=STRANGER)
    for body in (b"damaged", key_envelope.wrap(theirs, STRANGER, [STRANGER.recipient, PLATFORM.recipient])):
        last.site.write(BUCKET, f"keys/{BOOKINGS.id}/0001.age", body)
        assert ring.open_or_make(BOOKINGS) == key
        assert dataclasses.replace(ring, places=(last,)).open(BOOKINGS) == key


def test_a_run_that_is_killed_after_a_key_was_stored_wrong_stops_no_later_run(ring: Keyring) -> None:
    site = Altering("haven")
    site.killed = KeyboardInterrupt
    site.ensure_bucket(BUCKET, versioned=True)
    spoilt = dataclasses.replace(ring, places=(KeyPlace(site, BUCKET), ring.places[1]))
    with pytest.raises(KeyboardInterrupt):
        spoilt.open_or_make(BOOKINGS)
    site.wrong = False
    key = spoilt.open_or_make(BOOKINGS)
    assert key.serial == "0002" and spoilt.open_or_make(BOOKINGS) == spoilt.open(BOOKINGS) == key
    assert [card.serial for card in spoilt.rewrap()] == ["0002"]
    site.write(BUCKET, f"keys/{BOOKINGS.id}/0002.age", b"damaged")
    ring.places[1].site.write(BUCKET, f"keys/{BOOKINGS.id}/0002.age", b"damaged")
    with pytest.raises(IntegrityError):  # something may be sealed with this one
        spoilt.open_or_make(BOOKINGS)


def test_copies_that_cannot_be_read_any_more_are_not_replaced_by_nothing(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.open_or_make(BOOKINGS)
    with monkeypatch.context() as fault:
        fault.setattr(Keyring, "open", lambda *given: key)  # it opened a moment ago
        for place in ring.places:
            fault.setattr(place.site, "read", altered(place.site.read))
        with pytest.raises(IntegrityError, match="no copy"):
            ring.open_or_make(BOOKINGS)
    assert ring.open(BOOKINGS) == key
    assert all(
        len([version for version in p.site.versions(p.bucket) if version.key.endswith(".age")]) == 1
        for p in ring.places
    )


def altered(read: Any) -> Any:
    def other(bucket: str, name: str, **how: Any) -> Any:
        if name.endswith(".age"):
            raise IntegrityError(f"read {name}", "Retry.")
        return read(bucket, name, **how)

    return other
