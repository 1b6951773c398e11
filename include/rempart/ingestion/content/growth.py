"""Draw up the snapshot that holds the rows so far and new ones. Files in, files out; no site.

A partition without new rows keeps its parts and its hash. A partition with new rows gains parts; only its rows are
read, to hash them. When a partition has many small parts, these become one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import IntegrityError
from rempart.ingestion import snapshots
from rempart.ingestion.engine import identity, parts
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.identity import PartitionContent
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.parsing.schema import SnapshotColumn, snapshot_columns
from rempart.ingestion.snapshots import Part, Snapshot
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import duckdb

PART_BYTES = 64 << 20
"""Size of a part at which the next one begins."""
SMALL_PARTS = 8
"""Number of small parts (less than half of `PART_BYTES`) of a partition beyond which they are joined."""


@dataclass(frozen=True)
class KnownRows:
    """The rows of a snapshot on disk, in the present schema and without erased rows.

    `files`: by the SHA-256 of their part. `changed`: partitions that lost rows. `same_form`: the schema, the key and
    the partition are those of the snapshot.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    same_form: bool = True


def check(
    before: Snapshot, files: Mapping[str, Path], resources: Resources, only: Collection[str] | None = None
) -> None:
    """Check the rows of each partition of a snapshot, or of some. `files`: its parts as stored, by their SHA-256.

    Raises IntegrityError if the rows of a partition differ from the hash in the manifest.
    """
    had = by_partition(before.parts)
    with opened(resources, sorted({file.parent for file in files.values()})) as connection:
        for content in before.partitions:
            if only is not None and content.partition not in only:
                continue
            if _content(connection, content.partition, had[content.partition], files, before.columns, before.key) != [
                content
            ]:
                raise differing(before.pipeline, content.partition)


def without(
    before: Snapshot | None, known: KnownRows, displaced: Mapping[Path, Path], resources: Resources
) -> KnownRows:
    """Return the known rows without replaced ones. `displaced`: by files of known rows, files with those that stay.

    Raises IntegrityError if the rows of a partition that is rewritten differ from the hash in the manifest.
    """
    if before is None or not displaced:
        return known
    touched = {part.partition for part in before.parts if known.files[part.sha256] in displaced}
    if known.same_form:  # rows of another form, and of changed partitions, are checked already
        check(before, known.files, resources, touched - known.changed)
    files = {sha256: displaced.get(file, file) for sha256, file in known.files.items()}
    return replace(known, files=files, changed=known.changed | touched)


def repeats(pipeline: Pipeline, files: Mapping[str, Path], resources: Resources) -> bool:
    """Return whether two rows in some parts have one key, by the pipeline's `key`."""
    if not files:
        return False
    keys = ", ".join(map(identity.quote, pipeline.row_key))
    rows = parquet(list(files.values()))
    query = f"SELECT EXISTS (SELECT 1 FROM {rows} GROUP BY {keys} HAVING count(*) > 1)"  # noqa: S608 - our own names
    with opened(resources, sorted({file.parent for file in files.values()})) as connection:
        return connection.execute(query).fetchall() == [(True,)]


def has_same_form(before: Snapshot, pipeline: Pipeline) -> bool:
    """Return whether a snapshot has the schema, the key and the partition that the pipeline declares."""
    return (list(before.columns.items()), before.key, before.partition_by, before.partition_every) == (
        list(snapshot_columns(pipeline).items()),
        tuple(pipeline.row_key),
        pipeline.partition_by,
        pipeline.partition_every,
    )


def draw_up(
    pipeline: Pipeline,
    before: Snapshot | None,
    known: KnownRows,
    written: Sequence[WrittenPart],
    *,
    folder: Path,
    resources: Resources,
    now: datetime,
    retain_until: date,
    part_bytes: int = PART_BYTES,
    small_parts: int = SMALL_PARTS,
) -> tuple[Snapshot, list[tuple[Part, Path]]]:
    """Return the snapshot of the known rows and the new ones in `written`, and its parts that `before` lacks.

    `folder` takes new files. Raises IntegrityError if the rows of a partition differ from the manifest's hash.
    """
    columns = snapshot_columns(pipeline)
    kept = before if before is not None and known.same_form else None
    files = {part.sha256: part.file for part in written} | dict(known.files)
    with opened(resources, sorted({folder, *(file.parent for file in files.values())})) as connection:
        growing = _Growing(connection, pipeline, folder, columns, files, part_bytes)
        if known.files and not known.same_form:
            written = growing.rewritten(list(files.values()))
        new = by_partition(growing.parts_of(written))
        had = by_partition(kept.parts if kept else ())
        contents = {content.partition: content for content in (kept.partitions if kept else ())}
        for partition in sorted({*new, *known.changed}):
            is_kept = partition in contents and partition not in known.changed
            grown = [*had.get(partition, ()), *new.get(partition, ())]
            joined = growing.joined(grown, partition in known.changed, small_parts)
            found = growing.grown(contents[partition], had[partition], new[partition]) if is_kept else None
            if found is None or joined != grown:
                found = growing.content(partition, joined)
            grown = joined
            contents.pop(partition, None)
            contents |= {content.partition: content for content in found}
            had[partition] = grown
    snapshot = snapshot_of(pipeline, before, had, contents, now, retain_until)
    there = {part.sha256 for part in kept.parts} if kept else set()
    added = [(part, growing.files[part.sha256]) for part in snapshot.parts if part.sha256 not in there]
    return snapshot, added


def snapshot_of(
    pipeline: Pipeline,
    before: Snapshot | None,
    parts_of: Mapping[str, Sequence[Part]],
    contents: Mapping[str, PartitionContent],
    now: datetime,
    retain_until: date,
) -> Snapshot:
    """Return the snapshot after `before` with the parts and the content of each partition. Pure."""
    all_parts = tuple(part for partition in sorted(parts_of) for part in parts_of[partition])
    snapshot = Snapshot(
        "",
        pipeline.name,
        now,
        before.id if before else None,
        sum(part.rows for part in all_parts),
        all_parts,
        snapshot_columns(pipeline),
        pipeline.classification,
        retain_until,
        tuple(pipeline.row_key),
        pipeline.partition_by,
        pipeline.partition_every,
        tuple(contents[partition] for partition in sorted(contents)),
    )
    return replace(snapshot, id=snapshots.content_id(snapshot))


def by_partition(found: Iterable[Part]) -> dict[str, list[Part]]:
    ordered = sorted(found, key=lambda part: part.partition)
    return {name: list(some) for name, some in itertools.groupby(ordered, lambda part: part.partition)}


@dataclass
class _Growing:
    """Writes and reads parts of one snapshot. `files`: where each part is, by its SHA-256."""

    connection: duckdb.DuckDBPyConnection
    pipeline: Pipeline
    folder: Path
    columns: Mapping[str, SnapshotColumn]
    files: dict[str, Path]
    part_bytes: int
    _folders: Callable[[], int] = field(default_factory=lambda: itertools.count().__next__)

    def rewritten(self, files: Sequence[Path]) -> list[WrittenPart]:
        """Write the rows of some files as new parts."""
        place = self.folder / f"rewritten-{self._folders()}"
        key, partition = self.pipeline.row_key, parts.period_of(self.pipeline)
        return parts.write(self.connection, parquet(files), self.columns, key, partition, place, most=self.part_bytes)

    def parts_of(self, written: Sequence[WrittenPart]) -> list[Part]:
        self.files |= {part.sha256: part.file for part in written}
        return [part_of(self.pipeline.name, part) for part in written]

    def joined(self, grown: Sequence[Part], all_of_them: bool, small_parts: int) -> list[Part]:
        """Return the parts of a partition, its small ones joined if there are many, or all written again."""
        small = [part for part in grown if part.bytes < self.part_bytes // 2 or all_of_them]
        if not all_of_them and len(small) <= small_parts:
            return list(grown)
        joined = self.parts_of(self.rewritten([self.files[part.sha256] for part in small])) if small else []
        return [*(part for part in grown if part not in small), *joined]

    def content(self, partition: str, grown: Sequence[Part]) -> list[PartitionContent]:
        """Return the content of a partition, or nothing if no row is left."""
        return _content(self.connection, partition, grown, self.files, self.columns, self.pipeline.row_key)

    def grown(self, content: PartitionContent, had: Sequence[Part], new: Sequence[Part]) -> list[PartitionContent]:
        """Check the rows that a partition had. Return its content with new rows.

        Each row is hashed once if the new keys are beyond those before. Raises IntegrityError if the rows that it had
        differ from the manifest's hash.
        """
        before, more = (parquet([self.files[part.sha256] for part in some]) for some in (had, new))
        key = self.pipeline.row_key
        found = identity.by_duckdb(self.connection, before, self.columns, key)
        if found.content(content.partition) != content:
            raise differing(self.pipeline.name, content.partition)
        if found.reads(self.connection, more, self.columns, key):
            return [found.content(content.partition)]
        return self.content(content.partition, [*had, *new])


def _content(
    connection: duckdb.DuckDBPyConnection,
    partition: str,
    some: Sequence[Part],
    files: Mapping[str, Path],
    columns: Mapping[str, SnapshotColumn],
    key: Sequence[str],
) -> list[PartitionContent]:
    """Return the content of a partition in some parts, or nothing if there is none. `files`: by their SHA-256."""
    if not some:
        return []
    found = identity.by_duckdb(connection, parquet([files[part.sha256] for part in some]), columns, key)
    return [found.content(partition)] if found.rows else []


def part_of(pipeline: str, written: WrittenPart) -> Part:
    """Return a part as a manifest names it."""
    return Part(
        written.partition,
        snapshots.part_key(pipeline, written.sha256),
        written.sha256,
        written.rows,
        written.bytes,
    )


def differing(pipeline: str, partition: str) -> IntegrityError:
    return snapshots.differing(f"read partition {partition} of a snapshot of '{pipeline}'")
