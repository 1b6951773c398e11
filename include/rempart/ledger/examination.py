"""One record, looked at in its place: its own bytes, the record before it, and the keys that the ledger introduced.

This tells whether the database still holds together there. It does not replace `rempart ledger verify`: whoever holds
database and key can write a chain that agrees with itself, and only a checkpoint under lock speaks against it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rempart.ledger.chain import Entry, read_line
from rempart.ledger.keys import from_base64, is_signed
from rempart.ledger.port import Evidence

What = Literal["form", "hash", "follows", "key", "signature"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `detail` is the value that decided."""

    what: What
    ok: bool
    detail: str


def examine(entry: Entry, before: Entry | None, introduced: Iterable[Evidence]) -> tuple[Finding, ...]:
    """What is right and wrong of a record; `before` is the one before it, `introduced` every record of kind `key`."""
    try:
        _, record = read_line(entry.line)
    except ValueError as fault:
        return (Finding("form", False, str(fault)),)
    data = entry.text.encode()
    digest = hashlib.sha256(data).hexdigest()
    prev = before.hash if before else None
    signing = _signing(record, introduced)
    public = from_base64(signing.body.get("public")) if signing else None
    named = signing is not None and record["key"] == signing.subject
    return (
        Finding("form", record["seq"] == entry.seq, str(record["seq"])),
        Finding("hash", digest == entry.hash, digest),
        Finding("follows", record["prev"] == prev, str(record["prev"])),
        Finding("key", named, str(record["key"])),
        Finding("signature", public is not None and is_signed(public, base64.b64decode(entry.sig), data), entry.sig),
    )


def _signing(record: dict[str, Any], introduced: Iterable[Evidence]) -> Evidence | None:
    """The key that signs a record: the newest that was introduced before it; the first record introduces its own."""
    known = [key for key in introduced if key.seq < record["seq"] or record["seq"] == key.seq == 1]
    return max(known, key=lambda key: key.seq, default=None)
