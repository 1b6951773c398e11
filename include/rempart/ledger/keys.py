"""Manage Ed25519 keys of the ledger. A key's id is the start of its public half's SHA-256, so it is unique.

The private half is the Airflow connection `ledger_key`: login is the id, password the raw seed of 32 bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rempart.errors import LedgerError
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CONNECTION = "ledger_key"
NEXT_CONNECTION = "ledger_key_next"
"""The key that `rempart ledger rotate-key` introduces."""
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""DER prefix of the 32 bytes of an Ed25519 public key (RFC 8410)."""


def key_id(public: bytes) -> str:
    """Return the first 16 hex digits of the SHA-256 of a public key in DER."""
    return hashlib.sha256(_SPKI + public).hexdigest()[:16]


@dataclass(frozen=True)
class Signer:
    """A key that signs. Only `id` and `public` (32 bytes) ever appear in a repr."""

    id: str
    public: bytes
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return self._private.sign(data)


def signer(seed: bytes) -> Signer:
    """Return the key of a seed of 32 bytes. Raises LedgerError for another length."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(seed) != 32:
        raise LedgerError(
            f"read a key of the ledger: it has {len(seed)} bytes instead of 32",
            "Generate a seed with `openssl rand -base64 32` and store it as the connection's password.",
        )
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    return Signer(key_id(public), public, private)


def from_connection(connection: Connection) -> Signer:
    """Return the key of a connection, whose login may be empty. Raises LedgerError, which never quotes the seed."""
    where = f"Connection '{connection.name}'"
    try:
        seed = base64.b64decode(connection.password, validate=True)
    except (binascii.Error, ValueError):
        # the cause could quote the password
        raise LedgerError(
            f"read the ledger's key from {where}: the password is not base64",
            "Set its password to the 32 raw bytes of an Ed25519 seed, made with `openssl rand -base64 32`.",
        ) from None
    key = signer(seed)
    if connection.login not in ("", key.id):
        raise LedgerError(
            f"read the ledger's key from {where}: the login is {connection.login}, but the seed belongs to key "
            f"{key.id}",
            "Restore the right seed, or correct the connection's login.",
        )
    return key


def is_signed(public: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether a signature over the data belongs to the public key (32 bytes)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def to_base64(public: bytes) -> str:
    """Return a public key in the form of a record of kind `key`: DER in base64, the middle line of PEM."""
    return base64.b64encode(_SPKI + public).decode()


def from_base64(text: object) -> bytes | None:
    """Return the 32 bytes of a public key from `to_base64`; None for anything else."""
    if not isinstance(text, str) or len(text) != 60:
        return None
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return der.removeprefix(_SPKI) if der.startswith(_SPKI) and to_base64(der[len(_SPKI) :]) == text else None


def to_pem(public: bytes) -> str:
    """Return a public key in PEM."""
    return f"-----BEGIN PUBLIC KEY-----\n{to_base64(public)}\n-----END PUBLIC KEY-----\n"


def parse_public(text: str) -> bytes:
    """Return the 32 bytes of a public key in PEM, as its middle line, or as 64 hex digits. Raises LedgerError."""
    body = "".join(text.split()).removeprefix("-----BEGINPUBLICKEY-----").removesuffix("-----ENDPUBLICKEY-----")
    public = from_base64(body)
    if public is None and re.fullmatch("[0-9a-fA-F]{64}", body):
        public = bytes.fromhex(body)
    if public is None:
        raise LedgerError(
            "read the public key: it is not an Ed25519 key",
            "Pass a file in PEM (BEGIN PUBLIC KEY), or the 32 raw bytes as 64 hex digits.",
        )
    return public
