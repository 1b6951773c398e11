"""Encrypt object versions at the backup site, once each and under object lock, and open them again."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import sealing
from rempart.backup.points.sealed_objects import unseal, versions_of
from rempart.backup.points.sealing import Original, SealedObject
from rempart.errors import IntegrityError, KeyWrong, LockLapses, ObjectMissing, RempartError, SiteError
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.keys import key_of
from rempart.flows.shared.replication_pairs import physical_bucket
from rempart.ledger.port import Ledger
from rempart.replication.transfer import store_file, stored_sha256
from rempart.settings.config import Config
from rempart.sites.digests import file_sha256
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

WORKERS = 8
"""Number of objects processed in parallel. More do not help: compression and encryption are CPU-bound."""
AHEAD = timedelta(days=7)
"""Margin by which locks outlast the current need, so that not every backup extends them."""
IN_MEMORY = 8 << 20
"""Size above which objects are read as streams."""
MOST_FAILURES = 20
"""Number of failures after which the run stops, because the rest would fail as well."""
_NEVER = datetime.fromtimestamp(0, UTC)
TYPE = "application/age-encryption"
Progress = Callable[[int, int], object]
T = TypeVar("T")
R = TypeVar("R")


def seal_objects(
    ledger: Ledger,
    config: Config,
    keyring: Keyring,
    source: Site,
    originals: Sequence[Original],
    target: Site,
    retain_until: datetime,
    *,
    known: Iterable[SealedObject] = (),
    ahead: timedelta = AHEAD,
    workers: int = WORKERS,
    progress: Progress = lambda done, total: None,
) -> tuple[SealedObject, ...]:
    """Encrypt each object version at the target and lock it at least until `needed`. Results follow `originals`.

    Existing sealed objects are not sent again. `known` ones come from earlier restore points and were verified; others
    found by listing are opened before they count. New ones are read back. A failure does not stop the others; the error
    names the first one at the end. Raises LockLapses if a lock could not be extended; KeyMissing, KeyWrong;
    IntegrityError if a source differs from its record; SiteError.
    """
    scopes = sorted({original.scope for original in originals})
    keys = {scope: key_of(ledger, keyring, scope) for scope in scopes}
    named = [sealing.key_of(original.scope, keys[original.scope].hash_key, original.sha256) for original in originals]
    wanted = dict(zip(named, originals, strict=True))
    bucket = config.buckets.backups
    present = versions_of(target, bucket, scopes)
    before = {obj.key: obj for obj in known}
    steps = sealing.plan(wanted, present, before, retain_until)
    done: dict[str, SealedObject] = {}
    failures: list[RempartError] = []
    with spool_folder() as folder:
        sealer = _Sealer(config, source, target, bucket, folder, retain_until, retain_until + ahead)

        def seal_object(key: str) -> tuple[str, SealedObject | RempartError]:
            original = wanted[key]
            try:
                return key, sealer.take(
                    steps[key], key, original, keys[original.scope], before.get(key), present.get(key, {})
                )
            except RempartError as error:
                return key, error

        outcomes = bounded_map(wanted, seal_object, workers, go_on=lambda: len(failures) < MOST_FAILURES)
        for number, (key, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, RempartError):
                failures.append(outcome)
            else:
                done[key] = outcome
            progress(number, len(wanted))
    if failures:
        raise _told(failures)
    return tuple(done[key] for key in named)


def seal_body(
    ledger: Ledger,
    config: Config,
    keyring: Keyring,
    body: bytes,
    scope: EncryptionScope,
    target: Site,
    retain_until: datetime,
) -> SealedObject:
    """Encrypt a body at the target as `seal_objects` does. The plaintext never touches the disk."""
    sha256, key = hashlib.sha256(body).hexdigest(), key_of(ledger, keyring, scope)
    original, bucket = Original("", "", None, sha256, len(body), scope), config.buckets.backups
    name = sealing.key_of(scope, key.hash_key, sha256)
    present = versions_of(target, bucket, [scope]).get(name, {})
    with spool_folder() as folder:
        source, until = _Body(body), retain_until + AHEAD
        sealer = _Sealer(config, source, target, bucket, folder, retain_until, until)
        return sealer.take("examine" if present else "store", name, original, key, None, present)


def _told(failures: Sequence[RempartError]) -> RempartError:
    """Return one error for all failures; a lapsing lock comes first."""
    worst = next((failure for failure in failures if isinstance(failure, LockLapses)), failures[0])
    if len(failures) == 1:
        return worst
    return type(worst)(f"{len(failures)} objects are not sealed correctly. First error: {worst.what}", worst.hint)


class _Source(Protocol):
    """Reads the original objects."""

    @property
    def name(self) -> str: ...

    def open(self, bucket: str, key: str, *, version_id: str | None = None) -> AbstractContextManager[BinaryIO]: ...

    def fetch(self, bucket: str, key: str, *, version_id: str | None = None) -> tuple[object, bytes]: ...


@dataclass(frozen=True)
class _Body:
    """Reads the one original whose body is in memory."""

    body: bytes = field(repr=False)
    name: str = "this platform"

    def open(self, bucket: str, key: str, *, version_id: str | None = None) -> AbstractContextManager[BinaryIO]:
        return io.BytesIO(self.body)

    def fetch(self, bucket: str, key: str, *, version_id: str | None = None) -> tuple[object, bytes]:
        return None, self.body


@dataclass(frozen=True)
class _Sealer:
    """Processes one object step by step. A lock must hold until `needed` and is set until `until`."""

    config: Config
    source: _Source
    target: Site
    bucket: str
    folder: Path
    needed: datetime
    until: datetime

    def take(
        self,
        step: sealing.Step,
        key: str,
        original: Original,
        scope: ScopeKey,
        known: SealedObject | None,
        versions: Mapping[str, int],
    ) -> SealedObject:
        if known and step == "keep":
            return known
        if known and step == "extend":
            return self._extended(known)
        if step == "examine" and (sealed_object := self._examined(key, original, scope, versions)):
            return self._extended(sealed_object)
        return self._stored(key, original, scope)

    def _extended(self, sealed_object: SealedObject) -> SealedObject:
        try:
            return replace(
                sealed_object,
                retained_until=self.target.retain(self.bucket, sealed_object.key, sealed_object.version, self.until),
            )
        except ObjectMissing:
            raise
        except SiteError as cause:
            raise LockLapses(
                f"The lock of {self.bucket}/{sealed_object.key} (version {sealed_object.version}) at site"
                f" '{self.target.name}' ends "
                f"{sealed_object.retained_until:%Y-%m-%d %H:%M} UTC, a kept restore point needs it until "
                f"{self.needed:%Y-%m-%d %H:%M} UTC, and it could not be extended: {cause.what}",
                "Give the site's connection the right s3:PutObjectRetention, or ask the operator, then run the "
                "backup again. After the lock ends, anyone with the site's key can delete the object.",
            ) from cause

    def _examined(
        self, key: str, original: Original, scope: ScopeKey, versions: Mapping[str, int]
    ) -> SealedObject | None:
        """Return the newest version that decrypts to the recorded content, or None."""
        for version, size in versions.items():
            file = self._spool()
            try:
                sha256 = self._stored_sha256(key, version, size)
                retained_until = self.target.retained_until(self.bucket, key, version) or _NEVER
                sealed_object = SealedObject(scope.scope.id, scope.serial, key, version, sha256, size, retained_until)
                unseal(self.target, self.bucket, scope, sealed_object, file, sha256=original.sha256, size=original.size)
            except (IntegrityError, KeyWrong, ObjectMissing):
                continue
            finally:
                file.unlink(missing_ok=True)
            return sealed_object
        return None

    def _stored(self, key: str, original: Original, scope: ScopeKey) -> SealedObject:
        bucket, file = physical_bucket(self.config, original.bucket) if original.bucket else "", self._spool()
        try:
            with (
                _opened(self.source, bucket, original.key, original.version, original.size) as stream,
                file.open("xb") as out,
            ):
                found = sealing.seal(stream, [scope.recipient], out)
            if found != (original.sha256, original.size):
                raise IntegrityError(
                    f"get {bucket}/{original.key} at site '{self.source.name}': SHA-256 is {found[0][:12]}…, "
                    f"expected {original.sha256[:12]}…",
                    "Run `rempart site verify-replica` to repair it from its replica. It was not sealed.",
                )
            sha256, size = file_sha256(file), file.stat().st_size
            like = ObjectInfo(key, size, self.until, metadata={"sha256": sha256}, content_type=TYPE)
            stored = store_file(self.target, self.bucket, like, file, retain_until=self.until)
        finally:
            file.unlink(missing_ok=True)
        if stored.version_id is None:
            raise SiteError(
                f"put {self.bucket}/{key} at site '{self.target.name}': the site made no version, so the object "
                "cannot be locked",
                "Create the bucket with object lock, or set another bucket under `buckets` in rempart.yaml.",
            )
        if self._stored_sha256(key, stored.version_id, size) != sha256:
            raise IntegrityError(
                f"read back {self.bucket}/{key} at site '{self.target.name}': it differs from the stored object",
                "Run again. If it fails again, ask the operator of the site. The sealed object does not count.",
            )
        retained_until = self.target.retained_until(self.bucket, key, stored.version_id) or _NEVER
        sealed_object = SealedObject(scope.scope.id, scope.serial, key, stored.version_id, sha256, size, retained_until)
        return sealed_object if retained_until >= self.needed else self._extended(sealed_object)

    def _stored_sha256(self, key: str, version: str, size: int) -> str:
        if size > IN_MEMORY:
            return stored_sha256(self.target, self.bucket, key, version_id=version)
        return hashlib.sha256(self.target.fetch(self.bucket, key, version_id=version)[1]).hexdigest()

    def _spool(self) -> Path:
        """Return a spool file for this thread alone."""
        return self.folder / f"{threading.get_ident()}.age"


@contextmanager
def _opened(site: _Source, bucket: str, key: str, version: str | None, size: int) -> Iterator[BinaryIO]:
    """Return a body as a stream. A small body is read in one request, which is several times faster."""
    if size <= IN_MEMORY:
        yield io.BytesIO(site.fetch(bucket, key, version_id=version)[1])
        return
    with site.open(bucket, key, version_id=version) as stream:
        yield stream
