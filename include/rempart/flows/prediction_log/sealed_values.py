"""Inputs and features of personal pipelines in the lake: sealed row by row, so an erasure can take single rows.

AES-SIV (RFC 5297) gives the same bytes for the same row, so a shipment that is repeated makes the same files. Its key
is derived from the secret `hash_key` of the log's scope (HKDF-SHA-256). The associated data are the pipeline and the
id of the entry.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING

from rempart.backup.keys.key_envelope import ScopeKey
from rempart.errors import IntegrityError
from rempart.serving.entries import PredictionEntry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

_PURPOSE = b"rempart prediction log, sealed values 1"


def seal(key: ScopeKey, entry: PredictionEntry, body: bytes) -> bytes:
    """Return the sealed form of an entry's values."""
    return _cipher(key.hash_key).encrypt(body, _context(entry.pipeline, entry.id))


def opened(key: ScopeKey, pipeline: str, entry_id: str, sealed: bytes, where: str) -> bytes:
    """Return the values of an entry. Raises IntegrityError if they were altered, or are of another entry."""
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key.hash_key).decrypt(sealed, _context(pipeline, entry_id))
    except (InvalidTag, ValueError):
        raise IntegrityError(
            f"open {where}: its sealed values were altered, or are of another entry",
            "Run verify_replicas, which heals the file from another site.",
        ) from None


def hashed(key: ScopeKey, features: bytes) -> str:
    """Return the keyed hash of features: equal features have the same."""
    return hmac.new(key.hash_key, b"rempart features " + features, hashlib.sha256).hexdigest()


def _context(pipeline: str, entry_id: str) -> list[bytes]:
    return [_PURPOSE, pipeline.encode(), entry_id.encode()]


@lru_cache(4)
def _cipher(secret: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESSIV(HKDF(SHA256(), 64, None, _PURPOSE).derive(secret))
