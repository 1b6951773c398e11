"""Decide which stored records are valid: those signed by the chain's key at their place. Callers act only on these.

The database's role may insert, so a stored row is only a claim. A record is valid if it has the right form, names the
key that signs at its number, and carries that key's signature; a key is valid if the previous key signed the record
that introduces it, and the first if it signed itself. A signature is verified once in this process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rempart.ledger.keys import from_base64, is_signed, key_id

logger = logging.getLogger(__name__)

_FIELDS = frozenset({"at", "body", "key", "kind", "prev", "seq", "subject", "v"})
MOST_KEPT = 200_000
"""Signatures that are remembered at most: 32 bytes each."""
_verified: set[bytes] = set()
_told: set[bytes] = set()


@dataclass(frozen=True)
class Introduced:
    """A key of the chain, and the number of the record that introduced it."""

    seq: int
    id: str
    public: bytes


@dataclass(frozen=True)
class KeyChain:
    """The keys of a chain, oldest first: each was introduced by a record that the key before it signed."""

    keys: tuple[Introduced, ...] = ()

    @property
    def current(self) -> Introduced | None:
        """Return the key that signs the next record; None for a chain that has not begun."""
        return self.keys[-1] if self.keys else None

    def signing(self, seq: int) -> Introduced | None:
        """Return the key that signs the record of this number. The first record is signed by the key it introduces."""
        known = [key for key in self.keys if key.seq < seq or key.seq == seq == 1]
        return known[-1] if known else None

    def read(self, text: str, sig: str) -> dict[str, Any] | None:
        """Return the record of a stored text if its key signed it, else None. Invalid records are logged."""
        record = _record(text)
        key = self.signing(record["seq"]) if record else None
        if record and key and record["key"] == key.id and _is_signed(key.public, text, sig):
            return record
        _tell(record, text)
        return None


def key_chain(rows: Iterable[tuple[str, str]]) -> KeyChain:
    """Return the keys introduced by records of kind `key`; `rows` are text and signature of each, in order.

    A record without the previous key's signature introduces no key, and later records are checked against the previous
    key.
    """
    chain = KeyChain()
    for text, sig in rows:
        record = _record(text)
        public = from_base64(record["body"].get("public")) if record and record["kind"] == "key" else None
        if record is None or public is None or key_id(public) != record["subject"]:
            _tell(record, text)
            continue
        if not chain.keys:
            first = Introduced(1, record["subject"], public)
            if record["seq"] == 1 and KeyChain((first,)).read(text, sig):
                chain = KeyChain((first,))
        elif chain.read(text, sig):
            chain = KeyChain((*chain.keys, Introduced(record["seq"], record["subject"], public)))
    return chain


def first_altered(keys: KeyChain, rows: Iterable[tuple[int, str, str]], after: int) -> int | None:
    """Return the first number without a valid record before a valid one, or None. Pure.

    `rows`: number, text and signature of the stored records after `after`, in order. A valid record in the place of
    another is not valid there.
    """
    expected, first = max(after, 0) + 1, None
    for seq, text, sig in rows:
        valid = (record := keys.read(text, sig)) is not None and record["seq"] == seq
        if first is None and (seq != expected or not valid):
            first = expected
        if valid and first is not None:
            return first
        expected = seq + 1
    return None


def _record(text: str) -> dict[str, Any] | None:
    """Return the text as a record if it has the right form."""
    try:
        plain = json.loads(text)
    except ValueError:
        return None
    if not isinstance(plain, dict) or plain.keys() != _FIELDS:
        return None
    whole = type(plain["seq"]) is int and isinstance(plain["body"], dict)
    return plain if whole and all(isinstance(plain[name], str) for name in ("at", "key", "kind", "subject")) else None


def _is_signed(public: bytes, text: str, sig: str) -> bool:
    data = text.encode(errors="surrogatepass")
    digest = hashlib.sha256(b"%b\0%b\0%b" % (public, sig.encode(errors="replace"), data)).digest()
    if digest in _verified:
        return True
    try:
        signature = base64.b64decode(sig, validate=True)
    except ValueError:
        return False
    if not is_signed(public, signature, data):
        return False
    if len(_verified) >= MOST_KEPT:
        _verified.clear()
    _verified.add(digest)
    return True


def _tell(record: dict[str, Any] | None, text: str) -> None:
    """Name a record that does not count, once in a process."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    if digest in _told or len(_told) > 1000:
        return
    _told.add(digest)
    logger.error(
        "Record %s of the ledger (kind %.40r) is not signed with the key of the chain and is ignored. Somebody "
        "wrote or altered it without the platform: docs/how-to/verify-the-ledger.md#when-it-does-not-verify",
        record["seq"] if record else "?",
        record["kind"] if record else "?",
    )
