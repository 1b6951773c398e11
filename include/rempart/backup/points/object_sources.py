"""Fetch objects of a restore point from any intact copy: its replica, its sealed form, or another site."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.points.points import HeldObject
from rempart.backup.points.sealed_objects import unseal
from rempart.backup.points.sealing import SealedObject
from rempart.errors import BackupError, IntegrityError, RempartError, SiteUnavailable
from rempart.sites.digests import copied
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

GIVE_UP = 3
"""A site that did not answer so many times in a row is not asked again."""
IN_ONE = 4 << 20
"""Size below which objects are fetched in one request, in memory."""
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Fetched:
    """The copy that served an object, and its writer's record (unknown for a sealed form).

    `passed_over` says why each copy before it did not serve.
    """

    copy: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = OCTETS
    passed_over: tuple[str, ...] = ()


@dataclass
class ObjectSources:
    """The copies of a point's objects. `site` has the replicas and, in the bucket `backups`, the sealed objects.

    `physical` names a bucket by its logical name; `key_of` opens a sealed object's key; `others` are sites that may
    have the same object. Safe for several threads.
    """

    site: Site
    backups: str
    physical: Callable[[str], str]
    key_of: Callable[[SealedObject], ScopeKey]
    others: Sequence[Site] = ()
    _silent: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, held_object: HeldObject, file: Path) -> Fetched:
        """Fetch an object with the recorded SHA-256 into a file, from the first copy that has it.

        Raises SiteUnavailable if a site that may have it did not answer, else IntegrityError; both name every copy.
        Raises BackupError if the file cannot be written.
        """
        failures: list[RempartError] = []
        for name, site, take in self._ways(held_object, file):
            if self._gave_up(site):
                continue
            try:
                found = take()
            except RempartError as error:
                self._note(site, error)
                failures.append(error)
                continue
            except OSError as cause:
                raise BackupError(
                    f"{held_object.bucket}/{held_object.key} could not be written to {file.parent}: {cause.strerror}",
                    "Free disk space there or set TMPDIR to another folder, then run the same restore again: it "
                    "continues.",
                ) from cause
            self._note(site, None)
            return Fetched(name, found.metadata, found.content_type, tuple(error.what for error in failures))
        where = f"{held_object.bucket}/{held_object.key}"
        told = "; ".join(error.what for error in failures) or "no site answers any more"
        if not failures or any(isinstance(error, SiteUnavailable) for error in failures):
            raise SiteUnavailable(
                f"No copy of {where} could be read: {told}",
                "Run the same restore again once a site answers: it continues.",
            )
        raise IntegrityError(
            f"No copy of {where} is as it is on record: {told}", "Restore it from another restore point."
        )

    def _ways(self, held: HeldObject, file: Path) -> list[tuple[str, Site, Callable[[], Fetched]]]:
        bucket = self.physical(held.bucket)
        found: list[tuple[str, Site, Callable[[], Fetched]]] = [
            ("replica", self.site, lambda: _read(self.site, bucket, held, file, held.version)),
            ("sealed", self.site, lambda: self._unsealed(held, file)),
        ]
        for other in self.others:
            found.append((f"site {other.name}", other, partial(_read, other, bucket, held, file, None)))
        return found

    def _unsealed(self, held_object: HeldObject, file: Path) -> Fetched:
        key = self.key_of(held_object.sealed)
        unseal(self.site, self.backups, key, held_object.sealed, file, sha256=held_object.sha256, size=held_object.size)
        return Fetched("sealed")

    def _gave_up(self, site: Site) -> bool:
        with self._lock:
            return self._silent.get(site.name, 0) >= GIVE_UP

    def _note(self, site: Site, error: RempartError | None) -> None:
        """Count how often a site did not answer, and log the moment when it is given up."""
        with self._lock:
            before = self._silent.get(site.name, 0)
            if not isinstance(error, SiteUnavailable):
                self._silent[site.name] = before if before >= GIVE_UP else 0
                return
            self._silent[site.name] = before + 1
            if before + 1 == GIVE_UP:
                logger.warning("site '%s' does not answer: objects are read from the other copies", site.name)


def _read(site: Site, bucket: str, held_object: HeldObject, file: Path, version: str | None) -> Fetched:
    """Read one site's plain copy. Raises IntegrityError, ObjectMissing, SiteError."""
    if held_object.size <= IN_ONE:
        info, body = site.fetch(bucket, held_object.key, version_id=version)
        sha256 = hashlib.sha256(body).hexdigest()
        file.write_bytes(body)
    else:
        info = site.head(bucket, held_object.key, version_id=version)
        with site.open(bucket, held_object.key, version_id=info.version_id) as stream, file.open("wb") as out:
            sha256 = copied(stream, out)
    if sha256 != held_object.sha256:
        raise IntegrityError(
            f"read {bucket}/{held_object.key} at site '{site.name}': the SHA-256 is {sha256[:12]}…, "
            f"but {held_object.sha256[:12]}… is recorded",
            "Find out what altered it.",
        )
    metadata = {name: value for name, value in info.metadata.items() if name != "sha256"}
    return Fetched("", metadata, info.content_type or OCTETS)
