"""Store a scope's key: its secrets, encrypted for each recipient, and an unencrypted card that lists the recipients.

Wrapping needs only the recipients, which are no secrets. So the platform adds a code that only a holder of its own key
can make. It proves that the platform wrapped the key; a stranger could read what is encrypted with a key of his own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope, parse
from rempart.errors import BackupError, ConfigError, IntegrityError

FORMAT = 2


@dataclass(frozen=True)
class ScopeKey:
    """The secrets of one scope. None of them ever appears in a repr.

    `identity` opens objects sealed for `recipient`, `restic_password` opens the scope's repository, and `hash_key` (32
    bytes) names its objects. `proven`: a holder of the platform's own key wrapped it, so data may be sealed with it.
    """

    scope: EncryptionScope
    serial: str
    identity: age.Identity = field(repr=False)
    restic_password: str = field(repr=False)
    hash_key: bytes = field(repr=False)
    proven: bool

    @property
    def recipient(self) -> str:
        return self.identity.recipient


@dataclass(frozen=True)
class Card:
    """Public facts about a key: present and former recipients, time of creation or destruction.

    `copy`: SHA-256 of its wrapped copies since it was wrapped again, "" before.
    """

    scope: str
    serial: str
    made: datetime
    recipients: tuple[str, ...]
    former: tuple[str, ...] = ()
    destroyed: datetime | None = None
    copy: str = ""


def proof(own: age.Identity, scope: EncryptionScope, serial: str, recipient: str) -> str:
    """Return the code over a scope's key that only a holder of the platform's own key can make."""
    payload = json.dumps([FORMAT, scope.id, serial, recipient]).encode()
    return hmac.new(own.secret.encode(), b"rempart scope key " + payload, hashlib.sha256).hexdigest()


def wrap(key: ScopeKey, own: age.Identity, recipients: Iterable[str]) -> bytes:
    """Wrap a key's secrets as JSON for each recipient, attested by the platform's own identity."""
    plain = {
        "format": FORMAT,
        "scope": key.scope.id,
        "serial": key.serial,
        "identity": key.identity.secret,
        "restic_password": key.restic_password,
        "hash_key": key.hash_key.hex(),
        "proof": proof(own, key.scope, key.serial, key.recipient),
    }
    return age.encrypt(json.dumps(plain, indent=1).encode(), recipients)


def unwrap(body: bytes, own: age.Identity, scope: EncryptionScope, serial: str, where: str) -> ScopeKey:
    """Return the key in a wrapped copy. Raises KeyWrong, and IntegrityError for another key or another format."""
    opened = age.decrypt(body, own, where)
    try:
        plain = _of_this_format(opened, where)
        if (plain["scope"], plain["serial"]) != (scope.id, serial):
            raise ValueError
        identity = age.read_identity(plain["identity"], where)
        proven = hmac.compare_digest(plain["proof"], proof(own, scope, serial, identity.recipient))
        hash_key = bytes.fromhex(plain["hash_key"])
        return ScopeKey(scope, serial, identity, str(plain["restic_password"]), hash_key, proven)
    except (ValueError, KeyError, TypeError, ConfigError):  # the cause could quote a secret
        raise IntegrityError(
            f"read {where}: it contains no key of this scope and serial", "Take another copy."
        ) from None


def encode_card(card: Card) -> bytes:
    """Return a card as JSON."""
    plain = {"format": FORMAT, **card.__dict__, "made": card.made.isoformat()}
    plain["destroyed"] = card.destroyed.isoformat() if card.destroyed else None
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def decode_card(body: bytes, where: str) -> Card:
    """Return a card from its bytes; `where` names it. Raises IntegrityError."""
    try:
        plain = _of_this_format(body, where)
        destroyed = plain["destroyed"]
        return Card(
            parse(plain["scope"]).id,
            str(plain["serial"]),
            datetime.fromisoformat(plain["made"]),
            tuple(map(str, plain["recipients"])),
            tuple(map(str, plain["former"])),
            datetime.fromisoformat(destroyed) if destroyed else None,
            str(plain.get("copy", "")),
        )
    except (ValueError, KeyError, TypeError, BackupError) as cause:
        raise IntegrityError(
            f"read {where}: it is not valid ({type(cause).__name__})", "Replace it by a copy."
        ) from cause


def _of_this_format(body: bytes, where: str) -> dict[str, Any]:
    """Return the JSON of a key or a card. Raises IntegrityError if another release's format wrote it."""
    plain: dict[str, Any] = json.loads(body)
    if plain["format"] != FORMAT:
        raise IntegrityError(
            f"read {where}: it has format {plain['format']!r:.20}, but this release reads format {FORMAT}",
            "Use the release that wrote it: docs/how-to/upgrade.md, 'Keys, snapshots and tables of another format'.",
        )
    return plain
