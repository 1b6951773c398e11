"""Copy the objects of a restore point from intact copies to a site. Objects that are already in place stay."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points.object_sources import Fetched, ObjectSources
from rempart.backup.points.points import HeldObject
from rempart.backup.points.restore_plan import Meter, dataset_of, weight
from rempart.errors import ObjectMissing, RempartError, SiteUnavailable
from rempart.flows.ingestion import delta_log
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import snapshots
from rempart.replication.transfer import read_back, store_file, stored_sha256
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

WORKERS = 16
"""Size above which objects are sent in parts: many operators limit a put to 5 GiB."""
MOST_FAILURES = 20
"""Number of failures after which the copy stops, because the rest would fail as well."""
IN_PLACE = "in place"
REASONS = 5
"""Number of logged reasons why a copy could not be used."""
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class RestoredObjects:
    """Numbers of objects by the kind of copy that they came from, or already in place; copied bytes.

    `passed_over` has the first few reasons why copies earlier in the order could not be used.
    """

    served: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bringer:
    """Copy objects to a site. `bucket` maps a logical bucket name to the target's bucket."""

    copies: ObjectSources
    target: Site
    bucket: Callable[[str], str]
    monotonic: Callable[[], float] = time.monotonic

    def bring(self, held_objects: tuple[HeldObject, ...], workers: int = WORKERS) -> RestoredObjects:
        """Copy each object to the target and read it back. A failure does not stop the others.

        At the end the error names the first failure; the next run continues. Raises SiteUnavailable, IntegrityError,
        SiteError.
        """
        for name in sorted({obj.bucket for obj in held_objects}):
            self.target.ensure_bucket(self.bucket(name), versioned=True)
        there = {
            (name, info.key): info.size
            for name in {obj.bucket for obj in held_objects}
            for info in self.target.list(self.bucket(name))
        }
        meter = Meter("objects", sum(weight(obj.size) for obj in held_objects), self.monotonic())
        served: Counter[str] = Counter()
        failures: list[RempartError] = []
        passed_over: list[str] = []
        copied = 0
        with spool_folder() as folder:

            def bring_object(held_object: HeldObject) -> tuple[HeldObject, Fetched | RempartError]:
                try:
                    return held_object, self._one(held_object, there.get((held_object.bucket, held_object.key)), folder)
                except RempartError as error:
                    return held_object, error

            for held, outcome in bounded_map(
                held_objects, bring_object, workers, go_on=lambda: len(failures) < MOST_FAILURES
            ):
                if isinstance(outcome, RempartError):
                    failures.append(outcome)
                    continue
                served[outcome.copy] += 1
                copied += 0 if outcome.copy == IN_PLACE else held.size
                passed_over += outcome.passed_over[: REASONS - len(passed_over)]
                if line := meter.add(weight(held.size), self.monotonic()):
                    logger.info("%s", line)
        if failures:
            raise _told(failures, len(held_objects))
        if passed_over:
            logger.warning("some objects came from another copy than the first. First reason: %s", passed_over[0])
        return RestoredObjects(dict(served), copied, tuple(passed_over))

    def _one(self, held_object: HeldObject, size: int | None, folder: Path) -> Fetched:
        bucket = self.bucket(held_object.bucket)
        if size == held_object.size and self._is_there(bucket, held_object):
            return Fetched(IN_PLACE)
        file = folder / f"{threading.get_ident()}"
        found = self.copies.fetch(held_object, file)
        metadata = {**found.metadata, "sha256": held_object.sha256}
        like = ObjectInfo(held_object.key, held_object.size, _EPOCH, metadata=metadata, content_type=found.content_type)
        read_back(self.target, bucket, store_file(self.target, bucket, like, file), held_object.sha256)
        return found

    def _is_there(self, bucket: str, held_object: HeldObject) -> bool:
        try:
            return stored_sha256(self.target, bucket, held_object.key) == held_object.sha256
        except ObjectMissing:
            return False


def lacking(target: Site, bucket: Callable[[str], str], objects: Sequence[HeldObject]) -> int:
    """Return how many objects are missing at a site or have another size there. It lists, and reads no object.

    Raises SiteError.
    """
    buckets = {obj.bucket for obj in objects}
    there = {(name, info.key): info.size for name in buckets for info in target.list(bucket(name))}
    return sum(there.get((obj.bucket, obj.key)) != obj.size for obj in objects)


def publish_tables(site: Site, bucket: str, restored: Sequence[HeldObject]) -> Iterator[RestoreCheck]:
    """Make the Delta table of each restored data set equal its current snapshot; yield a check of each.

    A log may have later versions than the restore point: they stay, and another version follows them.
    """
    of_snapshots = {obj.key for obj in restored if obj.bucket == "lake" and obj.key.startswith("snapshots/")}
    for name in sorted({dataset_of(key) or "" for key in of_snapshots}):
        try:
            fault = delta_log.follow(site, bucket, snapshots.current(site, bucket, name))
        except RempartError as error:
            fault = error.what
        told = fault or "the newest version is the restored snapshot"
        yield RestoreCheck(f"the Delta table of {name}", fault is None, told)


def _told(failures: list[RempartError], total: int) -> RempartError:
    """Return one error for all failures: a transient error if there is one."""
    worst = next((failure for failure in failures if isinstance(failure, SiteUnavailable)), failures[0])
    if len(failures) == 1:
        return worst
    return type(worst)(f"{len(failures)} of {total} objects were not restored. First error: {worst.what}", worst.hint)
