"""K1: a copy of a key that a site stores late, after a rewrapping or a destruction, is told and removed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rempart.backup.keys import age
from rempart.backup.keys.key_envelope import encode_card
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.errors import BackupError, KeyDestroyed, SiteUnavailable
from rempart.flows.shared import keys as flow
from rempart.ledger.memory import MemoryLedger
from rempart.sites.port import ObjectInfo
from tests.memory_site import MemorySite
from tests.unit.backup.keys.key_places import BOOKINGS, BUCKET, ESCROW, LEDGER, NOW, PLATFORM, STRANGER

PATH = f"keys/{BOOKINGS.id}/0001.age"


class LateSite(MemorySite):
    """A site that takes one put of a key's copy, does not answer, and stores it only `at_last`."""

    late, taken = False, b""

    def write(self, bucket: str, key: str, body: bytes, **more: Any) -> ObjectInfo:
        if self.late and key == PATH:
            self.late, self.taken = False, body
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")
        return super().write(bucket, key, body, **more)

    def at_last(self) -> None:
        super().write(BUCKET, PATH, self.taken)


def opens(body: bytes, identity: age.Identity) -> bool:
    try:
        age.decrypt(body, identity, "it")
    except BackupError:
        return False
    return True


def bodies(place: KeyPlace) -> list[bytes]:
    """Every version of the copy at a place."""
    found = [info for info in place.site.versions(BUCKET, PATH) if not info.marker]
    return [place.site.read(BUCKET, PATH, version_id=info.version_id) for info in found]


@pytest.fixture(params=[True, False], ids=["versioned", "plain"])
def late(request: pytest.FixtureRequest) -> LateSite:
    site = LateSite("haven")
    site.ensure_bucket(BUCKET, versioned=request.param)
    return site


@pytest.fixture
def ring(late: LateSite, request: pytest.FixtureRequest) -> Keyring:
    other = MemorySite("primary")
    other.ensure_bucket(BUCKET, versioned=late.keeps_versions(BUCKET))
    return Keyring((KeyPlace(late, BUCKET), KeyPlace(other, BUCKET)), PLATFORM, (ESCROW.recipient,), lambda: NOW)


def lines(ledger: MemoryLedger, ring: Keyring) -> list[str]:
    return [line for line in flow.listing(ledger, ring) if line.startswith("LATE COPY")]


def test_k1_a_copy_for_a_recipient_who_was_shut_out_is_removed_though_it_arrives_late(
    ring: Keyring, late: LateSite
) -> None:
    """A rewrapping for a third recipient was given up; by the time its put is stored, the recipient is removed."""
    ledger = MemoryLedger()
    key = flow.key_of(ledger, ring, BOOKINGS)
    late.late = True
    with pytest.raises(SiteUnavailable):
        flow.rewrap(
            ledger, dataclasses.replace(ring, escrow=(ESCROW.recipient, STRANGER.recipient)), None, dry_run=False
        )
    flow.rewrap(ledger, ring, dry_run=False)
    assert lines(ledger, ring) == []
    late.at_last()
    assert opens(late.read(BUCKET, PATH), STRANGER)
    (line,) = lines(ledger, ring)
    assert f"bucket {BUCKET} at site 'haven'" in line and "other recipients since" in line
    assert [len(each["late_copies"]) for each in flow.facts(ledger, ring)] == [1]
    flow.remove_late(ledger, ring)
    for place in ring.places:
        assert bodies(place) and not any(opens(body, STRANGER) for body in bodies(place))
    assert ring.open(BOOKINGS) == key and lines(ledger, ring) == []


def test_k1_a_copy_that_arrives_after_the_destruction_of_its_key_is_destroyed_too(
    ring: Keyring, late: LateSite
) -> None:
    ledger = MemoryLedger()
    flow.key_of(ledger, ring, BOOKINGS)
    late.late = True
    with pytest.raises(SiteUnavailable):
        flow.rewrap(ledger, ring, dry_run=False)
    flow.destroy(ledger, ring, BOOKINGS.id, dry_run=False)
    late.at_last()
    (line,) = lines(ledger, ring)
    assert "its key was destroyed" in line
    with pytest.raises(KeyDestroyed):
        ring.open(BOOKINGS)
    flow.remove_late(ledger, ring)
    assert not any(bodies(place) for place in ring.places) and lines(ledger, ring) == []


def test_k1_a_backup_beside_a_rewrapping_brings_no_former_copy_back(ring: Keyring, late: LateSite) -> None:
    """Before the record of what it stores, the new copy at one place would count as late beside the old one."""
    ledger = MemoryLedger()
    key = flow.key_of(ledger, ring, BOOKINGS)
    former = dataclasses.replace(ring, escrow=(ESCROW.recipient, STRANGER.recipient))
    flow.rewrap(ledger, former, dry_run=False)
    late.late = True  # the rewrapping that shuts the stranger out stands still at this place
    with pytest.raises(SiteUnavailable):
        flow.rewrap(ledger, dataclasses.replace(ring, places=ring.places[::-1]), dry_run=False)
    flow.remove_late(ledger, ring)
    assert ring.open(BOOKINGS) == key
    for place in ring.places:
        assert bodies(place) and not any(opens(body, STRANGER) for body in bodies(place))


def test_k1_a_late_copy_that_a_site_keeps_stops_no_backup_and_is_told_until_it_is_gone(
    ring: Keyring, late: LateSite, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = MemoryLedger()
    flow.key_of(ledger, ring, BOOKINGS)
    late.taken = late.read(BUCKET, PATH)
    flow.destroy(ledger, ring, BOOKINGS.id, dry_run=False)
    late.at_last()
    late.delete = lambda *_, **__: None  # type: ignore[method-assign] # it only claims to delete
    flow.remove_late(ledger, ring)
    assert "it still exists" in caplog.text and len(lines(ledger, ring)) == 1


def test_what_the_ledger_of_an_earlier_point_does_not_know_is_not_late(ring: Keyring) -> None:
    """After a restore the ledger may lack the newest rewrapping, or know nothing of a key."""
    ledger, earlier = MemoryLedger(), MemoryLedger()
    for scope in (BOOKINGS, LEDGER):
        flow.key_of(ledger, ring, scope)
    flow.rewrap(ledger, ring, dry_run=False)
    for record in reversed(ledger.find("backup-key", BOOKINGS.id)):
        earlier.append("backup-key", record.subject, record.body)
    flow.rewrap(ledger, ring, dry_run=False)
    kept = [bodies(place) for place in ring.places]
    flow.remove_late(earlier, ring)
    assert [bodies(place) for place in ring.places] == kept and lines(earlier, ring) == []


def test_a_card_that_anybody_may_write_destroys_no_key(ring: Keyring) -> None:
    ledger = MemoryLedger()
    flow.key_of(ledger, ring, BOOKINGS)
    (card,) = ring.cards(BOOKINGS)
    place = ring.places[0]
    place.site.write(BUCKET, f"keys/{BOOKINGS.id}/0001.json", encode_card(dataclasses.replace(card, destroyed=NOW)))
    flow.remove_late(ledger, ring)
    assert all(bodies(place) for place in ring.places)
