"""Who vouches for a restore point, readable without the platform: a numbered chain of signed links at the backup site.

`chain/<seq>.json` in the backup bucket is `{"link":{...},"sig":"<base64>"}`: the canonical JSON of {v, seq, point, at,
manifest, consistent, prev, key} and the Ed25519 signature over these bytes by the ledger's key. `manifest` is the
SHA-256 of the point's manifest, `prev` that of the file of the link before, null in the first. A link is stored before
its manifest, by a conditional put of its number: two backups cannot fork the chain, and links stay when points go.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.errors import BackupError, IntegrityError
from rempart.ledger.canonical import canonical, parse
from rempart.ledger.chain import SIGNED, text_of_time
from rempart.ledger.keys import Signer, is_signed
from rempart.sites.port import Site

VERSION, FOLDER = 1, "chain/"
TRIES = 5
WORKERS = 16
_FILE = re.compile(r'\{"link":(?P<text>\{.*\}),' + SIGNED)
_FIELDS: dict[str, tuple[type, ...]] = {
    "v": (int,),
    "seq": (int,),
    "point": (str,),
    "at": (str,),
    "manifest": (str,),
    "consistent": (bool,),
    "prev": (str, type(None)),
    "key": (str,),
}


@dataclass(frozen=True)
class Link:
    """One restore point as vouched for. `consistent`: nothing that its dumps refer to was missing."""

    seq: int
    point: str
    at: datetime
    manifest_sha256: str
    consistent: bool
    previous: str | None
    key: str


@dataclass(frozen=True)
class Stored:
    """A link as it stands at a site: its number there, and its bytes."""

    seq: int
    body: bytes

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def key_of(seq: int) -> str:
    return f"{FOLDER}{seq:09d}.json"


def encode(link: Link, signer: Signer) -> bytes:
    """The file of a link, signed."""
    text = canonical(
        {
            "v": VERSION,
            "seq": link.seq,
            "point": link.point,
            "at": text_of_time(link.at),
            "manifest": link.manifest_sha256,
            "consistent": link.consistent,
            "prev": link.previous,
            "key": link.key,
        }
    )
    return f'{{"link":{text},"sig":"{base64.b64encode(signer.sign(text.encode())).decode()}"}}\n'.encode()


def _parse(body: bytes) -> tuple[Link, str, bytes]:
    """A link, its text and its signature. Raises ValueError that says what is wrong."""
    found = _FILE.fullmatch(body.decode("utf-8", errors="strict").removesuffix("\n"))
    if found is None:
        raise ValueError("it is no link")
    plain: Any = parse(found["text"])
    if not isinstance(plain, dict) or plain.keys() != _FIELDS.keys():
        raise ValueError("it lacks a field, or has one too many")
    for name, kinds in _FIELDS.items():
        if type(plain[name]) not in kinds:
            raise ValueError(f"its field {name} is not of the right kind")
    if plain["v"] != VERSION:
        raise ValueError(f"it is of version {plain['v']}")
    at = datetime.fromisoformat(plain["at"])
    link = Link(plain["seq"], plain["point"], at, plain["manifest"], plain["consistent"], plain["prev"], plain["key"])
    return link, found["text"], base64.b64decode(found["sig"])


def verify(stored: Iterable[Stored], keys: Mapping[str, bytes]) -> list[Link]:
    """Every link in order, from the first one given; `keys` are the public keys (32 bytes) that are trusted, by id.

    Raises IntegrityError for the first that is altered, unsigned, signed by a key that is not trusted, out of place, or
    does not follow on the one before.
    """
    links: list[Link] = []
    before: Stored | None = None
    for one in stored:
        try:
            link, text, signature = _parse(one.body)
        except ValueError as cause:
            raise _broken(one.seq, str(cause)) from cause
        if link.seq != one.seq or (before and one.seq != before.seq + 1):
            raise _broken(one.seq, "it is out of its place, or a link before it is gone")
        if link.key not in keys:
            raise _broken(one.seq, f"it is signed by key {link.key[:16]}, which is not one of those trusted")
        if not is_signed(keys[link.key], signature, text.encode()):
            raise _broken(one.seq, "its signature does not fit")
        if (link.previous is None) != (one.seq == 1) or (before and link.previous != before.hash):
            raise _broken(one.seq, "it does not follow on the link before it")
        links.append(link)
        before = one
    return links


def _broken(seq: int, why: str) -> IntegrityError:
    return IntegrityError(
        f"The chain of restore points is broken at link {seq} ({key_of(seq)}): {why}",
        "Trust no point from there on. Find out who changed the backup bucket; the ledger and its checkpoints tell what"
        " was written, and the site's versions may still hold the link.",
    )


def read(site: Site, bucket: str, *, after: int = 0) -> list[Stored]:
    """The links of a site with a number above `after`, in order."""
    numbers = sorted(
        int(found[1])
        for info in site.list(bucket, FOLDER)
        if (found := re.fullmatch(rf"{FOLDER}(\d{{9}})\.json", info.key)) and int(found[1]) > after
    )
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="chain") as pool:
        return list(pool.map(lambda seq: Stored(seq, site.read(bucket, key_of(seq))), numbers))


def append(
    site: Site,
    bucket: str,
    point: str,
    at: datetime,
    manifest_sha256: str,
    signer: Signer,
    *,
    consistent: bool,
    retain_until: datetime | None = None,
) -> Link:
    """Vouch for a point, under lock until then. Raises BackupError if other backups were always faster, SiteError."""
    for _ in range(TRIES):
        last = read_last(site, bucket)
        seq = last.seq + 1 if last else 1
        link = Link(seq, point, at, manifest_sha256, consistent, last.hash if last else None, signer.id)
        body = encode(link, signer)
        if site.write_new(bucket, key_of(seq), body, content_type="application/json", retain_until=retain_until):
            return link
    raise BackupError(
        f"{TRIES} other backups wrote to {bucket}/{FOLDER} at site '{site.name}' before this one could",
        "Run one backup at a time, then run again.",
    )


def read_last(site: Site, bucket: str) -> Stored | None:
    """The newest link; None where there is none."""
    keys = [info.key for info in site.list(bucket, FOLDER) if re.fullmatch(rf"{FOLDER}\d{{9}}\.json", info.key)]
    if not keys:
        return None
    return Stored(int(max(keys)[len(FOLDER) : -len(".json")]), site.read(bucket, max(keys)))


def of_point(links: Sequence[Link], point: str) -> Link:
    """The link that vouches for a point: the newest of that name. Raises IntegrityError if none does."""
    for link in reversed(links):
        if link.point == point:
            return link
    raise IntegrityError(
        f"No link of the chain vouches for restore point {point}: it may not be what a backup wrote",
        "Choose another point.",
    )
