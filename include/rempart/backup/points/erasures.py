"""The register of erasures: whom no restore may bring back. `erasures/<id>.json` in the bucket of backups of each site.

    {"erasure":{"at":"...","by":"...","id":"...","key":"...","pipeline":"...","reason":"...","scope":"...",
                "serial":"...","subjects":["<64 hex digits>", ...],"v":1},"sig":"<base64>"}

The middle is canonical JSON, and the ledger's key signs exactly its bytes, as it does with a heartbeat. A subject is
the HMAC-SHA-256 of a row's key under a key of its own (`scope` and `serial` name it in the keyring): keys of rows can
be guessed, so a plain hash would tell who was erased. Entries are locked as long as a restore point may be kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from rempart.ledger.canonical import canonical, parse
from rempart.ledger.chain import SIGNED, text_of_time
from rempart.ledger.keys import Signer, is_signed
from rempart.sites.port import Site

VERSION = 1
PREFIX = "erasures/"
KEYS = "erasures"
"""Name of the scope of the platform whose hash key makes the pseudonyms."""
Reason = Literal["consent-withdrawn", "legal-obligation", "no-longer-needed", "objection", "unlawful"]
"""Reasons: the cases of Article 17(1) GDPR. They are codes, so that no text about a person is stored."""
REASONS: tuple[str, ...] = get_args(Reason)
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_SUBJECT = re.compile(r"[0-9a-f]{64}")
_FORM = re.compile(r'\{"erasure":(?P<text>\{.*\}),' + SIGNED + r"\n?")
_FIELDS: dict[str, type] = {
    "at": str,
    "by": str,
    "scope": str,
    "id": str,
    "key": str,
    "pipeline": str,
    "reason": str,
    "serial": str,
    "subjects": list,
    "v": int,
}


@dataclass(frozen=True)
class Erasure:
    """One entry: the `subjects` (pseudonyms) of a pipeline, since when, who decided so as a role, and why.

    `scope` and `serial` name the key in the keyring under which the pseudonyms were made.
    """

    id: str
    at: datetime
    pipeline: str
    subjects: tuple[str, ...]
    by: str
    reason: str
    scope: str
    serial: str

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "at": text_of_time(self.at), "subjects": list(self.subjects)}


def from_json(plain: Mapping[str, Any]) -> Erasure:
    """Return an entry from the result of `as_json`. Raises ValueError, KeyError, TypeError."""
    at = datetime.fromisoformat(plain["at"])
    if at.tzinfo is None:
        raise ValueError("its time has no time zone")
    names = ("pipeline", "by", "reason", "scope", "serial")
    return Erasure(plain["id"], at, subjects=tuple(plain["subjects"]), **{name: str(plain[name]) for name in names})


def key_of(erasure_id: str) -> str:
    """Return the key of an entry in the bucket of backups."""
    return f"{PREFIX}{erasure_id}.json"


def pseudonym(secret: bytes, pipeline: str, key: Sequence[object]) -> str:
    """Return the pseudonym of a pipeline's row: HMAC-SHA-256 (hex) of its typed key values in order."""
    payload = canonical([pipeline, [_text(value) for value in key]])
    return hmac.new(secret, f"rempart erasure {payload}".encode(), hashlib.sha256).hexdigest()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC)  # a database answers in the zone of its session
    return value.isoformat() if isinstance(value, date) else str(value)


def encode(erasure: Erasure, signer: Signer) -> bytes:
    """Return the signed file of an entry; equal entries and keys give equal bytes."""
    text = canonical({**erasure.as_json(), "key": signer.id, "v": VERSION})
    return f'{{"erasure":{text},"sig":"{base64.b64encode(signer.sign(text.encode())).decode()}"}}\n'.encode()


def decode(key: str, body: bytes, trusted: Mapping[str, bytes]) -> Erasure:
    """Return the entry in the file `key`, signed by one of the trusted public keys (32 bytes each, by id).

    Raises ValueError with the reason of distrust, without quoting the file.
    """
    try:
        matched = _FORM.fullmatch(body.decode())
    except UnicodeDecodeError as cause:
        raise ValueError("it is not an entry") from cause
    if not matched:
        raise ValueError("it is not a signed entry")
    stated = parse(matched["text"])
    if not isinstance(stated, dict) or {name: type(value) for name, value in stated.items()} != _FIELDS:
        raise ValueError(f"its fields are not {', '.join(_FIELDS)}")
    if stated["key"] not in trusted:
        raise ValueError("it is signed with a key that is not trusted")
    if not is_signed(trusted[stated["key"]], base64.b64decode(matched["sig"]), matched["text"].encode()):
        raise ValueError("its signature does not match")
    if stated["v"] != VERSION:
        raise ValueError(f"it has format {stated['v']}, but this program reads {VERSION}")
    if not _ID.fullmatch(stated["id"]) or key_of(stated["id"]) != key:
        raise ValueError("it belongs to another place")
    if not all(isinstance(subject, str) and _SUBJECT.fullmatch(subject) for subject in stated["subjects"]):
        raise ValueError("a subject in it is not valid")
    return from_json(stated)


def read(site: Site, bucket: str) -> list[tuple[str, bytes]]:
    """Yield every file of a site's register with its key, in every version, because locked files can be hidden.

    Raises SiteError.
    """
    there = [info for info in site.versions(bucket, PREFIX) if not info.marker]
    return [(info.key, site.read(bucket, info.key, version_id=info.version_id)) for info in there]


def verified(files: Iterable[tuple[str, bytes]], trusted: Mapping[str, bytes]) -> tuple[list[Erasure], dict[str, str]]:
    """Return the platform's entries by time, each once, and why other files are not trusted."""
    entries: dict[str, Erasure] = {}
    doubts: dict[str, str] = {}
    for key, body in files:
        try:
            entry = decode(key, body, trusted)
        except ValueError as why:
            doubts[key] = str(why)
        else:
            entries[entry.id] = entry
    return [entries[name] for name in sorted(entries)], doubts


def successors(bodies: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[str, str] | None]:
    """Return the replacements in evidence of kind `erasure`, by bucket and key: key and SHA-256.

    None if there is no replacement: the object held no other rows.
    """
    found: dict[tuple[str, str], tuple[str, str] | None] = {}
    for body in bodies:
        for successor in body.get("successors", ()):
            to = (str(successor["to"]), str(successor["to_sha256"])) if successor["to"] else None
            found[str(successor["bucket"]), str(successor["key"])] = to
    return found


def standing(
    rewritten: Mapping[tuple[str, str], tuple[str, str] | None], bucket: str, key: str, sha256: str
) -> tuple[str, str] | None:
    """Return key and SHA-256 of a recorded object or, after an erasure, its replacement."""
    at: tuple[str, str] | None = (key, sha256)
    seen: set[str] = set()
    while at and (bucket, at[0]) in rewritten and at[0] not in seen:
        seen.add(at[0])
        at = rewritten[bucket, at[0]]
    return at
