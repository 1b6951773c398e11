"""Define the objects of a WAL archive and their names. Pure.

An archive is what one PostgreSQL (named by its system identifier) wrote under one key of one encryption scope. Its
objects are `wal/<scope>/<serial>/<system>/<name>.<moment>.<tag>.age`, gzip in age like every sealed object. The name is
that of a WAL segment or of a timeline's history, or `base` for the card of a base backup. The moment is that of the
segment's last commit, or of the base's end. The tag is a keyed hash over all of these and the content: without the
scope's key nobody can make a valid object, or give an object another name or moment.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.backup.keys import encryption_scopes
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.errors import IntegrityError
from rempart.settings.schema import parse_duration

PREFIX = "wal/"
NAME = "point_in_time"
"""Name of the encryption scope.

One base and one stream contain all databases of the server, and they cannot be separated.
"""
BASE = "base"
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_KEY = re.compile(
    rf"{PREFIX}(?P<scope>[a-z0-9_-]+)/(?P<serial>\d{{4}})/(?P<system>\d{{1,20}})/"
    rf"(?P<name>[0-9A-F]{{24}}|[0-9A-F]{{8}}\.history|{BASE})\.(?P<moment>\d{{8}}T\d{{12}}Z|none)\.(?P<tag>[0-9a-f]{{64}})\.age"
)
_MOMENT = "%Y%m%dT%H%M%S%fZ"
_LOG = 1 << 32


@dataclass(frozen=True, order=True)
class Archive:
    """The archive of one server (`system`, its identifier) under one key (`serial`) of one scope (its id)."""

    scope: str
    serial: str
    system: str

    @property
    def prefix(self) -> str:
        return f"{folder(self.scope, self.serial)}{self.system}/"


@dataclass(frozen=True, order=True)
class Entry:
    """One object of an archive, by its key alone. `moment` is None where there is none: a history, a quiet segment."""

    archive: Archive
    name: str
    moment: datetime | None
    tag: str

    @property
    def key(self) -> str:
        return f"{self.archive.prefix}{self.name}.{text_of_moment(self.moment)}.{self.tag}.age"


@dataclass(frozen=True)
class Segment:
    """One WAL segment of an archive: its timeline, its number (position in the stream), its last commit."""

    timeline: int
    number: int
    last_commit: datetime | None
    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class Base:
    """A base backup. Positions (`start`, `end`) are bytes in the stream. The server can be recovered to moments after
    `ended`.

    `snapshot` is its snapshot in the scope's restic repository, `bytes` the size of the tar, `server` PostgreSQL's
    version.
    """

    system: str
    timeline: int
    start: int
    end: int
    began: datetime
    ended: datetime
    snapshot: str
    bytes: int
    segment_bytes: int
    server: str

    @property
    def first(self) -> int:
        """Return the number of the first segment it needs."""
        return self.start // self.segment_bytes

    @property
    def last(self) -> int:
        """Return the number of the segment that makes it consistent."""
        return (self.end - 1) // self.segment_bytes


def folder(scope: str, serial: str) -> str:
    """Return the prefix of all archives under one key."""
    return f"{PREFIX}{scope}/{serial}/"


def scope_of(keep: timedelta) -> EncryptionScope:
    """Return the encryption scope of the archive."""
    return EncryptionScope("platform", NAME, encryption_scopes.text_of(keep))


def kept_for(archive: Archive) -> timedelta:
    """Return the length of an archive's recovery window, by its scope. Raises BackupError."""
    return parse_duration(encryption_scopes.parse(archive.scope).retention)


def is_archived(name: str) -> bool:
    """Return whether a file of pg_receivewal is complete: a segment or a history, not half received."""
    return bool(_SEGMENT.fullmatch(name) or _HISTORY.fullmatch(name))


def is_segment(name: str) -> bool:
    return bool(_SEGMENT.fullmatch(name))


def timeline_of(name: str) -> int:
    """Return the timeline of a segment or a history."""
    return int(name[:8], 16)


def number_of(name: str, segment_bytes: int) -> int:
    """Return a segment's number from its name."""
    return int(name[8:16], 16) * (_LOG // segment_bytes) + int(name[16:24], 16)


def segment_name(timeline: int, number: int, segment_bytes: int) -> str:
    """Return the name of a segment."""
    log, rest = divmod(number, _LOG // segment_bytes)
    return f"{timeline:08X}{log:08X}{rest:08X}"


def position(text: str) -> int:
    """Return a position in PostgreSQL's notation (`0/2000028`) in bytes. Raises ValueError."""
    high, _, low = text.partition("/")
    return int(high, 16) * _LOG + int(low, 16)


def text_of_moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime(_MOMENT) if moment else "none"


def tag_of(hash_key: bytes, archive: Archive, name: str, moment: datetime | None, sha256: str) -> str:
    """Return the keyed hash of a content (hex SHA-256) under a name and a moment, which only a holder of the scope's
    key can make.
    """
    payload = json.dumps([archive.scope, archive.serial, archive.system, name, text_of_moment(moment), sha256])
    return hmac.new(hash_key, b"rempart wal " + payload.encode(), hashlib.sha256).hexdigest()


def parse(key: str) -> Entry | None:
    """Return the entry of a key, or None for any other key."""
    if not (matched := _KEY.fullmatch(key)):
        return None
    try:
        moment = (
            None if matched["moment"] == "none" else datetime.strptime(matched["moment"], _MOMENT).replace(tzinfo=UTC)
        )
    except ValueError:
        return None
    return Entry(
        Archive(matched["scope"], matched["serial"], matched["system"]), matched["name"], moment, matched["tag"]
    )


def encode_base(base: Base) -> bytes:
    """Return the card of a base backup as JSON."""
    plain = {**base.__dict__, "began": base.began.isoformat(), "ended": base.ended.isoformat()}
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def decode_base(body: bytes, where: str) -> Base:
    """Return a base backup from its card; `where` names it. Raises IntegrityError."""
    try:
        plain: dict[str, Any] = json.loads(body)
        moments = {name: datetime.fromisoformat(plain[name]) for name in ("began", "ended")}
        return Base(**{**plain, **moments})
    except (ValueError, KeyError, TypeError) as cause:
        raise IntegrityError(
            f"read {where}: it is not valid ({type(cause).__name__})", "Use the release that wrote it."
        ) from cause


def read_history(body: bytes, where: str) -> tuple[tuple[int, int], ...]:
    """Return a timeline's ancestors, oldest first, with the position where each ended. Raises IntegrityError."""
    found = []
    try:
        for line in body.decode("utf-8", errors="replace").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                timeline, ended = line.split("\t")[:2]
                found.append((int(timeline), position(ended)))
    except ValueError as cause:
        raise IntegrityError(f"read {where}: it is not a history of a timeline", "Use another copy.") from cause
    return tuple(found)
