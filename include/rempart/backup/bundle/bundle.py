"""Store and verify the bootstrap bundle at the backup site.

`bundle/files/<sha256>` holds each file once. `bundle/<utc time>-<digest>.json` is an index, `{"bundle":{...},"sig":
"<base64>"}`: canonical JSON with the SHA-256 and size of every file, signed with the ledger's key like a link of the
chain (backup.points.chain). `bundle/open_bundle.py` fetches it on a bare machine. All objects are locked, and none is
encrypted: they hold neither secrets nor data, and are needed before any key is available.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rempart.backup.bundle import open_bundle
from rempart.errors import IntegrityError, ObjectMissing
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import text_of_time
from rempart.ledger.keys import Signer
from rempart.sites.port import ObjectInfo, Site

logger = logging.getLogger(__name__)

VERSION = 1
OPENER = f"{open_bundle.FOLDER}{Path(open_bundle.__file__).name}"
ASK = "Find out who can write to the backup bucket. `rempart bundle store` stores a new bundle next to it."


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BundleIdentity:
    """Identity of a bundle without its files: SHA-256 of the locks and of the code, and the machine they fit."""

    locks: str
    code: str
    restic: str
    python: str
    platform: str


@dataclass(frozen=True)
class Index:
    """A bundle. `entry` is the program in the code that makes its environment; `key` signs it.

    `images`: references of the images in a portable bundle; empty in the bundle of the backup site.
    """

    at: datetime
    contents: BundleIdentity
    files: Mapping[str, BundleFile]
    entry: str
    key: str
    images: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def encode(index: Index, signer: Signer) -> bytes:
    """Return the signed file of an index."""
    plain = {
        "v": VERSION,
        "at": text_of_time(index.at),
        "locks": index.contents.locks,
        "code": index.contents.code,
        "restic": index.contents.restic,
        "python": index.contents.python,
        "platform": index.contents.platform,
        "entry": index.entry,
        "key": index.key,
        "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in index.files.items()},
        **({"images": list(index.images)} if index.images else {}),
    }
    text = canonical(plain)
    return f'{{"bundle":{text},"sig":"{base64.b64encode(signer.sign(text.encode())).decode()}"}}\n'.encode()


def decode(body: bytes, keys: Mapping[str, bytes]) -> Index:
    """Return an index signed by one of the keys. Raises IntegrityError."""
    try:
        plain: dict[str, Any] = open_bundle.read_index(body, keys)
    except open_bundle.BundleRefused as cause:
        raise IntegrityError(f"read an index of the bundle: {cause}", ASK) from cause
    return index_of(plain)


def index_of(plain: Mapping[str, Any]) -> Index:
    """Return the verified index of a bundle."""
    contents = BundleIdentity(plain["locks"], plain["code"], plain["restic"], plain["python"], plain["platform"])
    files = {name: BundleFile(file["sha256"], file["size"]) for name, file in plain["files"].items()}
    images = tuple(plain.get("images", ()))
    return Index(datetime.fromisoformat(plain["at"]), contents, files, plain["entry"], plain["key"], images)


def key_of(index: Index, body: bytes) -> str:
    """Return the key of an index: its time, then a digest of its content."""
    at = index.at.astimezone(UTC)
    return f"{open_bundle.FOLDER}{at:%Y%m%dT%H%M%SZ}-{hashlib.sha256(body).hexdigest()[:12]}.json"


def file_key(held: BundleFile) -> str:
    return f"{open_bundle.FILES}{held.sha256}"


def newest(site: Site, bucket: str, keys: Mapping[str, bytes], machine: tuple[str, str]) -> tuple[str, Index] | None:
    """Return key and content of the newest valid index for a machine (Python, platform), or None.

    An invalid index is reported and skipped. Raises SiteError.
    """
    names = [info.key for info in site.list(bucket, open_bundle.FOLDER) if open_bundle.INDEX.fullmatch(info.key)]
    for name in sorted(names, reverse=True):
        try:
            index = decode(site.read(bucket, name), keys)
        except IntegrityError as error:
            logger.warning("skipped bundle %s/%s at site '%s': %s", bucket, name, site.name, error.what)
            continue
        if (index.contents.python, index.contents.platform) == machine:
            return name, index
    return None


def to_send(index: Index, present: Mapping[str, ObjectInfo], known: Mapping[str, BundleFile]) -> tuple[str, ...]:
    """Return the names of files that the site lacks. Pure.

    `present` is the site's listing, by key. Only files in an earlier index (`known`, by key) are trusted. Files of
    another size are sent again.
    """
    lacking = []
    for name, held in sorted(index.files.items()):
        key = file_key(held)
        there = present.get(key)
        if there is None or there.size != held.size or known.get(key) != held:
            lacking.append(name)
    return tuple(lacking)


def current(site: Site, bucket: str) -> dict[str, ObjectInfo]:
    """Return the current version of each bundle file, by key."""
    infos: dict[str, ObjectInfo] = {}
    hidden: set[str] = set()
    for info in site.versions(bucket, open_bundle.FILES):  # those of a key come newest first
        if info.key not in infos and info.key not in hidden:
            if info.marker:
                hidden.add(info.key)
            else:
                infos[info.key] = info
    return infos


def store(
    site: Site,
    bucket: str,
    index: Index,
    signer: Signer,
    source: Callable[[str], Path],
    until: datetime,
    known: Mapping[str, BundleFile],
    progress: Callable[[int], object] = lambda size: None,
) -> tuple[str, int]:
    """Store a bundle at the site, the index last, all locked. Return the index's key and the bytes sent.

    `source` returns a file to send by its name. A second run continues. Raises SiteError, and the errors of `source`.
    """
    present = current(site, bucket)
    lacking = to_send(index, present, known)
    sent = 0
    for name in lacking:
        held = index.files[name]
        there = present.get(file_key(held))
        if there and there.size == held.size and _is(site, bucket, there, held):
            continue
        site.write_file(bucket, file_key(held), source(name), retain_until=until)
        sent += held.size
        progress(sent)
    extend(site, bucket, index, until)
    body = encode(index, signer)
    key = key_of(index, body)
    site.write_new(bucket, key, body, content_type="application/json", retain_until=until)
    return key, sent


def _is(site: Site, bucket: str, there: ObjectInfo, held: BundleFile) -> bool:
    """Return whether an existing object has the expected bytes, whatever program wrote it."""
    digest = hashlib.sha256()
    with site.open(bucket, there.key, version_id=there.version_id) as stream:
        while piece := stream.read(open_bundle.CHUNK):
            digest.update(piece)
    return digest.hexdigest() == held.sha256


def extend(site: Site, bucket: str, index: Index, until: datetime) -> None:
    """Lock every file of a bundle, and what opens it, until then at least.

    Raises SiteError, and IntegrityError for a file that is gone.
    """
    present = current(site, bucket)
    for name, held in sorted(index.files.items()):
        there = present.get(file_key(held))
        if there is None or there.version_id is None:
            raise IntegrityError(
                f"read {name} of the bundle: it is missing at site '{site.name}' ({bucket}/{file_key(held)})",
                "Somebody deleted or hid it. Run `rempart bundle store`, which stores it again.",
            )
        site.retain(bucket, there.key, there.version_id, until)
    _put_opener(site, bucket, until)


def _put_opener(site: Site, bucket: str, until: datetime) -> None:
    """Store the program that fetches a bundle, unless it is there."""
    file = Path(open_bundle.__file__)
    try:
        info, body = site.fetch(bucket, OPENER)
    except ObjectMissing:
        body = b""
    if body != file.read_bytes():
        site.write_file(bucket, OPENER, file, content_type="text/x-python", retain_until=until)
    elif info.version_id:
        site.retain(bucket, OPENER, info.version_id, until)


def lock(site: Site, bucket: str, key: str, until: datetime) -> None:
    """Lock an index until then at least. Raises ObjectMissing, SiteError."""
    if version := site.head(bucket, key).version_id:
        site.retain(bucket, key, version, until)


def locked_until(site: Site, bucket: str, key: str) -> datetime | None:
    """Return until when the current version of an index is locked. Raises ObjectMissing, SiteError."""
    version = site.head(bucket, key).version_id
    return site.retained_until(bucket, key, version) if version else None
