"""Attest restore points, readable without the platform: a numbered chain of signed links at the backup site.

`chain/<seq>.json` in the backup bucket is `{"link":{...},"sig":"<base64>"}`: the canonical JSON of {v, seq, point, at,
manifest, consistent, prev, key} and the Ed25519 signature over these bytes by the ledger's key. `manifest` is the
SHA-256 of the point's manifest, `prev` that of the previous link's file, null in the first link. A link is stored
before its manifest, by a conditional put of its number: two backups cannot fork the chain, and links stay when points
are deleted.

A link is written once, so the first version of its key is the link if it verifies. If it does not, the link is the
version whose SHA-256 the ledger or the next link names, even if newer versions exist. If there is no such version, a
signed mark `chain/<seq>.lost.json` may take the link's place. It says that the point is lost, names no manifest, and is
ignored as soon as the link itself exists again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.errors import BackupError, IntegrityError
from rempart.ledger.canonical import canonical, parse
from rempart.ledger.chain import SIGNED, text_of_time
from rempart.ledger.keys import Signer, is_signed
from rempart.sites.once import LOOKED_AT, store_once
from rempart.sites.port import ObjectInfo, Site

VERSION, FOLDER = 1, "chain/"
TRIES = 5
WORKERS = 16
DAMAGED = b"damaged"
"""In place of a version that the site gives back otherwise than its writer recorded."""
_FILE = re.compile(r'\{"link":(?P<text>\{.*\}),' + SIGNED)
_MARK = re.compile(r'\{"lost":(?P<text>\{.*\}),' + SIGNED)
_KEY = re.compile(rf"{FOLDER}(?P<seq>\d{{9}})(?P<lost>\.lost)?\.json")
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
    """An attested restore point. `consistent`: none of its dumps' references is missing."""

    seq: int
    point: str
    at: datetime
    manifest_sha256: str
    consistent: bool
    previous: str | None
    key: str


@dataclass(frozen=True)
class StoredLink:
    """A link as it stands at a site: its number there, and its bytes; with `lost` those of the mark in its place."""

    seq: int
    body: bytes
    lost: bool = False

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def key_of(seq: int) -> str:
    return f"{FOLDER}{seq:09d}.json"


def mark_of(seq: int) -> str:
    """Return the key of the mark for a lost link."""
    return f"{FOLDER}{seq:09d}.lost.json"


@dataclass(frozen=True)
class Mark:
    """A mark in place of a lost link; `points` are those that the link may have attested."""

    seq: int
    at: datetime
    points: tuple[str, ...]


def encode_mark(mark: Mark, signer: Signer) -> bytes:
    """Return the signed file of a mark."""
    plain = {"v": VERSION, "seq": mark.seq, "at": text_of_time(mark.at), "points": mark.points, "key": signer.id}
    text = canonical(plain)
    return f'{{"lost":{text},"sig":"{base64.b64encode(signer.sign(text.encode())).decode()}"}}\n'.encode()


def _parse_mark(body: bytes, keys: Mapping[str, bytes]) -> Mark:
    """Return a mark signed by one of the keys. Raises ValueError with the defect."""
    matched = _MARK.fullmatch(body.decode("utf-8", errors="strict").removesuffix("\n"))
    if matched is None:
        raise ValueError("the mark in its place is not valid")
    plain: Any = parse(matched["text"])
    if not isinstance(plain, dict) or plain.keys() != {"v", "seq", "at", "points", "key"} or plain["v"] != VERSION:
        raise ValueError("the mark in its place is not valid")
    signed = plain["key"] in keys and is_signed(
        keys[plain["key"]], base64.b64decode(matched["sig"]), matched["text"].encode()
    )
    if not signed:
        raise ValueError("the mark in its place is not signed by a trusted key")
    points = plain["points"]
    if (
        type(plain["seq"]) is not int
        or not isinstance(points, list)
        or not all(isinstance(point, str) for point in points)
    ):
        raise ValueError("the mark in its place is not valid")
    return Mark(plain["seq"], datetime.fromisoformat(plain["at"]), tuple(points))


def encode(link: Link, signer: Signer) -> bytes:
    """Return the signed file of a link."""
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
    """Return a link, its text and its signature. Raises ValueError with the defect."""
    matched = _FILE.fullmatch(body.decode("utf-8", errors="strict").removesuffix("\n"))
    if matched is None:
        raise ValueError("it is not a link" if body else "it is missing")
    plain: Any = parse(matched["text"])
    if not isinstance(plain, dict) or plain.keys() != _FIELDS.keys():
        raise ValueError("it has a missing or an unknown field")
    for name, kinds in _FIELDS.items():
        if type(plain[name]) not in kinds:
            raise ValueError(f"its field {name} has the wrong type")
    if plain["v"] != VERSION:
        raise ValueError(f"it has version {plain['v']}")
    at = datetime.fromisoformat(plain["at"])
    link = Link(plain["seq"], plain["point"], at, plain["manifest"], plain["consistent"], plain["prev"], plain["key"])
    return link, matched["text"], base64.b64decode(matched["sig"])


def _signed(stored: StoredLink, keys: Mapping[str, bytes]) -> Link:
    """Return the link in a body, signed by one of the keys for its number. Raises ValueError with the defect."""
    link, text, signature = _parse(stored.body)
    if link.seq != stored.seq:
        raise ValueError("it has the number of another place, or an earlier link is missing")
    if link.key not in keys:
        raise ValueError(f"it is signed by key {link.key[:16]}, which is not trusted")
    if not is_signed(keys[link.key], signature, text.encode()):
        raise ValueError("its signature does not match")
    if (link.previous is None) != (stored.seq == 1):
        raise ValueError("it does not follow the link before it")
    return link


def faults(stored: Iterable[StoredLink], keys: Mapping[str, bytes]) -> Iterator[tuple[StoredLink, Link | None, str]]:
    """Return each link in order with its defect or an empty text; None for a broken or lost one.

    A link after a broken or lost one is not compared with it.
    """
    before: StoredLink | None = None
    number: int | None = None
    for record in stored:
        link, why = None, ""
        try:
            if number is not None and record.seq != number + 1:
                raise ValueError("it has the number of another place, or an earlier link is missing")
            if record.lost:
                if _parse_mark(record.body, keys).seq != record.seq:
                    raise ValueError("the mark in its place belongs to another link")
            else:
                link = _signed(record, keys)
                if before and link.previous != before.hash:
                    link = None
                    raise ValueError("it does not follow the link before it")
        except ValueError as cause:
            why = str(cause)
        yield record, link, why
        before, number = (record if link else None), record.seq


def verify(stored: Iterable[StoredLink], keys: Mapping[str, bytes]) -> list[Link]:
    """Return every link in order, verified; `keys` are the trusted public keys (32 bytes), by id.

    A lost link with a mark is left out. Raises IntegrityError for the first link that is altered, unsigned, signed by
    an untrusted key, out of place, or does not follow the previous one.
    """
    links: list[Link] = []
    for record, link, why in faults(stored, keys):
        if why:
            raise _broken(record.seq, why)
        if link:
            links.append(link)
    return links


def lost_points(stored: Iterable[StoredLink], keys: Mapping[str, bytes]) -> frozenset[str]:
    """Return the points named by marks of lost links. Raises ValueError for a mark without a trusted signature."""
    return frozenset(point for link in stored if link.lost for point in _parse_mark(link.body, keys).points)


def _broken(seq: int, why: str) -> IntegrityError:
    return IntegrityError(
        f"verify the chain of restore points: it is broken at link {seq} ({key_of(seq)}): {why}",
        "Do not trust any restore point from that link on. `rempart backup repair` restores the link from the "
        "ledger, from another version or from another site (docs/runbooks/chain-is-broken.md). Find out who "
        "changed the backup bucket.",
    )


def read(
    site: Site,
    bucket: str,
    keys: Mapping[str, bytes],
    *,
    named: Mapping[int, str] | None = None,
    newest: int | None = None,
) -> list[StoredLink]:
    """Return the links of a site in order, all or the `newest` ones, each in its valid version.

    `named`: SHA-256 of links by number, from the ledger. A link without a valid version is returned as it is, or as its
    mark; `verify` decides about it.
    """
    versions: dict[int, list[ObjectInfo]] = {}
    marks: dict[int, list[ObjectInfo]] = {}
    for info in site.versions(bucket, FOLDER):
        if (matched := _KEY.fullmatch(info.key)) and not info.marker:
            (marks if matched["lost"] else versions).setdefault(int(matched["seq"]), []).append(info)
    there = versions.keys() | marks.keys()
    numbers = list(range(min(there), max(there) + 1)) if there else []
    numbers = numbers[-newest:] if newest else numbers
    choice = _Choice(site, bucket, keys, named or {}, marks)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="chain") as pool:
        firsts = list(pool.map(lambda seq: choice.first(seq, versions.get(seq, [])), numbers))
    first = dict(zip(numbers, firsts, strict=True))
    chosen: dict[int, StoredLink] = {}
    for seq in reversed(numbers):  # a version is chosen by what the next link names
        chosen[seq] = choice.of(seq, first[seq], versions.get(seq, []), None, chosen.get(seq + 1))
    for seq in numbers:  # a link that does not follow on its predecessor does not count
        before = chosen.get(seq - 1)
        if not (chosen[seq].lost or choice.counts(chosen[seq], before)):
            chosen[seq] = choice.of(seq, first[seq], versions.get(seq, []), before, chosen.get(seq + 1))
    return [chosen[seq] for seq in numbers]


def numbers(site: Site, bucket: str) -> list[int]:
    """Return the numbers of all links of which a site has any version."""
    matches = (_KEY.fullmatch(version.key) for version in site.versions(bucket, FOLDER) if not version.marker)
    return sorted({int(link["seq"]) for link in matches if link and not link["lost"]})


@dataclass(frozen=True)
class _Choice:
    """Chooses among the versions of links; those of a key come newest first, as they are listed."""

    site: Site
    bucket: str
    keys: Mapping[str, bytes]
    named: Mapping[int, str]
    marks: Mapping[int, Sequence[ObjectInfo]]

    def first(self, seq: int, versions: Sequence[ObjectInfo]) -> StoredLink | None:
        """Return the version that the link's writer made, or None if there is only a mark."""
        return self._fetched(seq, versions[-1]) if versions else None

    def of(
        self,
        seq: int,
        first: StoredLink | None,
        versions: Sequence[ObjectInfo],
        before: StoredLink | None,
        after: StoredLink | None,
    ) -> StoredLink:
        if first and self.counts(first, before):
            return first
        wanted = self.named.get(seq) or (self._previous(after) if after else None)
        for info in reversed(versions[:-1][:LOOKED_AT]):
            other = self._fetched(seq, info)
            if other.hash == wanted if wanted else self.counts(other, before):
                return other
        for info in reversed(self.marks.get(seq, ())):
            mark = self._fetched(seq, info, lost=True)
            if not any(why for _, _, why in faults([mark], self.keys)):
                return mark
        return first or StoredLink(seq, b"")

    def counts(self, stored: StoredLink, before: StoredLink | None) -> bool:
        """Return whether a version is the link: the ledger names it, or it verifies and follows a valid link."""
        if wanted := self.named.get(stored.seq):
            return stored.hash == wanted
        try:
            link = _signed(stored, self.keys)
        except ValueError:
            return False
        if before is None or before.lost:
            return True
        try:
            _signed(before, self.keys)
        except ValueError:
            return True  # there is nothing to hold it against
        return link.previous == before.hash

    def _previous(self, stored: StoredLink) -> str | None:
        """Return the hash of the previous link in a link that verifies."""
        try:
            return _signed(stored, self.keys).previous
        except ValueError:
            return None

    def _fetched(self, seq: int, info: ObjectInfo, *, lost: bool = False) -> StoredLink:
        try:
            body = self.site.fetch(self.bucket, info.key, version_id=info.version_id)[1]
        except IntegrityError:  # of this version alone: another may be the link
            body = DAMAGED
        return StoredLink(seq, body, lost)


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
    keys: Mapping[str, bytes] | None = None,
    named: Mapping[int, str] | None = None,
) -> Link:
    """Attest a point with a locked link. The previous link is verified first, and the new one is read back.

    `keys` are public keys of earlier links in addition to the signer's; `named` as in `read`. Raises BackupError if
    other backups were always faster; IntegrityError if the previous link does not verify or the site returns other
    bytes; SiteError.
    """
    trusted = {**(keys or {}), signer.id: signer.public}
    for _ in range(TRIES):
        ends = read(site, bucket, trusted, named=named, newest=2)
        verify(ends, trusted)
        last = ends[-1] if ends else None
        seq = last.seq + 1 if last else 1
        link = Link(seq, point, at, manifest_sha256, consistent, last.hash if last else None, signer.id)
        body = encode(link, signer)
        if store_once(site, bucket, key_of(seq), body, content_type="application/json", retain_until=retain_until):
            return link
    raise BackupError(
        f"attest the restore point in {bucket}/{FOLDER} at site '{site.name}': {TRIES} other backups wrote a link "
        "first",
        "Run again, and run only one backup at a time.",
    )


def of_point(links: Sequence[Link], point: str) -> Link:
    """Return the newest link of a point. Raises IntegrityError without one."""
    for link in reversed(links):
        if link.point == point:
            return link
    raise IntegrityError(
        f"find the link of restore point {point}: the chain has none, so the point may not be the work of a backup",
        "Choose another restore point.",
    )
