"""Find anomalies of a restore point compared with the last clean one, which normal operation does not cause. Pure.

The manifests are enough: changed bytes, their compressibility, row counts, champions, the end of the ledger. The
restore verifies the rows and bytes themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rempart.backup.points import points
from rempart.backup.points.chain import Link
from rempart.backup.points.points import HeldObject, Manifest

SHARE = 0.2
"""Share of the objects that may change or vanish between two points.

A larger share is an anomaly: nearly all objects are written once.
"""
LEAST = 5
"""Smallest number of changed or vanished objects that is an anomaly: a small platform replaces its few pointers now
and then.
"""
ENCRYPTED = 3
"""Number of objects that compressed before and no longer compress. From this number on they look encrypted."""
ROWS, LOST = 20, 0.5
"""A table with at least this many rows that loses more than this share of them is an anomaly."""
_COMPRESSES, _LARGE = 0.9, 4096
_GROWING = {"airflow": ("public.dag_run",), "mlflow": None, "feast_offline": None, "feast_online": None}
"""Tables whose rows are checked, by database (None: all tables). The owners of other tables clean them up."""
_COLUMNS_HASH = re.compile(r"_[0-9a-f]{8}\Z")
_SHOWN = 3


def judge(
    clean: Manifest | None,
    manifest: Manifest,
    promoted: Collection[tuple[str, str]] | None = None,
    erased: Collection[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """Return anomalies of a point compared with the last clean one before it; empty if there are none.

    `promoted`: name and version of every model that became champion according to the ledger; None without a ledger.
    `erased`: logical bucket and key of objects rewritten or removed by an erasure.
    """
    doubts = []
    if manifest.dangling:
        doubts.append(f"inconsistent: {len(manifest.dangling)} of the objects that its dumps refer to are missing")
    if clean is None:
        return tuple(doubts)
    doubts += [*_objects(clean, manifest, erased), *_rows(clean, manifest), *_ledger(clean, manifest)]
    doubts += _champions(clean.champions, manifest.champions, promoted)
    return tuple(doubts)


def _objects(clean: Manifest, manifest: Manifest, erased: Collection[tuple[str, str]]) -> Iterator[str]:
    before = {(obj.bucket, obj.key): obj for obj in clean.objects if (obj.bucket, obj.key) not in erased}
    after = {(obj.bucket, obj.key): obj for obj in manifest.objects}
    common = before.keys() & after.keys()
    changed = [key for key in common if before[key].sha256 != after[key].sha256]
    if len(changed) >= LEAST and len(changed) > SHARE * len(common):
        yield f"{len(changed)} of {len(common)} objects were replaced, although objects are written once"
    encrypted = [key for key in changed if _compresses(before[key]) and _is_noise(after[key])]
    if len(encrypted) >= ENCRYPTED:
        yield f"{len(encrypted)} objects that compressed before look encrypted"
    gone = before.keys() - after.keys()
    if len(gone) >= LEAST and len(gone) > SHARE * len(before):
        yield f"{len(gone)} of {len(before)} objects vanished"


def _compresses(held_object: HeldObject) -> bool:
    return held_object.size >= _LARGE and held_object.sealed.size < _COMPRESSES * held_object.size


def _is_noise(held_object: HeldObject) -> bool:
    """Return whether an object does not compress.

    Objects are compressed before encryption, so random content keeps its size.
    """
    return held_object.size >= _LARGE and held_object.sealed.size >= held_object.size


def _rows(clean: Manifest, manifest: Manifest) -> Iterator[str]:
    after = {dump.name: dump.tables for dump in manifest.databases}
    for dump in clean.databases:
        if dump.name not in after:
            yield f"database {dump.name} is missing"
            continue
        lost, had_rows, has_rows = [], dump.tables, after[dump.name]
        if dump.name == "feast_online":
            had_rows, has_rows = _by_view(had_rows), _by_view(has_rows)
        for table in sorted(had_rows):
            had, has = had_rows[table], has_rows.get(table, 0)
            if (dump.name, table) == ("ledger", "public.evidence"):
                if has < had:
                    yield f"the ledger lost {had - has} of {had} records, although no operation removes records"
            elif _grows(dump.name, table) and had >= ROWS and has < (1 - LOST) * had:
                lost.append(f"{table} {has} instead of {had}")
        if lost:
            more = f" and {len(lost) - _SHOWN} more tables" if len(lost) > _SHOWN else ""
            yield f"database {dump.name} lost most rows of {'; '.join(lost[:_SHOWN])}{more}"


def _by_view(tables: Mapping[str, int]) -> dict[str, int]:
    """Return the rows of the online store by view: a view whose columns changed has a table with another hash."""
    rows: dict[str, int] = {}
    for table, count in tables.items():
        view = _COLUMNS_HASH.sub("", table)
        rows[view] = max(count, rows.get(view, 0))
    return rows


def _grows(database: str, table: str) -> bool:
    if database not in _GROWING:
        return False
    named = _GROWING[database]
    return named is None or table in named


def _ledger(clean: Manifest, manifest: Manifest) -> Iterator[str]:
    (before, digest), (after, other) = clean.ledger_head, manifest.ledger_head
    if after < before:
        yield f"the ledger ended at record {before} before, and ends at record {after} now"
    elif after == before and digest != other:
        yield f"record {after} of the ledger differs from the earlier one: history was rewritten"


def _champions(
    before: Mapping[str, str], after: Mapping[str, str], promoted: Collection[tuple[str, str]] | None
) -> Iterator[str]:
    for name in sorted(before.keys() - after.keys()):
        yield f"model {name} has no champion any more"
    if promoted is None:
        return
    for name, version in sorted(after.items()):
        if before.get(name) != version and (name, version) not in promoted:
            yield f"version {version} is the champion of model {name}, but the ledger has no promotion of it"


@dataclass(frozen=True)
class Candidate:
    """A stored point: its manifest, or the `fault` for which the manifest cannot be judged.

    `doubts` are other reasons against the point.
    """

    point: str
    manifest: Manifest | None
    fault: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class JudgedPoint:
    """A point and the reasons against it. Without doubts it is clean."""

    point: str
    doubts: tuple[str, ...] = field(default=())

    @property
    def clean(self) -> bool:
        return not self.doubts


def examine(point: str, link: Link | None, body: bytes | None, doubts: tuple[str, ...] = ()) -> Candidate:
    """Return a candidate from its verified link and the bytes of its manifest."""
    if link is None:
        return Candidate(point, None, "no verified link of the chain attests it")
    if body is None:
        return Candidate(point, None, "its manifest is gone")
    if hashlib.sha256(body).hexdigest() != link.manifest_sha256:
        return Candidate(point, None, "its manifest is not the manifest that the chain attests")
    try:
        manifest = points.decode(body)
    except ValueError as cause:
        return Candidate(point, None, f"its manifest cannot be read: {cause}")
    if manifest.id != point:
        return Candidate(point, None, "its manifest belongs to another point")
    return Candidate(point, manifest, "", doubts)


def walk(
    candidates: Iterable[Candidate],
    promoted: Collection[tuple[str, str]] | None,
    clean: Manifest | None = None,
    erased: Collection[tuple[str, str]] = (),
) -> Iterator[JudgedPoint]:
    """Judge points from the oldest to the newest, each against the last clean one (at first `clean`).

    A point that preserves the result of an attack therefore has findings too. At most two manifests are in memory at a
    time.
    """
    for candidate in candidates:
        if candidate.manifest is None:
            yield JudgedPoint(candidate.point, (candidate.fault,))
            continue
        doubts = (*candidate.doubts, *judge(clean, candidate.manifest, promoted, erased))
        if not doubts:
            clean = candidate.manifest
        yield JudgedPoint(candidate.point, doubts)
