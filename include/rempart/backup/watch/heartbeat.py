"""Heartbeats: signed notes at the backup site that a backup, a replication or a drill ended, when, and with what.

Each kind has one object, `heartbeats/<kind>.json`, which is replaced each time:

    {"heartbeat":{"at":"...","facts":{...},"key":"...","kind":"backup","v":1},"sig":"<base64>"}

The middle is canonical JSON, and the ledger's key signs exactly its bytes, as it does with a checkpoint (ledger.chain).
So whoever reads it needs the public key and nothing else of the platform.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rempart.ledger.canonical import canonical, parse
from rempart.ledger.chain import SIGNED, text_of_time
from rempart.ledger.keys import Signer, is_signed, key_id

VERSION = 1
PREFIX = "heartbeats/"
WAL = "wal"
"""Kind of the WAL archive: unlike the others it does not end, and reports every few minutes."""
KIND = r"^(backup|drill|wal|replication/[^/\s]+-[^/\s]+)$"
_FORM = re.compile(r'\{"heartbeat":(?P<text>\{.*\}),' + SIGNED + r"\n?")
_FIELDS: dict[str, type] = {"at": str, "facts": dict, "key": str, "kind": str, "v": int}


@dataclass(frozen=True)
class Heartbeat:
    """`kind` ended at `at`. `facts` describe it: plain JSON, neither secret nor personal."""

    kind: str
    at: datetime
    facts: Mapping[str, Any]

    def moment(self, name: str) -> datetime | None:
        """Return a fact as an aware moment, or None."""
        try:
            found = datetime.fromisoformat(str(self.facts.get(name)))
        except ValueError:
            return None
        return found if found.tzinfo else None

    def seconds(self, name: str) -> timedelta | None:
        """Return a fact as a number of seconds, or None."""
        found = self.facts.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        try:
            return timedelta(seconds=found)
        except OverflowError:
            return timedelta.max


def replication(source: str, target: str) -> str:
    """Return the kind of one pair's heartbeat."""
    return f"replication/{source}-{target}"


def key_of(kind: str) -> str:
    """Return the key of a kind's heartbeat in the backup bucket."""
    return f"{PREFIX}{kind}.json"


def encode(heartbeat: Heartbeat, signer: Signer) -> bytes:
    """Return the signed object. Raises LedgerError for facts that are not plain JSON."""
    text = canonical(
        {
            "v": VERSION,
            "kind": heartbeat.kind,
            "at": text_of_time(heartbeat.at),
            "facts": heartbeat.facts,
            "key": signer.id,
        }
    )
    signature = base64.b64encode(signer.sign(text.encode())).decode()
    return f'{{"heartbeat":{text},"sig":"{signature}"}}\n'.encode()


def decode(kind: str, body: bytes, trusted: Iterable[bytes]) -> Heartbeat:
    """Return the heartbeat in an object, signed by one of the trusted public keys (32 bytes each).

    Raises ValueError with the reason of distrust.
    """
    try:
        matched = _FORM.fullmatch(body.decode())
    except UnicodeDecodeError as cause:
        raise ValueError("it is not a heartbeat") from cause
    if not matched:
        raise ValueError("it is not a heartbeat")
    text, stated = matched["text"], parse(matched["text"])
    if {name: type(value) for name, value in stated.items()} != _FIELDS:
        raise ValueError(f"its fields are not {', '.join(_FIELDS)}")
    public = {key_id(key): key for key in trusted}.get(stated["key"])
    if public is None:  # nothing of it is quoted: who wrote it chose the words
        raise ValueError("it is signed with a key that is not trusted")
    if not is_signed(public, base64.b64decode(matched["sig"]), text.encode()):
        raise ValueError(f"its signature does not match key {stated['key']}")
    if stated["v"] != VERSION:
        raise ValueError(f"it has format {stated['v']}, but this program reads {VERSION}")
    if stated["kind"] != kind:  # an old heartbeat of another kind, put here
        raise ValueError(f"it is the heartbeat of kind {stated['kind']}")
    if (at := datetime.fromisoformat(stated["at"])).tzinfo is None:
        raise ValueError("its time has no time zone")
    return Heartbeat(kind, at, stated["facts"])
