"""Find copies of keys that a site stored late: after their key was destroyed, or wrapped for others.

A site may take a put, not answer, and store it when its run has long given it up. Such a copy opens what was to be
unreadable, or lets in a recipient who was shut out. Card and ledger tell of it together: alone, a card may be
forged, and the ledger may be the one of an earlier restore point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.keyring import KeyPlace, Keyring, path_of
from rempart.errors import BackupError, IntegrityError, ObjectMissing

Serial = tuple[str, str]
"""A scope and the serial of one of its keys."""


@dataclass(frozen=True)
class LateCopy:
    """A version of a wrapped key that a place should not have. `destroyed`: whether its key was destroyed."""

    place: KeyPlace
    key: str
    version: str | None
    destroyed: bool

    def __str__(self) -> str:
        why = (
            "its key was destroyed, and the next backup removes the copy"
            if self.destroyed
            else "its key was wrapped for other recipients since, and `rempart keys rewrap --yes` removes the copy"
        )
        return f"{self.key} version {self.version or 'null'} in {self.place}: {why}"


def find(ring: Keyring, on_record: Mapping[Serial, str | None]) -> list[LateCopy]:
    """Return the late copies of keys. `on_record`: the SHA-256 of the newest copy of each, None of a destroyed key.

    Raises SiteError.
    """
    cards, found = {(card.scope, card.serial): card for card in ring.cards()}, list[LateCopy]()
    for (scope, serial), sha256 in on_record.items():
        card, path = cards.get((scope, serial)), path_of(parse(scope), serial)
        if card is None or (card.copy != sha256 if sha256 else not card.destroyed):
            continue
        found += [
            LateCopy(place, path, version, sha256 is None)
            for place in ring.places
            for version, body in _versions(place, path)
            if hashlib.sha256(body).hexdigest() != sha256
        ]
    return found


def remove(late: LateCopy) -> None:
    """Delete a copy of a destroyed key. Raises BackupError if it is left, SiteError."""
    late.place.site.delete(late.place.bucket, late.key, version_id=late.version)
    if any(version == late.version for version, _ in _versions(late.place, late.key)):
        raise BackupError(
            f"delete {late.key} in {late.place}: it still exists",
            "Run again. If the site refuses, a default retention may lock the copies of keys.",
        )


def _versions(place: KeyPlace, path: str) -> list[tuple[str | None, bytes]]:
    """Return each version of a copy that can be read: its id, and its body."""
    found = list[tuple[str | None, bytes]]()
    for info in place.site.versions(place.bucket, path):
        if info.key == path and not info.marker:
            with suppress(ObjectMissing, IntegrityError):
                found.append((info.version_id, place.site.read(place.bucket, path, version_id=info.version_id)))
    return found
