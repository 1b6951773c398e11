"""Open, make, list, destroy and rewrap the keys of encryption scopes, each with its evidence."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.keys import age, late_copies
from rempart.backup.keys.encryption_scopes import EncryptionScope, parse
from rempart.backup.keys.key_envelope import Card, ScopeKey
from rempart.backup.keys.keyring import CONNECTION, Destruction, KeyPlace, Keyring, path_of
from rempart.backup.keys.late_copies import LateCopy
from rempart.backup.points import erasures
from rempart.coordination.active import backup_site
from rempart.counts import counted
from rempart.errors import BackupError, ConfigError, KeyMissing, KeyWrong, RepositoryDamaged, SiteError
from rempart.flows.shared.platform import Platform, classification_of
from rempart.ledger.port import Ledger
from rempart.settings.config import Config, Connections
from rempart.settings.pipelines import load_all
from rempart.settings.retention_rules import Keep
from rempart.settings.sections import Classification
from rempart.sovereignty.classification import may_be_personal

logger = logging.getLogger(__name__)

RENEWALS = 3
"""Limit of new repositories for one encryption scope within a day. A site that alters data damages each of them."""


def kept_for(keep: Keep) -> timedelta:
    """Return how long the oldest restore point may be kept."""
    spans: list[timedelta] = [period.longest * getattr(keep, rule) for rule, period in keep.periods().items()]
    return max(spans)


def escrow_warning(config: Config, classification: Classification) -> str | None:
    """Return a warning if the platform's own key is the only key that opens its backups, else None.

    Raises ConfigError if the configuration forbids this: from `personal` up, `backup.escrow: none` must be explicit.
    """
    if config.backup.recipients:
        return None
    if config.backup.escrow == "required" and may_be_personal(classification):
        raise ConfigError(
            "backup.recipients is empty: if this platform is lost, its backups cannot be opened",
            "Make two recipients with `rempart keys new-recipient FILE`, store the files in different places, "
            "and add both to backup.recipients in rempart.yaml. For a trial, set `backup.escrow: none`.",
        )
    return (
        "only the platform's own key opens its backups, because backup.recipients in rempart.yaml is "
        "empty: enough for a trial (docs/how-to/keys.md)"
    )


def own_identity(connections: Connections) -> age.Identity:
    """Return the platform's own key, from connection `backup_key`.

    Raises ConnectionMissing, ConfigError, KeyWrong.
    """
    connection = connections(CONNECTION)
    found = age.read_identity(connection.password, f"Connection '{CONNECTION}'")
    if connection.login not in ("", found.recipient):
        raise KeyWrong(
            f"Connection '{CONNECTION}' has login {connection.login}, but its key belongs to {found.recipient}",
            "Restore the right key, or correct the login of the connection.",
        )
    return found


def warn_of_escrow(config: Config) -> None:
    """Log a warning where the platform's own key is the only one. Raises ConfigError as `escrow_warning`."""
    if warning := escrow_warning(config, classification_of(load_all())):
        logger.warning("%s", warning)


def open_keyring(platform: Platform, own: age.Identity | None = None) -> Keyring:
    """Return the keyring of the platform: keys at the backup site, with a second copy at the active site.

    `own`: identity that opens the keys, such as one in escrow; default: the platform's own. Raises ConfigError without
    escrow, ConnectionMissing, PlacementDenied.
    """
    config = platform.config
    classification = classification_of(load_all())
    escrow_warning(config, classification)
    active = platform.active().site
    names = (backup_site(config, active), active)
    places = (
        KeyPlace(platform.site(names[0], classification, "restore-point", replica_of=active), config.buckets.backups),
        KeyPlace(platform.site(names[1], classification), config.buckets.backups),
    )
    own = own or own_identity(platform.connections)
    escrow = tuple(
        age.check_recipient(recipient, f"backup.recipients.{number}")
        for number, recipient in enumerate(config.backup.recipients)
    )
    return Keyring(places, own, escrow, platform.clock)


def key_of(ledger: Ledger, keyring: Keyring, scope: EncryptionScope) -> ScopeKey:
    """Return the key that encrypts the objects of a scope. Make it if needed, with evidence of kind `backup-key`.

    Raises KeyMissing if the ledger records a key and no site has it: a new key would hide that older objects are
    unreadable. Otherwise raises the errors of `Keyring.open_or_make`.
    """
    newest = ledger.find("backup-key", scope.id, limit=1)
    lives = bool(newest) and newest[0].body["event"] != "destroyed"
    if lives and not keyring.copies(scope):
        raise KeyMissing(
            f"The key of encryption scope {scope.id} is missing at {', '.join(map(str, keyring.places))}",
            "Put a copy of the key back; Rempart did not destroy it. If no copy is left, run `rempart keys "
            "destroy` to record the loss: the next backup makes a new key.",
        )
    key = keyring.open_or_make(scope)
    if not lives or newest[0].body["serial"] != key.serial:
        _record(ledger, keyring, "made", scope.id, key.serial, seals_for=key.recipient)
    return key


def sealed_for(ledger: Ledger, scope: EncryptionScope) -> tuple[str, str] | None:
    """Return the serial and the public recipient of a scope's newest key; None without a key.

    Whoever only seals needs no secret. Raises LedgerError, DatabaseUnavailable.
    """
    for record in ledger.find("backup-key", scope.id):
        if record.body["event"] == "destroyed":
            return None
        if "seals_for" in record.body:
            return str(record.body["serial"]), str(record.body["seals_for"])
    return None


def renewed_key(ledger: Ledger, keyring: Keyring, scope: EncryptionScope, damage: RepositoryDamaged) -> ScopeKey:
    """Make another key for an encryption scope, which new objects use. Writes evidence of kind `backup-key`.

    Raises RepositoryDamaged after `RENEWALS` new keys within a day, and the errors of `Keyring.open_or_make`.
    """
    since = keyring.clock() - timedelta(days=1)
    newest = ledger.find("backup-key", scope.id, limit=RENEWALS)
    if sum(record.at > since and "why" in record.body for record in newest) == RENEWALS:
        raise RepositoryDamaged(
            f"{damage.what}; {RENEWALS} new repositories within a day failed the same way",
            "Ask the operator of the site, which alters or loses data, and set another backup.site in rempart.yaml.",
        )
    key = keyring.renew(scope)
    _record(ledger, keyring, "made", scope.id, key.serial, seals_for=key.recipient, why=damage.what)
    return key


def _record(ledger: Ledger, keyring: Keyring, event: str, scope: str, serial: str, **more: object) -> None:
    body = {"event": event, "serial": serial, "places": [str(place) for place in keyring.places], **more}
    ledger.append("backup-key", scope, {**body, "recipients": list(keyring.recipients)})


def late(ledger: Ledger, keyring: Keyring) -> list[LateCopy]:
    """Return the copies that a site stored after their key was destroyed or rewrapped. Raises SiteError."""
    on_record = dict[tuple[str, str], str | None]()
    for record in ledger.each("backup-key"):  # the newest of a serial counts
        if record.body["event"] == "destroyed":
            for serial in record.body["serials"]:
                on_record.setdefault((record.subject, str(serial)), None)
        else:
            on_record.setdefault((record.subject, str(record.body["serial"])), str(record.body.get("copy", "")))
    return late_copies.find(keyring, {key: sha256 for key, sha256 in on_record.items() if sha256 != ""})


def remove_late(ledger: Ledger, keyring: Keyring) -> None:
    """Remove the copies that a site stored after their key was destroyed or rewrapped, and log each.

    One that cannot be removed stops no backup: `rempart keys list` names it until it is gone. Raises SiteError.
    """
    for copy in late(ledger, keyring):
        try:
            late_copies.remove(copy)
            logger.warning("removed a copy of a key that a site stored late: %s", copy)
        except (BackupError, SiteError) as error:
            logger.warning("a site stored a copy of a key late, %s. %s. %s", copy, error.what, error.hint)


def listing(ledger: Ledger, keyring: Keyring) -> Iterator[str]:
    """Yield one line for each key, with the sites that lack a copy, and one for each copy that was stored late."""
    for card in keyring.cards():
        yield _line(keyring, card)
    for copy in late(ledger, keyring):
        yield f"LATE COPY, which the next backup removes: {copy}"
    for (scope, serial), error in keyring.damaged().items():
        yield f"{scope:<40} {serial}  DAMAGED KEY FILE: {error.what}"


def facts(ledger: Ledger, keyring: Keyring) -> list[dict[str, Any]]:
    """Return what `listing` shows, for programs: a damaged key has an `error`."""
    late_now = late(ledger, keyring)
    found = [
        asdict(card)
        | {"no_copy_in": _lacking(keyring, card)}
        | {"late_copies": [str(copy) for copy in late_now if copy.key == path_of(parse(card.scope), card.serial)]}
        for card in keyring.cards()
    ]
    return found + [{"scope": s, "serial": n, "error": error.what} for (s, n), error in keyring.damaged().items()]


def _lacking(keyring: Keyring, card: Card) -> list[str]:
    """Return the places without a copy of a key; none of a destroyed key lacks a copy."""
    if card.destroyed:
        return []
    holders = keyring.copies(parse(card.scope)).get(card.serial, [])
    return [str(place) for place in keyring.places if place not in holders]


def _line(keyring: Keyring, card: Card) -> str:
    head = f"{card.scope:<40} {card.serial}  "
    if card.destroyed:
        return f"{head}destroyed on {card.destroyed:%Y-%m-%d %H:%M} UTC"
    lacking = _lacking(keyring, card)
    names = ["the platform" if recipient == keyring.own.recipient else recipient for recipient in card.recipients]
    missing = f"; NO COPY in {', '.join(lacking)}" if lacking else ""
    return f"{head}made on {card.made:%Y-%m-%d}, opened by {', '.join(names)}{missing}"


def destroy(ledger: Ledger, keyring: Keyring, scope_id: str, *, dry_run: bool = True) -> Destruction:
    """Destroy the keys of an encryption scope at every site. Data encrypted with them becomes unreadable.

    The evidence is written after the deletion is verified. Raises BackupError (also KeyMissing, and for the key of the
    register of erasures while entries need it), SiteError.
    """
    scope = parse(scope_id)
    planned = keyring.destroy(scope)
    if planned.copies and (entries := _entries_under(ledger, scope)):
        raise BackupError(
            f"destroy the keys of scope {scope.id}: {counted(entries, 'erasure')} on record could not be applied any "
            "more. Ingestion and every restore would stop, or erased rows would come back",
            "Keep this key as long as the platform and its backups exist. Every other scope may be destroyed.",
        )
    if not planned.serials and not ledger.find("backup-key", scope.id, limit=1):
        raise KeyMissing(
            f"Encryption scope {scope.id} never had a key", "Run `rempart keys list` to see the scopes that have keys."
        )
    if dry_run:
        return planned
    planned = keyring.destroy(scope, dry_run=False)
    serials = planned.serials or ("none",)
    _record(ledger, keyring, "destroyed", scope.id, serials[-1], serials=list(serials), copies=len(planned.copies))
    return planned


def _entries_under(ledger: Ledger, scope: EncryptionScope) -> int:
    """Return how many entries of the register of erasures have their pseudonyms under the keys of this scope."""
    if (scope.kind, scope.name) != ("platform", erasures.KEYS):
        return 0
    return sum(record.body.get("scope") == scope.id for record in ledger.each("erasure"))


def destruction_lines(done: Destruction, *, dry_run: bool) -> Iterator[str]:
    """Yield the copies that a destruction removed, or with `dry_run` would remove, as lines for people."""
    for copy in done.copies:
        yield f"{'would be' if dry_run else 'were'} deleted: {copy}"
    if dry_run:
        yield (
            f"Dry run: all data of {done.scope} would become unreadable in every restore point. Pass --yes to "
            "destroy its keys."
        )
    else:
        yield (
            f"destroyed the keys of {', '.join(done.places)}: no copy is left. New backups encrypt the live data "
            "with a new key."
        )


def rewrap(
    ledger: Ledger, keyring: Keyring, opener: age.Identity | None = None, *, dry_run: bool = True
) -> tuple[Card, ...]:
    """Rewrap every key for the recipients of rempart.yaml and the platform's own identity, and for no other.

    `opener` is an identity that opens the keys if the platform's own cannot yet. Raises BackupError, SiteError.
    """
    if dry_run:
        return tuple(card for card in keyring.cards() if not card.destroyed)

    def record(event: str, card: Card) -> None:
        _record(ledger, keyring, event, card.scope, card.serial, copy=card.copy)

    done = keyring.rewrap(replace(keyring, own=opener) if opener else None, partial(record, "rewraps"))
    for card in done:
        record("rewrapped", card)
    return done


def rewrap_lines(keyring: Keyring, cards: Sequence[Card], *, dry_run: bool) -> Iterator[str]:
    """Yield the recipients of each key, or with `dry_run` what would change, as lines for people."""
    for card in cards:
        if not dry_run:
            yield f"{card.scope} {card.serial}: for {', '.join(card.recipients)}"
            continue
        gone = [recipient for recipient in card.recipients if recipient not in keyring.recipients]
        new = [recipient for recipient in keyring.recipients if recipient not in card.recipients]
        yield f"{card.scope} {card.serial}: new {', '.join(new) or '-'}; no longer {', '.join(gone) or '-'}"
    if dry_run:
        yield "Nothing was changed. Pass --yes to rewrap the keys."


def new_recipient(file: Path, now: datetime) -> str:
    """Make an escrow identity in a new file that only its owner can read. Return its recipient. Raises ConfigError."""
    made = age.new_identity()
    age.write_identity_file(file, made, now)
    return made.recipient
