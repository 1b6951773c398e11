"""Plan a restore: which point, which parts, what is refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rempart.backup.points import chain
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Dump, HeldObject, Manifest
from rempart.counts import counted
from rempart.errors import BackupError, IntegrityError

PartKind = Literal["database", "bucket", "model", "dataset"]
BUCKETS = ("artifacts", "lake")
"""Logical names, in the order in which they are restored: without artifacts no model loads."""
REQUEST_BYTES = 256 << 10
"""Fixed cost of an object in addition to its bytes, expressed in bytes."""
_SUFFIX = re.compile(r"[a-z][a-z0-9]{0,19}")
_PART = re.compile(rf"({'|'.join(get_args(PartKind))}):([A-Za-z0-9][A-Za-z0-9_.-]{{0,127}})")


@dataclass(frozen=True)
class Part:
    """A requested part of a point: `database:mlflow`, `bucket:lake`, `model:NAME`, `dataset:NAME`."""

    kind: PartKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def parse_part(text: str) -> Part:
    """Return the part that a text names. Raises BackupError."""
    matched = _PART.fullmatch(text)
    if matched is None or (matched[1] == "bucket" and matched[2] not in BUCKETS):
        raise BackupError(
            f"'{text[:80]}' is not a part of a restore point",
            "Write database:NAME, bucket:lake, bucket:artifacts, model:NAME or dataset:NAME.",
        )
    return Part(matched[1], matched[2])  # type: ignore[arg-type] # the expression has these alone


def check_suffix(text: str) -> str:
    """Return the suffix of side-by-side databases and buckets if valid. Raises BackupError."""
    if not _SUFFIX.fullmatch(text):
        raise BackupError(
            f"'{text[:40]}' is not a valid suffix for databases and buckets",
            "Use a letter, then up to 19 letters and digits: --aside before.",
        )
    return text


def choose(
    links: Sequence[Link],
    present: Collection[str],
    named: str | None,
    *,
    force: bool,
    lost: Collection[str] = frozenset(),
) -> Link:
    """Return the link of the point to restore: the named one, else the newest that lacks nothing.

    `links` are verified, in order. `present` are the points whose manifest the site has. `lost` are points whose link
    is marked as lost: they are skipped, and cannot be named. Raises IntegrityError for points without a link,
    BackupError for a point that is older than the newest; neither with `force`.
    """
    newest = {link.point: link for link in links}
    if links and not force:
        first = min(newest)
        if strangers := sorted({*present} - {*newest, *lost} - {point for point in present if point <= first}):
            raise IntegrityError(
                f"check the restore points: {len(strangers)} at the site have no link in the chain, such as "
                f"{strangers[-1]}. Somebody wrote them, or removed links",
                "Find out who did it. The ledger and its checkpoints show what was written. Pass --force to skip "
                "these points.",
            )
    there = sorted((link for point, link in newest.items() if point in present), key=lambda link: link.seq)
    whole = [link for link in there if link.consistent]
    if named is None:
        if whole:
            return whole[-1]
        raise BackupError(
            "choose a restore point: the site has none that is complete"
            + (f"; it has {len(there)} incomplete ones, the newest is {there[-1].point}" if there else ""),
            "Pass a restore point with --point; `--explain` shows what it lacks." if there else "Try another site.",
        )
    link = chain.of_point(links, named)
    if named not in present:
        raise BackupError(
            f"restore point {named}: its manifest is missing at the site, because it was pruned or somebody deleted it",
            "Choose another restore point; --list shows them.",
        )
    if whole and whole[-1].seq > link.seq and not force:
        raise BackupError(
            f"restore point {named} is older than {whole[-1].point}, the newest complete one: all changes in the "
            f"{whole[-1].at - link.at} between them would be lost",
            "Restore the newest, or pass --force.",
        )
    return link


@dataclass(frozen=True)
class Selection:
    """Selection of a point's content.

    `withheld`: by scope, the number of objects that are not restored because their key was destroyed on purpose.
    """

    databases: tuple[Dump, ...]
    objects: tuple[HeldObject, ...]
    whole: bool
    withheld: Mapping[str, int]

    @property
    def object_bytes(self) -> int:
        return sum(obj.size for obj in self.objects)

    @property
    def dump_bytes(self) -> int:
        return sum(database.bytes for database in self.databases)


def select(
    manifest: Manifest,
    parts: Sequence[Part] = (),
    models: Mapping[str, Collection[str]] | None = None,
    destroyed: Collection[tuple[str, str]] = (),
) -> Selection:
    """Return the databases, the largest first, and the objects of the parts, or of all.

    `models`: the folders in the bucket of artifacts with each named model's versions, each ending in a slash.
    `destroyed`: scope and serial of keys that were destroyed. Raises BackupError for a part that the point lacks.
    """
    databases: dict[str, Dump] = {}
    objects: dict[tuple[str, str], HeldObject] = {}
    for part in parts:
        count = 0
        if part.kind == "database":
            databases[part.name] = manifest.database(part.name)
            continue
        for obj in manifest.objects:
            if _belongs(obj, part, models or {}):
                objects[obj.bucket, obj.key] = obj
                count += 1
        if not count:
            raise BackupError(f"restore point {manifest.id} contains nothing of {part}", "`--explain` lists its parts.")
    if not parts:
        databases = {database.name: database for database in manifest.databases}
        objects = {(obj.bucket, obj.key): obj for obj in manifest.objects}
    gone = set(destroyed)
    withheld: dict[str, int] = {}
    kept = []
    for obj in sorted(objects.values(), key=lambda obj: (BUCKETS.index(obj.bucket), obj.key)):
        if (obj.sealed.scope, obj.sealed.serial) in gone:
            withheld[obj.sealed.scope] = withheld.get(obj.sealed.scope, 0) + 1
        else:
            kept.append(obj)
    return Selection(
        tuple(sorted(databases.values(), key=lambda database: (-database.bytes, database.name))),
        tuple(kept),
        not parts,
        withheld,
    )


def _belongs(held_object: HeldObject, part: Part, models: Mapping[str, Collection[str]]) -> bool:
    if part.kind == "bucket":
        return held_object.bucket == part.name
    if part.kind == "dataset":
        return held_object.bucket == "lake" and dataset_of(held_object.key) == part.name
    return held_object.bucket == "artifacts" and any(
        held_object.key.startswith(folder) for folder in models.get(part.name, ())
    )


def dataset_of(key: str) -> str | None:
    """Return the pipeline of an object in the lake, from `<what>/<pipeline>/...`."""
    parts = key.split("/")
    return parts[1] if len(parts) > 2 else None


def keys_needed(manifest: Manifest, selection: Selection) -> list[tuple[str, str]]:
    """Return scope and serial of every key that a restore needs: for databases and secrets."""
    needed = {(database.scope, database.serial) for database in selection.databases}
    if selection.whole:
        needed.add((manifest.secrets.sealed.scope, manifest.secrets.sealed.serial))
    return sorted(needed)


@dataclass
class Meter:
    """Progress and remaining time at the current pace. `now` in seconds of any clock."""

    what: str
    total: float
    began: float
    every: float = 5.0
    done: float = 0.0
    logged_at: float | None = None

    def add(self, amount: float, now: float) -> str | None:
        """Count what was done; a line to tell, every few seconds."""
        self.done += amount
        if now - (self.began if self.logged_at is None else self.logged_at) < self.every:
            return None
        self.logged_at = now
        left = time_left(self.done, self.total, now - self.began)
        share = 100 * self.done / self.total if self.total else 100.0
        return f"{self.what}: {share:.0f} %" + (f", about {span(left)} left" if left is not None else "")


def time_left(done: float, total: float, seconds: float) -> float | None:
    """Return the remaining seconds at the current pace; None before any progress."""
    return max(total - done, 0.0) * seconds / done if done > 0 else None


def weight(size: int) -> int:
    """Return an object's weight in a meter."""
    return size + REQUEST_BYTES


def span(seconds: float) -> str:
    """Format seconds for people."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def parts(manifest: Manifest) -> Iterator[tuple[Part, str, int]]:
    """Return every part of a point except models: number of tables or objects, and bytes."""
    for dump in sorted(manifest.databases, key=lambda database: database.name):
        yield Part("database", dump.name), counted(len(dump.tables), "table"), dump.bytes
    sums: dict[Part, tuple[int, int]] = {}
    for obj in manifest.objects:
        owner = dataset_of(obj.key) if obj.bucket == "lake" else None
        for part in (Part("bucket", obj.bucket), *([Part("dataset", owner)] if owner else [])):
            count, held = sums.get(part, (0, 0))
            sums[part] = (count + 1, held + obj.size)
    for part, (count, held) in sorted(sums.items(), key=lambda item: str(item[0])):
        yield part, counted(count, "object"), held
