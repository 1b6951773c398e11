"""Write and read snapshots: immutable, content-hashed versions of a data set, as Parquet parts and a manifest.

A snapshot holds every row accepted so far. Its id is a hash of its schema and rows (`engine.identity`), so the same
rows give the same id in whatever deliveries and parts, and an unchanged period keeps its parts. A part is needed while
any kept manifest names it, even after its own `retain-until`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import IntegrityError, ObjectMissing
from rempart.ingestion.engine import identity
from rempart.ingestion.engine.identity import PartitionContent
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema, snapshot_columns
from rempart.settings.columns import Period
from rempart.sites.once import keep_file, put_again
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Part", "PartitionContent", "Snapshot", "SnapshotColumn", "arrow_schema", "snapshot_columns"]
FORMAT = 3
PART_TYPE = "application/vnd.apache.parquet"
"""Content type of a part."""
_ROWS = 16_384
"""Rows of a snapshot that are read at the same time."""
_GROUP = 131_072
"""Rows of a row group."""


class OtherFormat(ValueError):
    """A manifest that a release with another format wrote."""


@dataclass(frozen=True)
class Part:
    """Rows of one partition (such as month `YYYY-MM`), as one Parquet object. A partition has one or more parts."""

    partition: str
    key: str
    sha256: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """A manifest as read. `columns` are in the order of the schema; `key` identifies a row.

    `partitions`: number and hash of the rows of each. They, and not the parts, determine the id.
    """

    id: str
    pipeline: str
    created_at: datetime
    previous: str | None
    rows: int
    parts: tuple[Part, ...]
    columns: Mapping[str, SnapshotColumn]
    classification: str
    retain_until: date
    key: tuple[str, ...]
    partition_by: str
    partition_every: Period = "month"
    partitions: tuple[PartitionContent, ...] = ()
    deliveries: tuple[Mapping[str, Any], ...] = ()
    """Outcomes of the deliveries that this snapshot added (`deliveries.Outcome` as JSON)."""
    derived_from: Mapping[str, str] = field(default_factory=dict)
    """State of the source of a derived pipeline: the query, and the snapshots of its inputs."""


def folder(pipeline: str) -> str:
    return f"snapshots/{pipeline}/"


def part_key(pipeline: str, sha256: str) -> str:
    return f"{folder(pipeline)}parts/{sha256}.parquet"


def content_id(snapshot: Snapshot) -> str:
    """Return the id of a snapshot's content: the schema and the rows, whatever their parts."""
    return identity.content_id(
        snapshot.columns, snapshot.key, snapshot.partition_by, snapshot.partition_every, snapshot.partitions
    )


def manifest(snapshot: Snapshot) -> bytes:
    """Return the manifest as stored."""
    return canonical_json.encode(
        {
            "format": FORMAT,
            "id": snapshot.id,
            "pipeline": snapshot.pipeline,
            "created_at": snapshot.created_at.isoformat(),
            "previous": snapshot.previous,
            "rows": snapshot.rows,
            "classification": snapshot.classification,
            "retain_until": snapshot.retain_until.isoformat(),
            "content": {
                "columns": [[name, column.type, column.nullable] for name, column in snapshot.columns.items()],
                "key": list(snapshot.key),
                "partition_by": snapshot.partition_by,
                "partition_every": snapshot.partition_every,
                "partitions": [[part.partition, part.rows, part.sha256] for part in snapshot.partitions],
            },
            "parts": [[part.partition, part.sha256, part.rows, part.bytes] for part in snapshot.parts],
            "deliveries": list(snapshot.deliveries),
            **({"derived_from": dict(snapshot.derived_from)} if snapshot.derived_from else {}),
        }
    )


def current(site: Site, bucket: str, pipeline_name: str) -> Snapshot | None:
    """Return the snapshot that a site shows as current, or None before the first. Raises SiteError, IntegrityError.

    A site may show an older one: `flows.ingestion.current_snapshot` checks it against evidence.
    """
    shown = named(site, bucket, pipeline_name)
    return None if shown is None else read(site, bucket, pipeline_name, shown)


def named(site: Site, bucket: str, pipeline_name: str) -> str | None:
    """Return the id in `current.json`, or None without one. Raises SiteError, IntegrityError."""
    key = f"{folder(pipeline_name)}current.json"
    try:
        return str(json.loads(site.read(bucket, key))["id"])
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError) as cause:
        raise _altered(site, bucket, key, "it names no snapshot") from cause


def read(site: Site, bucket: str, pipeline_name: str, snapshot_id: str) -> Snapshot:
    """Return a snapshot by its id.

    Raises ObjectMissing, and IntegrityError if the manifest does not match the id or has another format.
    """
    key = f"{folder(pipeline_name)}{snapshot_id}.json"
    body = site.read(bucket, key)
    try:
        snapshot = parse(body, pipeline_name)
    except OtherFormat as cause:
        raise IntegrityError(
            f"read manifest {bucket}/{key} at site '{site.name}': {cause}, but this release reads format {FORMAT}",
            "Use the release that wrote it: docs/how-to/upgrade.md, 'Keys, snapshots and tables of another format'.",
        ) from cause
    except ValueError as cause:
        raise _altered(site, bucket, key, "it is not a manifest") from cause
    if snapshot.pipeline != pipeline_name or not snapshot.id == snapshot_id == content_id(snapshot):
        raise _altered(site, bucket, key, "its content does not match its id")
    if _rows_by_partition(snapshot) != {content.partition: content.rows for content in snapshot.partitions}:
        raise _altered(site, bucket, key, "its parts do not match its partitions")
    return snapshot


def parse(body: bytes, pipeline_name: str) -> Snapshot:
    """Return the snapshot in a manifest's bytes. Raises ValueError for invalid bytes."""
    try:
        found = json.loads(body)
        if found["format"] != FORMAT:
            raise OtherFormat(f"it has format {found['format']!r:.20}")
        content = found["content"]
        return Snapshot(
            found["id"],
            found["pipeline"],
            datetime.fromisoformat(found["created_at"]),
            found["previous"],
            found["rows"],
            tuple(
                Part(partition, part_key(pipeline_name, sha256), sha256, rows, size)
                for partition, sha256, rows, size in found["parts"]
            ),
            {name: SnapshotColumn(type_, nullable) for name, type_, nullable in content["columns"]},
            found["classification"],
            date.fromisoformat(found["retain_until"]),
            tuple(content["key"]),
            content["partition_by"],
            content["partition_every"],
            tuple(PartitionContent(partition, rows, sha256) for partition, rows, sha256 in content["partitions"]),
            tuple(found["deliveries"]),
            dict(found.get("derived_from", {})),
        )
    except (KeyError, TypeError) as cause:
        raise ValueError("it is not a manifest") from cause


def _altered(site: Site, bucket: str, key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"read manifest {bucket}/{key} at site '{site.name}': {why}",
        "Restore the object from its replica or a restore point.",
    )


def differing(what: str) -> IntegrityError:
    return IntegrityError(
        f"{what}: its rows do not match the hash in the manifest",
        "Restore the snapshot from its replica or a restore point.",
    )


def _rows_by_partition(snapshot: Snapshot) -> dict[str, int]:
    rows: dict[str, int] = {}
    for part in snapshot.parts:
        rows[part.partition] = rows.get(part.partition, 0) + part.rows
    return rows


def changed_partitions(before: Snapshot, after: Snapshot) -> tuple[str, ...] | None:
    """Return the names of the partitions whose rows differ between two snapshots, those of one alone included.

    None if their rows cannot be compared: they have other columns, another key, or are partitioned otherwise. Pure.
    """
    forms = [
        (list(found.columns.items()), found.key, found.partition_by, found.partition_every) for found in (before, after)
    ]
    if forms[0] != forms[1]:
        return None
    differing_contents = set(before.partitions) ^ set(after.partitions)
    return tuple(sorted({content.partition for content in differing_contents}))


def rows(site: Site, bucket: str, snapshot: Snapshot, only: Collection[str] | None = None) -> pa.RecordBatchReader:
    """Return a reader of all rows, or of those in some partitions; partitions in order of time, rows in order of key.

    In memory are the parts of one partition as they are stored, and some of its rows; all its rows, if its parts hold
    keys in turns. Reading raises IntegrityError before the first row of a partition whose rows are not those that the
    id names, and ObjectMissing.
    """
    import pyarrow as pa

    schema = arrow_schema(snapshot.columns)
    batches = (
        batch
        for content in snapshot.partitions
        if only is None or content.partition in only
        for table in _checked(site, bucket, snapshot, content)
        for batch in table.to_batches(max_chunksize=_ROWS)
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _checked(site: Site, bucket: str, snapshot: Snapshot, content: PartitionContent) -> Iterator[pa.Table]:
    """Yield the rows of a partition in order of key, after they were checked. Raises IntegrityError, ObjectMissing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(snapshot.columns)
    bodies = [
        site.read(bucket, part.key, sha256=part.sha256)
        for part in snapshot.parts
        if part.partition == content.partition
    ]

    def read() -> Iterator[pa.Table]:
        for body in bodies:
            for batch in pq.ParquetFile(pa.BufferReader(body)).iter_batches(_ROWS):
                yield pa.Table.from_batches([batch]).cast(schema)

    streamed = identity.in_order(read(), snapshot.columns, snapshot.key)
    if streamed is not None:
        found, ordered = streamed.content(content.partition), read()
    else:
        whole = pa.concat_tables(read()).sort_by([(column, "ascending") for column in snapshot.key])
        found = identity.by_arrow([whole], snapshot.columns, snapshot.key, content.partition)
        ordered = iter([whole])
    if found != content:
        raise differing(f"read partition {content.partition} of snapshot {snapshot.id} at site '{site.name}'")
    yield from ordered


def load_table(site: Site, bucket: str, snapshot: Snapshot) -> pa.Table:
    """Return all rows of a snapshot that fits in memory, as `rows` does. Raises IntegrityError, ObjectMissing."""
    return rows(site, bucket, snapshot).read_all()


def encode(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Return rows as Parquet, as `write` makes it."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    write(tables, schema, sink)
    return bytes(sink.getvalue())


def write(tables: Iterable[pa.Table], schema: pa.Schema, sink: Path | pa.NativeFile) -> None:
    """Write rows as Parquet, in their order: equal rows give equal bytes, whatever the tables (for one Arrow version).

    The rows of one row group are in memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(sink, schema, compression="zstd", version="2.6") as writer:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table.cast(schema)])
            while waiting.num_rows >= _GROUP:
                writer.write_table(waiting.slice(0, _GROUP).combine_chunks(), row_group_size=_GROUP)
                waiting = waiting.slice(_GROUP)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks(), row_group_size=_GROUP)


def partitions(table: pa.Table, column: str, every: Period = "month") -> dict[str, pa.Table]:
    """Group a table's rows by period of a date or timestamp column, in order of time.

    Periods are in UTC: `YYYY-MM`, `YYYY-MM-DD` or `YYYY-MM-DDTHH`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    when = table[column]
    if pa.types.is_timestamp(when.type):
        when = when.cast(pa.timestamp("us"))  # UTC as it is: calendar functions would look up the zone
    # not strftime: it needs the time zone database and pads years as the platform likes
    numbers = pc.add(pc.multiply(pc.year(when), 12), pc.subtract(pc.month(when), 1))
    if every != "month":
        numbers = pc.add(pc.multiply(numbers, 31), pc.subtract(pc.day(when), 1))
    if every == "hour":
        numbers = pc.add(pc.multiply(numbers, 24), pc.hour(when))
    return {
        _period(number, every): table.filter(pc.equal(numbers, number))
        for number in sorted(pc.unique(numbers).to_pylist())
    }


def _period(number: int, every: Period) -> str:
    """Return the name of a numbered period."""
    number, hour = divmod(number, 24) if every == "hour" else (number, 0)
    month, day = divmod(number, 31) if every != "month" else (number, 0)
    name = f"{month // 12:04d}-{month % 12 + 1:02d}"
    return name + {"month": "", "day": f"-{day + 1:02d}", "hour": f"-{day + 1:02d}T{hour:02d}"}[every]


def commit(site: Site, bucket: str, snapshot: Snapshot, added: Sequence[tuple[Part, Path]]) -> None:
    """Write parts, then manifest, then switch `current.json`: readers see the old or the new snapshot.

    Each object is read back before the next. Raises IntegrityError if the site returns other bytes, SiteError.
    """
    for part, file in added:
        keep_part(site, bucket, snapshot, part, file)
    put_again(
        site,
        bucket,
        f"{folder(snapshot.pipeline)}{snapshot.id}.json",
        manifest(snapshot),
        metadata=_kept(snapshot),
        content_type="application/json",
    )
    point_at(site, bucket, snapshot)


def keep_part(site: Site, bucket: str, snapshot: Snapshot, part: Part, file: Path) -> None:
    """Write a part of a snapshot and read it back. Raises IntegrityError if the site returns other bytes, SiteError."""
    keep_file(site, bucket, part.key, file, part.sha256, metadata=_kept(snapshot), content_type=PART_TYPE)


def _kept(snapshot: Snapshot) -> dict[str, str]:
    return {"retain-until": snapshot.retain_until.isoformat()}


def point_at(site: Site, bucket: str, snapshot: Snapshot) -> None:
    """Make a stored snapshot the current one."""
    put_again(
        site,
        bucket,
        f"{folder(snapshot.pipeline)}current.json",
        canonical_json.encode({"id": snapshot.id, "previous": snapshot.previous}),
        content_type="application/json",
    )
