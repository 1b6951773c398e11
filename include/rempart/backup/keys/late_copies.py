"""Find and remove copies of keys that a site stored late: after their key was destroyed, or wrapped for others.

A site may take a put, not answer, and store it when its run has long given it up. Such a copy opens what was to be
unreadable, or lets in a recipient who was shut out, and no card tells of it. The ledger does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.keyring import KeyPlace, Keyring, path_of
from rempart.errors import BackupError, IntegrityError, ObjectMissing

Serial = tuple[str, str]
"""A scope and the serial of one of its keys."""


@dataclass(frozen=True)
class LateCopy:
    """A version of a wrapped key that a place should not have. `right`: what belongs there; None after a destruction.

    `newest`: whether readers find it.
    """

    place: KeyPlace
    key: str
    version: str | None
    newest: bool
    right: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        why = "its key was destroyed" if self.right is None else "its key was wrapped for other recipients since"
        return f"{self.key} version {self.version or 'null'} in {self.place}: {why}"


def find(ring: Keyring, on_record: Mapping[Serial, str | None]) -> list[LateCopy]:
    """Return the late copies of keys. `on_record`: the SHA-256 of the newest copy of each, None of a destroyed key.

    A key counts as destroyed only if a card says so, too. Where no place has the copy on record, nothing is late: the
    ledger may be the one of an earlier restore point. Raises SiteError.
    """
    destroyed = {(card.scope, card.serial) for card in ring.cards() if card.destroyed}
    found = list[LateCopy]()
    for (scope, serial), sha256 in on_record.items():
        if sha256 is None and (scope, serial) not in destroyed:
            continue
        path = path_of(parse(scope), serial)
        stored = [
            (LateCopy(place, path, version, newest), body)
            for place in ring.places
            for version, newest, body in _versions(place, path)
        ]
        right = next((body for _, body in stored if hashlib.sha256(body).hexdigest() == sha256), None)
        if sha256 is None:
            found += [copy for copy, _ in stored]
        elif right is not None:
            found += [replace(copy, right=right) for copy, body in stored if body != right]
    return found


def remove(late: LateCopy) -> None:
    """Delete a late copy, after the right copy is in its place. Raises BackupError if it is left, SiteError."""
    site, bucket = late.place.site, late.place.bucket
    if late.right is not None and late.newest:
        stored = site.write(bucket, late.key, late.right, content_type="application/age-encryption")
        site.read(bucket, late.key, sha256=hashlib.sha256(late.right).hexdigest())
        if stored.version_id in (None, late.version):
            return  # a bucket without versions: it was replaced
    site.delete(bucket, late.key, version_id=late.version)
    if any(version == late.version for version, _, _ in _versions(late.place, late.key)):
        raise BackupError(
            f"delete {late.key} in {late.place}: it still exists",
            "Run again. If the site refuses, a default retention may lock the copies of keys.",
        )


def _versions(place: KeyPlace, path: str) -> list[tuple[str | None, bool, bytes]]:
    """Return each version of a copy that can be read: its id, whether it is the newest, and its body."""
    found = list[tuple[str | None, bool, bytes]]()
    listed = [info for info in place.site.versions(place.bucket, path) if info.key == path]
    for number, info in enumerate(listed):
        if not info.marker:
            with suppress(ObjectMissing, IntegrityError):
                body = place.site.read(place.bucket, path, version_id=info.version_id)
                found.append((info.version_id, number == 0, body))
    return found
