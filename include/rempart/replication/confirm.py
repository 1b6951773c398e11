"""Confirm at the target that stored objects equal what was sent, and check the target's listing itself.

The answer to a put proves nothing. A listing shows size and ETag of the stored object; they are compared with those of
the sent bytes. A replica that differs is read, and its bytes decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, islice

from rempart.counts import counted
from rempart.errors import IntegrityError, ObjectMissing, SiteError, SiteUnavailable
from rempart.replication.plan import Replica, by_key
from rempart.replication.transfer import Throttle, absent, proven_again, read_back
from rempart.sites.port import ObjectInfo, Site

PAGE = 1000
"""Entries in one page of a listing."""
SAMPLED = 100
"""Minimum number of replicas requested by name at the source, of those missing in its listing."""
FEW = 100
"""Number of replicas that are requested one by one, in parallel, because this is faster than a listing of any
length.
"""
ShownReplica = tuple[Replica, ObjectInfo | None]


@dataclass(frozen=True)
class Lost:
    """A replica that the target lacks or stores differently, and why."""

    row: Replica
    error: IntegrityError


@dataclass(frozen=True)
class Confirmation:
    """Checks one bucket of the target. `listing`: its entries in order, either all versions or the current versions."""

    target: Site
    bucket: str
    listing: Callable[[], Iterator[ObjectInfo]]
    pool: ThreadPoolExecutor
    clock: Callable[[], datetime]
    throttle: Throttle

    def examine(self, rows: Iterable[Replica], objects: int) -> Iterator[Replica | Lost]:
        """Check rows that no listing shows as sent. Return those proven right by reading, and lost ones.

        `objects`: approximate number at the target; few rows are requested one by one, more of them in one listing.
        """
        waiting = iter(rows)
        some = list(islice(waiting, max(FEW, objects // PAGE)))
        rest = next(waiting, None)
        differing = self._not_listed(chain(some, [rest], waiting)) if rest else self._not_found(some)
        while batch := list(islice(differing, PAGE)):
            yield from self.pool.map(self._read, batch)

    def _not_listed(self, rows: Iterable[Replica]) -> Iterator[ShownReplica]:
        for _, (wanted, listed) in by_key(rows, self.listing()):
            for row in wanted:
                there = [version for version in listed if version.version_id in (None, row.target_version)]
                if not any(row.stands_in(version) for version in there):
                    yield row, next(iter(there), None)

    def _not_found(self, rows: Sequence[Replica]) -> Iterator[ShownReplica]:
        for row, there in zip(rows, self.pool.map(self._look, rows), strict=True):
            if there is None or not row.stands_in(there):
                yield row, there

    def _look(self, row: Replica) -> ObjectInfo | None:
        try:
            return self.target.head(self.bucket, row.key, version_id=row.target_version or None)
        except ObjectMissing:
            return None

    def _read(self, shown: ShownReplica) -> Replica | Lost:
        row, there = shown
        self.throttle.take(row.size)
        stored = ObjectInfo(row.key, row.size, row.copied, row.target_version or None)
        try:
            read_back(self.target, self.bucket, stored, row.sha256)
        except IntegrityError as error:
            return Lost(row, error)
        except SiteUnavailable:  # a server that finds the damage itself answers 500 for that object alone
            self._look(row)
            return Lost(row, absent(self.target, self.bucket, row.key))
        return proven_again(replace(row, target_etag=there.etag if there else row.target_etag), self.clock())


def doubt_listing(
    target: Site, bucket: str, rows: Sequence[tuple[Replica, bool]], missing: int, known: int, pool: ThreadPoolExecutor
) -> None:
    """Check by name that the target's listing is complete. Raises SiteError if it is not.

    `rows`: a sample of the `missing` replicas (of `known`) that the listing does not show as sent, each with whether it
    is its key's newest. If one is found by name, the listing is wrong; then missing objects are not copied again.
    """

    def is_there(sampled: tuple[Replica, bool]) -> bool:
        row, newest = sampled
        try:
            info = target.head(bucket, row.key, version_id=None if newest else row.target_version or None)
        except ObjectMissing:
            return False
        return row.stands_in(info) and info.version_id in (None, row.target_version)

    there = [row for (row, _), exists in zip(rows, pool.map(is_there, rows), strict=True) if exists]
    if there:
        raise SiteError(
            f"list {bucket} at site '{target.name}': the listing lacks {missing} of {counted(known, 'replica')}, but "
            f"{len(there)} of {len(rows)} requested by name exist, such as {there[0].key[:80]!r}",
            "The listing is empty, stale or incomplete. Nothing was copied or changed. Run again in some "
            "minutes. If it fails again, ask the site's operator.",
        )


@dataclass
class Sample:
    """Evenly spread sample of all added replicas, in constant memory."""

    rows: list[Replica] = field(default_factory=list)
    added: int = 0
    _stride: int = 1

    def add(self, row: Replica) -> None:
        """Count one replica, and keep it if it belongs to the sample."""
        if self.added % self._stride == 0:
            self.rows.append(row)
        self.added += 1
        if len(self.rows) >= 2 * SAMPLED:
            self.rows, self._stride = self.rows[::2], 2 * self._stride


def doubt_source(source: Site, bucket: str, missing: Sample, versions: bool, pool: ThreadPoolExecutor) -> None:
    """Check by name that the source's listing is complete. Raises SiteError if it is not.

    `missing`: objects copied before and not listed now. `versions`: whether the listing showed all versions. Deleted
    objects are not found by name either, so the listing stands.
    """

    def is_there(row: Replica) -> bool:
        try:
            info = source.head(bucket, row.key, version_id=(row.version or None) if versions else None)
        except ObjectMissing:
            return False
        return (info.size, info.etag) == (row.size, row.etag) and info.version_id in (None, row.version)

    there = [row for row, exists in zip(missing.rows, pool.map(is_there, missing.rows), strict=True) if exists]
    if there:
        raise SiteError(
            f"list {bucket} at site '{source.name}': the listing lacks {missing.added} versions copied before, "
            f"but {len(there)} of {len(missing.rows)} requested by name exist, such as {there[0].key[:80]!r}",
            "The listing is empty, stale or incomplete. Nothing was copied or changed. Run again in some "
            "minutes. If it fails again, ask the site's operator.",
        )
