"""The chain of evidence, pure: how a record is written, what follows on what, and how an export is laid out.

A record is the canonical JSON of {v, seq, at, kind, subject, body, prev, key}; its hash is the SHA-256 of exactly those
bytes, its signature the Ed25519 signature over them. `prev` is the hash of the record before, null in the first. A
record of kind `key` introduces a public key: the first record introduces the first key and is signed with it; a later
one is signed with the key before, and from then on only the new key signs. A line of an export,

    {"hash":"<64 hex digits>","record":{...},"sig":"<base64>"}

holds the record byte for byte between `"record":` and `,"sig":`. A checkpoint is a signed statement of where the chain
ended: {"checkpoint":{v, seq, hash, at, records, key},"sig":"<base64>"}, signed over the bytes in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rempart.ledger.canonical import canonical, parse
from rempart.ledger.keys import Signer, to_base64

VERSION = 1
SIGNED = r'"sig":"(?P<sig>[A-Za-z0-9+/]{85}[AQgw]==)"\}'
"""Pattern of the end of a signed text: the Ed25519 signature in its only valid spelling.

Four bits of the last base64 letter do not count, so sixteen letters would read the same.
"""
_LINE = re.compile(r'\{"hash":"(?P<hash>[0-9a-f]{64})","record":(?P<text>\{.*\}),' + SIGNED)
_CHECKPOINT = re.compile(r'\{"checkpoint":(?P<text>\{.*\}),' + SIGNED)
_FIELDS: dict[str, tuple[type, ...]] = {
    "at": (str,),
    "body": (dict,),
    "key": (str,),
    "kind": (str,),
    "prev": (str, type(None)),
    "seq": (int,),
    "subject": (str,),
    "v": (int,),
}
_CHECKPOINT_FIELDS: dict[str, tuple[type, ...]] = {
    "at": (str,),
    "hash": (str,),
    "key": (str,),
    "records": (int,),
    "seq": (int,),
    "v": (int,),
}


@dataclass(frozen=True)
class Entry:
    """One record as stored: its canonical text, the hash of that, and the signature in base64."""

    seq: int
    text: str
    hash: str
    sig: str

    @property
    def line(self) -> str:
        """Return the record's line in an export, without the line end."""
        return f'{{"hash":"{self.hash}","record":{self.text},"sig":"{self.sig}"}}'


@dataclass(frozen=True)
class Head:
    """End of a chain: number and hash of the newest record, and the id of the key that signs the next one."""

    seq: int = 0
    hash: str | None = None
    key: str | None = None


def text_of_time(at: datetime) -> str:
    """Return an aware moment in the form of records: UTC, microseconds, Z."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def extend(head: Head, at: datetime, kind: str, subject: str, body: Mapping[str, Any], signer: Signer) -> Entry:
    """Return the next record of a chain, signed. Raises LedgerError for an invalid body."""
    record = {
        "v": VERSION,
        "seq": head.seq + 1,
        "at": text_of_time(at),
        "kind": kind,
        "subject": subject,
        "body": body,
        "prev": head.hash,
        "key": signer.id,
    }
    text = canonical(record)
    data = text.encode()
    signature = base64.b64encode(signer.sign(data)).decode()
    return Entry(head.seq + 1, text, hashlib.sha256(data).hexdigest(), signature)


def introduce(head: Head, at: datetime, new: Signer, signer: Signer) -> Entry:
    """Return the record that introduces a key: signed with itself at the start of a chain, else with the previous
    key.
    """
    body = {"public": to_base64(new.public), "replaces": head.key}
    return extend(head, at, "key", new.id, body, signer)


def checkpoint(head: Head, at: datetime, signer: Signer) -> str:
    """Return a signed statement that the chain ends here, as the stored line."""
    text = canonical(
        {
            "v": VERSION,
            "seq": head.seq,
            "hash": head.hash,
            "at": text_of_time(at),
            "records": head.seq,
            "key": signer.id,
        }
    )
    return f'{{"checkpoint":{text},"sig":"{base64.b64encode(signer.sign(text.encode())).decode()}"}}\n'


def read_line(line: str) -> tuple[Entry, dict[str, Any]]:
    """Return an export's line and its record; only its form is checked. Raises ValueError."""
    if not (matched := _LINE.fullmatch(line)):
        raise ValueError("the line is not part of an export")
    record = _fields(matched["text"], _FIELDS)
    return Entry(record["seq"], matched["text"], matched["hash"], matched["sig"]), record


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: its object's name, its canonical text, the signature over that, and what it states."""

    name: str
    text: str
    sig: str
    seq: int
    hash: str
    key: str


def read_checkpoint(name: str, text: str) -> Checkpoint:
    """Return a checkpoint from its line; only its form is checked. Raises ValueError."""
    if not (matched := _CHECKPOINT.fullmatch(text.rstrip("\n"))):
        raise ValueError("it is not a checkpoint")
    stated = _fields(matched["text"], _CHECKPOINT_FIELDS)
    return Checkpoint(name, matched["text"], matched["sig"], stated["seq"], stated["hash"], stated["key"])


def _fields(text: str, wanted: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    record: dict[str, Any] = parse(text)
    if record.keys() != wanted.keys():
        raise ValueError(f"its fields are not {', '.join(sorted(wanted))}")
    for name, types in wanted.items():
        if type(record[name]) not in types:  # True is no number here
            raise ValueError(f"its field {name} is a {type(record[name]).__name__}")
    if record["v"] != VERSION:
        raise ValueError(f"it has format {record['v']}, but this program reads {VERSION}")
    return record
