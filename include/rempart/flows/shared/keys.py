"""Keys of backups: open or make those of a domain, list, destroy and rewrap them, each with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from rempart.backup.keys import age
from rempart.backup.keys.domains import Domain, parse
from rempart.backup.keys.keyring import CONNECTION, Destruction, Keyring, Place
from rempart.backup.keys.wrapping import Card, DomainKey
from rempart.coordination.active import backup_site
from rempart.errors import ConfigError, KeyMissing, KeyWrong, RepositoryDamaged
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all
from rempart.settings.sections import Classification, Keep

Say = Callable[[str], object]
RENEWALS = 3
"""The most repositories that are begun within a day for one domain. A site that alters what it stores spoils each."""


def kept_for(keep: Keep) -> timedelta:
    """How long the oldest restore point may be kept."""
    month, week = timedelta(days=31), timedelta(weeks=1)
    return max(timedelta(hours=keep.hourly), timedelta(days=keep.daily), week * keep.weekly, month * keep.monthly)


def escrow_warning(config: Config, classification: Classification) -> str | None:
    """What to say where the platform's own key is the only one; None if there is another.

    Raises ConfigError if that is not allowed: from `personal` up it must be chosen (`backup.escrow: none`).
    """
    if config.backup.recipients:
        return None
    if config.backup.escrow == "required" and classification in ("personal", "sensitive"):
        raise ConfigError(
            "backup.recipients names nobody: who loses this platform would lose its backups with it",
            "Make two recipients with `rempart keys new-recipient FILE`, keep the files apart, and name both under "
            "backup.recipients in rempart.yaml. For a trial, say `escrow: none`.",
        )
    return (
        "warning: the platform's own key is the only one that opens its backups: backup.recipients in rempart.yaml "
        "names nobody (docs/how-to/keys.md)"
    )


def own_identity(platform: Platform) -> age.Identity:
    """The platform's own key, of connection `backup_key`. Raises ConnectionMissing, ConfigError, KeyWrong."""
    connection = platform.connections(CONNECTION)
    found = age.read_identity(connection.password, f"Connection '{CONNECTION}'")
    if connection.login not in ("", found.recipient):
        raise KeyWrong(
            f"Connection '{CONNECTION}' says that it is {connection.login}, but its key is that of {found.recipient}",
            "Restore the right key, or correct the connection's login.",
        )
    return found


def open_keyring(platform: Platform, say: Say = print) -> Keyring:
    """The keys of the platform's domains: at the backup site, and a second copy at the active one.

    Raises ConfigError without escrow, ConnectionMissing, PlacementDenied.
    """
    config = platform.config
    classification = classification_of(load_all())
    if warning := escrow_warning(config, classification):
        say(warning)
    active = platform.active().site
    names = (backup_site(config, active), active)
    places = (
        Place(platform.site(names[0], classification, "restore-point", beside=active), config.buckets.backups),
        Place(platform.site(names[1], classification), config.buckets.backups),
    )
    own = own_identity(platform)
    escrow = tuple(
        age.check_recipient(one, f"backup.recipients.{number}") for number, one in enumerate(config.backup.recipients)
    )
    return Keyring(places, own, escrow, platform.clock)


def key_of(platform: Platform, keyring: Keyring, domain: Domain) -> DomainKey:
    """The key with which a domain's objects are sealed. Making one is evidence of kind `backup-key`.

    Raises KeyMissing for a domain that has one by the ledger and none at the sites: whoever removed it, a new one would
    hide that nothing sealed before can be read. Raises as `Keyring.open_or_make` does.
    """
    newest = platform.ledger.find("backup-key", domain.id, limit=1)
    lives = bool(newest) and newest[0].body["event"] != "destroyed"
    if lives and not keyring.copies(domain):
        raise KeyMissing(
            f"The key of domain {domain.id} is gone from {', '.join(map(str, keyring.places))}",
            "It was not destroyed from here. Put a copy back from where you keep one. If it is lost, "
            "`rempart keys destroy` records that, and the next backup makes a new one.",
        )
    key = keyring.open_or_make(domain)
    if not lives or newest[0].body["serial"] != key.serial:
        _record(platform, keyring, "made", domain.id, key.serial)
    return key


def renewed_key(platform: Platform, keyring: Keyring, domain: Domain, damage: RepositoryDamaged) -> DomainKey:
    """Another key of a domain, with which what is stored from now on stands apart. Evidence of kind `backup-key`.

    Raises RepositoryDamaged where that was done `RENEWALS` times within a day, else as `Keyring.open_or_make` does.
    """
    since = platform.clock() - timedelta(days=1)
    newest = platform.ledger.find("backup-key", domain.id, limit=RENEWALS)
    if sum(one.at > since and "why" in one.body for one in newest) == RENEWALS:
        raise RepositoryDamaged(
            f"{damage.what}, and within a day {RENEWALS} repositories were begun that did no better",
            "The site alters or loses what it stores: ask its operator, and name another site for restore points.",
        )
    key = keyring.renew(domain)
    _record(platform, keyring, "made", domain.id, key.serial, why=damage.what)
    return key


def _record(platform: Platform, keyring: Keyring, event: str, domain: str, serial: str, **more: object) -> None:
    body = {"event": event, "serial": serial, "places": [str(place) for place in keyring.places], **more}
    platform.ledger.append("backup-key", domain, {**body, "recipients": list(keyring.recipients)})


def listing(keyring: Keyring) -> Iterator[str]:
    """One line for each key, and where a copy of it is missing."""
    for card in keyring.cards():
        yield _line(keyring, card)
    for (domain, serial), error in keyring.damaged().items():
        yield f"{domain:<40} {serial}  DAMAGED CARD: {error.what}"


def _line(keyring: Keyring, card: Card) -> str:
    head = f"{card.domain:<40} {card.serial}  "
    if card.destroyed:
        return f"{head}destroyed on {card.destroyed:%Y-%m-%d %H:%M} UTC"
    holders = keyring.copies(parse(card.domain)).get(card.serial, [])
    lacking = [str(place) for place in keyring.places if place not in holders]
    names = ["the platform" if one == keyring.own.recipient else one for one in card.recipients]
    missing = f"; NO COPY in {', '.join(lacking)}" if lacking else ""
    return f"{head}made on {card.made:%Y-%m-%d}, opened by {', '.join(names)}{missing}"


def destroy(
    platform: Platform, keyring: Keyring, domain_id: str, *, dry_run: bool = True, say: Say = print
) -> Destruction:
    """Destroy a domain's keys at every place; what they sealed can then be read nowhere. Evidence follows the proof.

    Raises BackupError (KeyMissing among them), SiteError.
    """
    domain = parse(domain_id)
    planned = keyring.destroy(domain, dry_run=dry_run)
    if not planned.serials and not platform.ledger.find("backup-key", domain.id, limit=1):
        raise KeyMissing(f"Domain {domain.id} never had a key", "`rempart keys list` names those that have one.")
    verb = "would be" if dry_run else "were"
    for copy in planned.copies:
        say(f"{verb} deleted: {copy}")
    if dry_run:
        say(f"What is sealed for {domain.id} would be unreadable for ever, in every restore point. Say --yes to do it.")
        return planned
    serials = planned.serials or ("none",)
    _record(platform, keyring, "destroyed", domain.id, serials[-1], serials=list(serials), copies=len(planned.copies))
    say(f"destroyed: no copy is left in {', '.join(planned.places)}. What is still live is sealed with a new key.")
    return planned


def rewrap(
    platform: Platform, keyring: Keyring, opener: age.Identity | None = None, *, dry_run: bool = True, say: Say = print
) -> tuple[Card, ...]:
    """Wrap every key for the recipients of rempart.yaml and the platform's own, and for nobody else.

    `opener` is an identity that opens them, where the platform's own does not yet. Raises BackupError, SiteError.
    """
    if dry_run:
        cards = tuple(one for one in keyring.cards() if not one.destroyed)
        for card in cards:
            gone = [one for one in card.recipients if one not in keyring.recipients]
            new = [one for one in keyring.recipients if one not in card.recipients]
            say(f"{card.domain} {card.serial}: new {', '.join(new) or '-'}; no longer {', '.join(gone) or '-'}")
        say("Nothing was changed. Say --yes to do it.")
        return cards
    done = keyring.rewrap(replace(keyring, own=opener) if opener else None)
    for card in done:
        _record(platform, keyring, "rewrapped", card.domain, card.serial)
        say(f"{card.domain} {card.serial}: for {', '.join(card.recipients)}")
    return done


def new_recipient(file: Path, now: datetime) -> str:
    """Make an escrow identity in a new file that only its owner can read; its recipient. Raises ConfigError."""
    made = age.new_identity()
    age.write_identity_file(file, made, now)
    return made.recipient
