"""Names and record of a drill's sandbox: databases, a bucket and a server that exist only for the drill.

Before a drill creates a sandbox, it records the names at the backup site. The steps of a drill are separate processes.
Between two steps, the record says until when the sandbox waits for the next step. If that time is missing or has
passed, the sandbox is a leftover.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg

from rempart.backup.databases import postgresql
from rempart.backup.points.retention import SKEW
from rempart.errors import BackupError, IntegrityError, ObjectMissing
from rempart.settings.config import DATABASES, Connection
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

_LOCK = 7_216_504_181  # any constant: the advisory lock that a running step of a drill holds
_ID = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{6}")
_KEY = re.compile(rf"drills/({_ID.pattern})\.json")
PATIENCE = timedelta(hours=1)
"""Time for which a sandbox stays reserved for the drill's next step."""


@dataclass(frozen=True)
class Scratch:
    """Sandbox of one drill: its id and the platform's databases that it holds.

    `waits_until`: end of the reservation for the drill's next step; None while a step runs.
    """

    id: str
    held: tuple[str, ...]
    waits_until: datetime | None = None

    @property
    def bucket(self) -> str:
        return f"drill-{self.id}"

    @property
    def databases(self) -> dict[str, str]:
        """Return the scratch database of each database of the platform."""
        return {name: f"{_prefix(self.id)}{name}" for name in self.held}

    def waiting(self, now: datetime) -> Scratch:
        """Return the same sandbox, reserved for the next step."""
        return replace(self, waits_until=now + PATIENCE)

    def is_reserved(self, now: datetime) -> bool:
        """Return whether the next step may still come. The clock that wrote the record may differ by SKEW."""
        return self.waits_until is not None and now < self.waits_until <= now + PATIENCE + SKEW


def new_id(now: datetime, suffix: str) -> str:
    """Return the id of a drill: its time and six hex digits."""
    return valid_id(f"{now.astimezone(UTC):%Y%m%dt%H%M%S}-{suffix}")


def id_of_run(now: datetime, run: str) -> str:
    """Return the id of the drill of an Airflow run: the same in each of its tasks."""
    return new_id(now, hashlib.sha256(run.encode()).hexdigest()[:6])


def valid_id(drill_id: str) -> str:
    """Return a valid id. Raises BackupError for any other text."""
    if not _ID.fullmatch(drill_id):
        raise BackupError(f"'{drill_id[:60]}' is not the id of a drill", "Start a new drill.")
    return drill_id


def _prefix(drill_id: str) -> str:
    return f"drill_{drill_id.replace('-', '_')}_"


@contextmanager
def only_drill(connection: Connection, patience: float = 0) -> Iterator[None]:
    """Hold the lock of drills until the context ends; PostgreSQL releases it if this process dies.

    Raises BackupError if another drill still runs after `patience` seconds.
    """
    until = time.monotonic() + patience
    with postgresql.session(connection, "begin a drill") as opened:
        while opened.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone() != (True,):
            if time.monotonic() >= until:
                raise BackupError(
                    "Another drill is running on this PostgreSQL server", "Wait until it has ended, then run again."
                )
            time.sleep(1)
        try:
            yield
        finally:  # a server process ends some time after its session: the next step would find the lock held
            with suppress(psycopg.Error):
                opened.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _key(drill_id: str) -> str:
    return f"drills/{valid_id(drill_id)}.json"


def write(site: Site, backups: str, scratch: Scratch) -> None:
    """Write the record of a sandbox. Raises SiteError."""
    plain = {
        "id": scratch.id,
        "bucket": scratch.bucket,
        "databases": list(scratch.databases.values()),
        "waits_until": scratch.waits_until.isoformat() if scratch.waits_until else None,
    }
    site.write(backups, _key(scratch.id), json.dumps(plain).encode(), content_type="application/json")


def read(site: Site, backups: str, drill_id: str) -> Scratch | None:
    """Return the recorded sandbox of a drill, or None. Raises IntegrityError for an invalid record.

    If the site damaged the record, the result names everything that this drill can have created.
    """
    try:
        return _read(site, backups, _key(drill_id))
    except ObjectMissing:
        return None


def recorded(site: Site, backups: str) -> tuple[Scratch, ...]:
    """Return all recorded sandboxes, as `read` does. Raises IntegrityError for an invalid record."""
    return tuple(_read(site, backups, info.key) for info in tuple(site.list(backups, "drills/")))


def forget(site: Site, backups: str, scratch: Scratch) -> None:
    """Delete the record of a removed sandbox. Raises SiteError."""
    site.delete(backups, _key(scratch.id))


def _read(site: Site, backups: str, key: str) -> Scratch:
    try:
        body = site.read(backups, key)
    except IntegrityError as error:  # the id determines every name that a drill can have created
        if not (named := _KEY.fullmatch(key)):
            raise
        logger.warning("%s. Everything that drill %s can have created counts as its leftover", error.what, named[1])
        return Scratch(named[1], DATABASES)
    try:
        plain = json.loads(body)
        drill_id, bucket, databases = str(plain["id"]), str(plain["bucket"]), [str(name) for name in plain["databases"]]
        until = plain.get("waits_until")
        waits_until = datetime.fromisoformat(until) if until else None
        if waits_until and waits_until.tzinfo is None:
            raise ValueError("a time without a time zone")
    except (ValueError, KeyError, TypeError) as cause:
        raise IntegrityError(
            f"{backups}/{key} at site '{site.name}' is not a valid record of a drill's sandbox",
            "Remove scratch databases and buckets named drill… by hand, then delete this object.",
        ) from cause
    scratch = Scratch(drill_id, tuple(name.removeprefix(_prefix(drill_id)) for name in databases), waits_until)
    made = bool(_ID.fullmatch(drill_id)) and (bucket, databases) == (scratch.bucket, [*scratch.databases.values()])
    if not made or key != _key(drill_id):
        raise IntegrityError(
            f"{backups}/{key} at site '{site.name}' names something that no drill creates: nothing was removed",
            "Find out who wrote it, then delete this object.",
        )
    return scratch


def name_scratch(drill_id: str, databases: Iterable[str]) -> Scratch:
    """Return the sandbox of a drill for these databases of the platform."""
    return Scratch(valid_id(drill_id), tuple(databases))
