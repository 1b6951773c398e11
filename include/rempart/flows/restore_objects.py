"""Objects of a restore point, brought to a site: what is in place stays, others come from copies that are whole."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rempart.backup.copies import Copies, Fetched
from rempart.backup.points import HeldObject
from rempart.backup.restoring import Meter, weight
from rempart.errors import ObjectMissing, RempartError, SiteUnavailable
from rempart.replication.transfer import MOST_PARTS, PART, read_back, stored_sha256
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

WORKERS = 16
ONE_PUT = 1 << 30
"""Larger objects go in parts: at many operators a put may not exceed 5 GiB."""
MOST_FAILURES = 20
"""After so many the rest would fail as well."""
IN_PLACE = "in place"
_EPOCH = datetime.fromtimestamp(0, UTC)
Say = Callable[[str], object]


@dataclass(frozen=True)
class Brought:
    """How many objects each kind of copy served, or were in place; bytes that were copied."""

    served: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass(frozen=True)
class Bringer:
    """Brings objects to a site; `bucket` names the target's bucket by the logical name."""

    copies: Copies
    target: Site
    bucket: Callable[[str], str]
    say: Say = print
    monotonic: Callable[[], float] = time.monotonic

    def bring(self, wanted: tuple[HeldObject, ...], workers: int = WORKERS) -> Brought:
        """Have each object at the target, read back. One that fails does not stop the others.

        Afterwards the error names the first of them, and a run after that goes on where this one ended. Raises
        SiteUnavailable, IntegrityError, SiteError.
        """
        for name in sorted({one.bucket for one in wanted}):
            self.target.ensure_bucket(self.bucket(name), versioned=True)
        there = {
            (name, info.key): info.size
            for name in {one.bucket for one in wanted}
            for info in self.target.list(self.bucket(name))
        }
        meter = Meter("objects", sum(weight(one.size) for one in wanted), self.monotonic())
        served: Counter[str] = Counter()
        failures: list[RempartError] = []
        copied = 0
        with spool_folder() as folder:

            def one(held: HeldObject) -> tuple[HeldObject, str | RempartError]:
                try:
                    return held, self._one(held, there.get((held.bucket, held.key)), folder)
                except RempartError as error:
                    return held, error

            for held, outcome in _each(wanted, one, workers, lambda: len(failures) < MOST_FAILURES):
                if isinstance(outcome, RempartError):
                    failures.append(outcome)
                    continue
                served[outcome] += 1
                copied += 0 if outcome == IN_PLACE else held.size
                if line := meter.add(weight(held.size), self.monotonic()):
                    self.say(line)
        if failures:
            raise _told(failures, len(wanted))
        return Brought(dict(served), copied)

    def _one(self, held: HeldObject, size: int | None, folder: Path) -> str:
        bucket = self.bucket(held.bucket)
        if size == held.size and self._is_there(bucket, held):
            return IN_PLACE
        file = folder / f"{threading.get_ident()}"
        found = self.copies.fetch(held, file)
        read_back(self.target, bucket, self._put(bucket, held, file, found), held.sha256)
        return found.copy

    def _is_there(self, bucket: str, held: HeldObject) -> bool:
        try:
            return stored_sha256(self.target, bucket, held.key) == held.sha256
        except ObjectMissing:
            return False

    def _put(self, bucket: str, held: HeldObject, file: Path, found: Fetched) -> ObjectInfo:
        if held.size <= ONE_PUT:
            return self.target.write_file(
                bucket, held.key, file, metadata=found.metadata, content_type=found.content_type
            )
        metadata = {**found.metadata, "sha256": held.sha256}
        like = ObjectInfo(held.key, held.size, modified=_EPOCH, metadata=metadata, content_type=found.content_type)
        upload, length = self.target.upload(bucket, like), max(PART, -(-held.size // MOST_PARTS))
        with file.open("rb") as stream:
            for number, part in enumerate(iter(partial(stream.read, length), b""), start=1):
                if not upload.has(number, part):
                    upload.part(number, part)
        return upload.complete()


def _each(
    work: Iterable[HeldObject],
    act: Callable[[HeldObject], tuple[HeldObject, str | RempartError]],
    workers: int,
    go_on: Callable[[], bool],
) -> Iterator[tuple[HeldObject, str | RempartError]]:
    """Outcomes in order, a bounded number of them under way."""
    waiting: deque[Future[tuple[HeldObject, str | RempartError]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="restore") as pool:
        for item in work:
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
            if not go_on():
                break
            waiting.append(pool.submit(act, item))
        while waiting:
            yield waiting.popleft().result()


def _told(failures: list[RempartError], total: int) -> RempartError:
    """One error for all; one that is worth another run comes first."""
    worst = next((one for one in failures if isinstance(one, SiteUnavailable)), failures[0])
    if len(failures) == 1:
        return worst
    return type(worst)(f"{len(failures)} of {total} objects were not restored. One of them: {worst.what}", worst.hint)
