"""Examine one record in its place: its bytes, the record before it, and the keys that the ledger introduced.

This shows whether the database is consistent there. It does not replace `rempart ledger verify`: whoever controls
database and key can write a consistent chain, and only a locked checkpoint contradicts it.
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
class RecordFinding:
    """One checked property; `detail` is the deciding value."""

    what: What
    ok: bool
    detail: str


def examine(entry: Entry, before: Entry | None, introduced: Iterable[Evidence]) -> tuple[RecordFinding, ...]:
    """Return findings about a record; `before` is the previous record, `introduced` every record of kind `key`."""
    try:
        _, record = read_line(entry.line)
    except ValueError as fault:
        return (RecordFinding("form", False, str(fault)),)
    data = entry.text.encode()
    digest = hashlib.sha256(data).hexdigest()
    prev = before.hash if before else None
    signing = _signing(record, introduced)
    public = from_base64(signing.body.get("public")) if signing else None
    named = signing is not None and record["key"] == signing.subject
    return (
        RecordFinding("form", record["seq"] == entry.seq, str(record["seq"])),
        RecordFinding("hash", digest == entry.hash, digest),
        RecordFinding("follows", record["prev"] == prev, str(record["prev"])),
        RecordFinding("key", named, str(record["key"])),
        RecordFinding(
            "signature", public is not None and is_signed(public, base64.b64decode(entry.sig), data), entry.sig
        ),
    )


def _signing(record: dict[str, Any], introduced: Iterable[Evidence]) -> Evidence | None:
    """Return the key that signs a record: the newest key introduced before it.

    The first record introduces its own key.
    """
    known = [key for key in introduced if key.seq < record["seq"] or record["seq"] == key.seq == 1]
    return max(known, key=lambda key: key.seq, default=None)
