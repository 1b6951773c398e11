"""The keys of encryption scopes: made once, wrapped for their recipients, kept at sites where every copy can be
deleted.

`keys/<scope>/<serial>.age` holds the secrets as JSON, encrypted to each recipient; `<serial>.json` beside it says in
the clear for whom, and whether they were destroyed. Both stand at each of the sites, never under lock: while sealed
objects outlast whoever attacks them, destroying these few small files makes what they open unreadable for good.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope, parse
from rempart.backup.keys.key_envelope import Card, ScopeKey, decode_card, encode_card, unwrap, wrap
from rempart.errors import (
    BackupError,
    IntegrityError,
    KeyDestroyed,
    KeyMissing,
    KeyRotated,
    KeyWrong,
    ObjectMissing,
    SiteUnavailable,
)
from rempart.sites.once import gives_back
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

PREFIX = "keys/"
CONNECTION = "backup_key"
"""The platform's own identity: login is its recipient, password its private key (AGE-SECRET-KEY-1...)."""
_FILE = re.compile(r"keys/(?P<scope>[a-z0-9_-]+)/(?P<serial>\d{4})\.(?P<kind>age|json)")


@dataclass(frozen=True)
class KeyPlace:
    """A bucket in which copies stand."""

    site: Site
    bucket: str

    def __str__(self) -> str:
        return f"bucket {self.bucket} at site '{self.site.name}'"


def path_of(scope: EncryptionScope, serial: str, kind: str = "age") -> str:
    """Return the location of a key's copies, or with `json` of its cards."""
    return f"{PREFIX}{scope.id}/{serial}.{kind}"


@dataclass(frozen=True)
class Destruction:
    """Keys of a scope that a destruction removes, or removed: serials, copies (versions), and their places."""

    scope: str
    serials: tuple[str, ...]
    copies: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Keyring:
    """Keys at one or more places; the first is the backup site.

    `own` opens them and attests new keys; `escrow` are further recipients. For a restore alone, `own` may be an escrow
    identity.
    """

    places: tuple[KeyPlace, ...]
    own: age.Identity
    escrow: tuple[str, ...]
    clock: Callable[[], datetime]
    randomness: Callable[[int], bytes] = os.urandom
    new_identity: Callable[[], age.Identity] = age.new_identity

    @property
    def recipients(self) -> tuple[str, ...]:
        """Return the recipients of newly wrapped keys."""
        return tuple(dict.fromkeys((self.own.recipient, *self.escrow)))

    def cards(self, scope: EncryptionScope | None = None) -> list[Card]:
        """Return every key's card, oldest first; a key is destroyed if any place says so. Raises SiteError.

        A card that no place returns intact is logged and left out: it stops no other key.
        """
        cards_read, damaged = self._read_cards(scope)
        for error in damaged.values():
            logger.warning("%s. This copy is skipped. %s", error.what, error.hint)
        return [cards_read[serial] for serial in sorted(cards_read)]

    def damaged(self, scope: EncryptionScope | None = None) -> dict[tuple[str, str], IntegrityError]:
        """Return the error of each card without an intact copy, by scope and serial. Raises SiteError."""
        cards_read, damaged = self._read_cards(scope)
        return {named: error for named, error in damaged.items() if named not in cards_read}

    def _read_cards(
        self, scope: EncryptionScope | None
    ) -> tuple[dict[tuple[str, str], Card], dict[tuple[str, str], IntegrityError]]:
        """Return intact cards, and the faults of damaged cards, by key."""
        cards: dict[tuple[str, str], Card] = {}
        damaged: dict[tuple[str, str], IntegrityError] = {}
        for place in self.places:
            for info in place.site.list(place.bucket, f"{PREFIX}{scope.id}/" if scope else PREFIX):
                match = _FILE.fullmatch(info.key)
                if match is None or match["kind"] != "json":
                    continue
                where, named = f"{info.key} in {place}", (match["scope"], match["serial"])
                try:
                    card = decode_card(place.site.read(place.bucket, info.key), where)
                    if (card.scope, card.serial) != named:
                        raise IntegrityError(f"read {where}: it is the card of another key", "Replace it by a copy.")
                except IntegrityError as error:
                    damaged[named] = error
                    continue
                before = cards.setdefault(named, card)
                if card.destroyed and not before.destroyed:
                    cards[named] = replace(before, destroyed=card.destroyed)
        return cards, damaged

    def copies(self, scope: EncryptionScope) -> dict[str, list[KeyPlace]]:
        """Return the places that have a copy of each of a scope's keys, by serial, oldest first."""
        holders: dict[str, list[KeyPlace]] = {}
        for place in self.places:
            for info in place.site.list(place.bucket, f"{PREFIX}{scope.id}/"):
                match = _FILE.fullmatch(info.key)
                if match and match["kind"] == "age":
                    holders.setdefault(match["serial"], []).append(place)
        return dict(sorted(holders.items()))

    def open(self, scope: EncryptionScope, serial: str | None = None) -> ScopeKey:
        """Return a scope's key: the key of a serial, or the newest. One place that answers is enough.

        Raises KeyDestroyed, KeyMissing, KeyWrong, KeyRotated, IntegrityError, SiteError.
        """
        try:
            return self._found(scope, serial)
        except SiteUnavailable:
            for place in self.places if len(self.places) > 1 else ():
                with suppress(SiteUnavailable, KeyMissing):
                    return replace(self, places=(place,))._found(scope, serial)
            raise

    def _found(self, scope: EncryptionScope, serial: str | None) -> ScopeKey:
        cards, copies = {wrapped.serial: wrapped for wrapped in self.cards(scope)}, self.copies(scope)
        wanted = serial or max((*cards, *copies), default=None)
        card = cards.get(wanted or "")
        if card and card.destroyed:
            raise KeyDestroyed(
                f"open key {wanted} of scope {scope.id}: it was destroyed on {card.destroyed:%Y-%m-%d %H:%M} UTC",
                "Data that it sealed cannot be read any more, in any copy. Restore without this scope.",
            )
        if wanted is None or wanted not in copies:
            raise KeyMissing(
                f"There is no key {wanted or ''} of scope {scope.id} in {' or '.join(map(str, self.places))}".replace(
                    "  ", " "
                ),
                f"Restore {PREFIX}{scope.id}/ from your own copy (docs/how-to/keys.md).",
            )
        return self._opened(scope, wanted, copies[wanted], card)

    def open_or_make(self, scope: EncryptionScope) -> ScopeKey:
        """Return the newest key of a scope, copied to each place that lacks it. Make a new key if the scope never had
        one or if it was destroyed. The key is proven, so data may be sealed with it.

        Raises the errors of `open`, and KeyWrong for a key that another platform wrapped.
        """
        (cards_read, damaged), copies = self._read_cards(scope), self.copies(scope)
        cards = [cards_read[number] for number in sorted(cards_read)]
        for named, error in damaged.items():
            if named not in cards_read and named[1] not in copies:
                raise error  # nobody knows whether that key was destroyed or lost
        recorded = {card.serial for card in cards if card.recipients or card.destroyed}
        live = [card.serial for card in cards if card.recipients and not card.destroyed]
        live += [serial for serial in copies if serial not in recorded]
        if not live:
            self._make(scope, f"{max(map(int, recorded), default=0) + 1:04d}")
        newest = max(live) if live else None
        try:
            key = self.open(scope, newest)
        except IntegrityError as error:
            if newest in recorded or not any(card.serial == newest for card in cards):
                raise
            # a run was cut off that had stored it wrong: whatever is sealed, its key's card names recipients before
            logger.warning("%s. No data was sealed with this key, and another key is made", error.what)
            self._make(scope, serial := f"{int(newest or 0) + 1:04d}")
            key = self.open(scope, serial)
        if not key.proven:
            raise KeyWrong(
                f"use key {key.serial} of scope {scope.id}: this platform ({self.own.recipient}) did not wrap it",
                "No data is sealed with it. Find out who stored it. If the platform's own key was replaced, run "
                "`rempart keys rewrap`.",
            )
        if key.serial not in recorded:  # made just now, or by a run that was killed before it told
            self._tell(Card(scope.id, key.serial, self.clock(), self.recipients))
        elif (scope.id, key.serial) in damaged:  # at one place alone: it gets the other's
            self._tell(cards_read[scope.id, key.serial])
        self._heal(key)
        return key

    def renew(self, scope: EncryptionScope) -> ScopeKey:
        """Make a new key of a scope in addition to its others. Data stored from now on is separate from earlier data.

        Raises the errors of `open_or_make`.
        """
        known = {serial for _, serial in self._read_cards(scope)[0]} | set(self.copies(scope))
        self._make(scope, f"{max(map(int, known), default=0) + 1:04d}")
        return self.open_or_make(scope)

    def destroy(self, scope: EncryptionScope, *, dry_run: bool = True) -> Destruction:
        """Delete every version of every copy of a scope's keys, then look that none is left.

        Raises BackupError if a copy is left, SiteError.
        """
        cards = self.cards(scope)
        doomed = [(place, key, version) for place in self.places for key, version in self._versions(place, scope)]
        serials = sorted(
            {wrapped.serial for wrapped in cards}
            | {key[-8:-4] for _, key, _ in doomed}
            | {serial for _, serial in self.damaged(scope)}
        )
        if not dry_run:
            now, cards_by_serial = self.clock(), {wrapped.serial: wrapped for wrapped in cards}
            for serial in serials:
                card = cards_by_serial.get(serial) or Card(scope.id, serial, now, ())
                self._tell(replace(card, destroyed=card.destroyed or now))  # first: no place gives its copy to another
            for place, key, version in doomed:
                place.site.delete(place.bucket, key, version_id=version)
            left = [f"{key} in {place}" for place in self.places for key, _ in self._versions(place, scope)]
            if left:
                raise BackupError(
                    f"destroy the keys of scope {scope.id}: {len(left)} copies still exist: {'; '.join(left[:3])}",
                    "Run the destruction again. If the site refuses, a default retention may lock the copies, "
                    "and the scope stays readable until the retention ends.",
                )
        copies = tuple(f"{key} version {version or 'null'} in {place}" for place, key, version in doomed)
        return Destruction(scope.id, tuple(serials), copies, tuple(map(str, self.places)))

    def rewrap(
        self, opener: Keyring | None = None, announce: Callable[[Card], None] = lambda _: None
    ) -> tuple[Card, ...]:
        """Wrap each key that is not destroyed for the present recipients alone, and delete what others could open.

        `opener` opens them, if the own identity is new. `announce` gets the card of each before a copy is stored:
        whoever looks meanwhile, or after an interruption, takes no new copy for a late one. A key that cannot be opened
        stays as it is, and raises BackupError after all others. Raises SiteError.
        """
        done, failed = [], [f"{scope} {serial}: {error.what}" for (scope, serial), error in self.damaged().items()]
        for card in self.cards():
            if card.destroyed or not (card.recipients or card.serial in self.copies(parse(card.scope))):
                continue
            try:
                key = (opener or self).open(parse(card.scope), card.serial)
            except (BackupError, IntegrityError) as error:
                if card.recipients or not isinstance(error, IntegrityError):  # else nothing was ever sealed with it
                    failed.append(f"{card.scope} {card.serial}: {error.what}")
                continue
            former = tuple(dict.fromkeys((*card.former, *card.recipients)))
            body = wrap(key, self.own, self.recipients)
            new = replace(
                card,
                recipients=self.recipients,
                former=tuple(x for x in former if x not in self.recipients),
                copy=hashlib.sha256(body).hexdigest(),
            )
            announce(new)
            for place in self.places:
                path = path_of(key.scope, key.serial)
                stored = place.site.write(place.bucket, path, body, content_type="application/age-encryption")
                place.site.read(place.bucket, path, sha256=hashlib.sha256(body).hexdigest())
                for other, version in self._versions(place, key.scope):
                    if other == path and version != stored.version_id:
                        place.site.delete(place.bucket, other, version_id=version)
            self._tell(new)
            done.append(new)
        if failed:
            raise BackupError(
                f"rewrap the keys: {len(failed)} keys could not be opened and are unchanged: {'; '.join(failed[:3])}",
                "Pass an identity that opens them: `rempart keys rewrap --with FILE`.",
            )
        return tuple(done)

    def _opened(self, scope: EncryptionScope, serial: str, places: Collection[KeyPlace], card: Card | None) -> ScopeKey:
        """Return the key from the first copy that opens. Raises the first error if none does."""
        errors: list[BackupError | IntegrityError] = []
        for place in places:
            where = f"{path_of(scope, serial)} in {place}"
            try:
                return unwrap(place.site.read(place.bucket, path_of(scope, serial)), self.own, scope, serial, where)
            except (KeyWrong, IntegrityError) as error:
                errors.append(error)
        first = errors[0]
        if isinstance(first, KeyWrong) and card and self.own.recipient in card.former:
            raise KeyRotated(
                f"open the key of a scope: {self.own.recipient} opened key {serial} of scope {scope.id} earlier, "
                "and was replaced since",
                f"Use the identity of one of its present recipients: {', '.join(card.recipients)}.",
            ) from first
        if isinstance(first, KeyWrong) and card:
            raise KeyWrong(first.what, f"Use the identity of one of its recipients: {', '.join(card.recipients)}.")
        raise first

    def _make(self, scope: EncryptionScope, serial: str) -> None:
        """Wrap new secrets at the first place. One of several concurrent runs wins, and all use its key.

        The card of the key names no recipient until the key exists, because a card with recipients but no key means a
        lost key.
        """
        self._tell(Card(scope.id, serial, self.clock(), ()))
        restic = self.randomness(32).hex()
        key = ScopeKey(scope, serial, self.new_identity(), restic, self.randomness(32), True)
        body = wrap(key, self.own, self.recipients)
        first, path = self.places[0], path_of(scope, serial)
        created = first.site.write_new(first.bucket, path, body, content_type="application/age-encryption")
        if created and not gives_back(first.site, first.bucket, path, body):
            listed = first.site.versions(first.bucket, path)
            ours = [version.version_id for version in listed if version.key == path and not version.marker]
            if any(gives_back(first.site, first.bucket, path, body, version) for version in ours):
                return  # one read was wrong: another run may have sealed with this key
            for version in ours:
                first.site.delete(first.bucket, path, version_id=version)
            raise IntegrityError(
                f"store {path} in {first}: the site returned other bytes than were written, so the object was "
                "deleted and not used",
                "Run again. If it fails again, ask the site's operator.",
            )

    def _heal(self, key: ScopeKey) -> None:
        """Give a copy to each place that has none which opens. Raises IntegrityError, SiteError."""
        path, good, lacking = path_of(key.scope, key.serial), b"", list[KeyPlace]()
        for place in self.places:
            try:
                body = place.site.read(place.bucket, path)
                opens = unwrap(body, self.own, key.scope, key.serial, f"{path} in {place}") == key
            except (ObjectMissing, IntegrityError, KeyWrong):
                opens = False
            if opens:
                good = good or body
            else:
                lacking.append(place)
        if not good:  # it opened a moment ago: nothing may replace copies that only cannot be read now
            raise IntegrityError(
                f"open {path}: no copy in {' or '.join(map(str, self.places))} can be opened",
                "Run again. If it fails again, restore the key from your own copy. Nothing was written.",
            )
        for place in lacking:
            place.site.write(place.bucket, path, good, content_type="application/age-encryption")
            place.site.read(place.bucket, path, sha256=hashlib.sha256(good).hexdigest())

    def _tell(self, card: Card) -> None:
        """Write a card at every place, and read it back. A card that a site stored wrong is deleted there.

        Raises BackupError where a default retention would hold a key as well, IntegrityError, SiteError.
        """
        body = encode_card(card)
        for place in self.places:
            path = path_of(parse(card.scope), card.serial, "json")
            stored = place.site.write(place.bucket, path, body, content_type="application/json")
            if not any(gives_back(place.site, place.bucket, path, body, stored.version_id) for _ in range(2)):
                place.site.delete(place.bucket, path, version_id=stored.version_id)
                raise IntegrityError(
                    f"store {path} in {place}: the site returned other bytes than were written, so the object was "
                    "deleted",
                    "Run again. If it fails again, ask the site's operator.",
                )
            if stored.version_id and place.site.retained_until(place.bucket, path, stored.version_id):
                raise BackupError(
                    f"store a key in {place}: the bucket locks every object, so the key could never be destroyed",
                    "Remove the default retention of the bucket, or set another bucket under `buckets` in "
                    "rempart.yaml.",
                )

    def _versions(self, place: KeyPlace, scope: EncryptionScope) -> list[tuple[str, str | None]]:
        """Return every version of every wrapped copy at a place, including delete markers."""
        versions = place.site.versions(place.bucket, f"{PREFIX}{scope.id}/")
        return [(version.key, version.version_id) for version in versions if version.key.endswith(".age")]
