"""Write the parts of a snapshot and hash its partitions in executors: one task reads one partition in order.

Known rows of a partition come with the new ones, in ascending order of key. So one pass finds the hash of what the
partition had, which must be that of the manifest, and the hash of what it has now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import IntegrityError
from rempart.ingestion.content.growth import PART_BYTES
from rempart.ingestion.engine.identity import OrderedRows
from rempart.ingestion.engine.parts import PartWriter
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.ingestion.snapshots import PART_TYPE
from rempart.settings.pipeline import Pipeline
from rempart.sites.once import keep_file
from rempart.sites.spool import spool_folder
from rempart.spark.sites import OpenSite

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PARTITION, FLAG = "_partition", "_flag"
STAYS, DISPLACED, NEW = 0, 1, 2
"""States of a row: known, known but replaced or erased, new."""
_TOLD = "kind string, name string, rows bigint, sha256 string, bytes bigint"
_PART, _HAD, _HAS = "part", "had", "has"


@dataclass(frozen=True)
class JobFolder:
    """Place of a job's objects."""

    bucket: str
    prefix: str

    def part(self, sha256: str) -> str:
        """Return the key of a part."""
        return f"{self.prefix}part-{sha256}.parquet"


@dataclass(frozen=True)
class Grown:
    """New parts and contents of the changed partitions.

    `parts`: partition, rows, SHA-256 and bytes of each new part. `had`, `has`: rows and hash of each partition before
    and now.
    """

    parts: list[tuple[str, int, str, int]] = field(default_factory=list)
    had: dict[str, tuple[int, str]] = field(default_factory=dict)
    has: dict[str, tuple[int, str]] = field(default_factory=dict)


def grown(
    session: SparkSession,
    rows: DataFrame,
    pipeline: Pipeline,
    open_site: OpenSite,
    place: JobFolder,
    rewritten: frozenset[str] | None,
    part_bytes: int = PART_BYTES,
) -> Grown:
    """Write the new rows of changed partitions to parts at a place. `rows`: all their rows, with `PARTITION`, `FLAG`.

    Of the partitions in `rewritten` (None for all), known rows that stay are written again, too. Raises IntegrityError.
    """
    rows.createOrReplaceTempView("_grown")
    order = ", ".join(f"`{name}`" for name in (PARTITION, *pipeline.row_key, FLAG))
    sorted_rows = session.sql(f"SELECT * FROM _grown DISTRIBUTE BY {PARTITION} SORT BY {order}")  # noqa: S608 - our own names
    writer = _PartitionWriter(open_site, place, pipeline, rewritten, part_bytes)
    found = Grown()
    for row in sorted_rows.mapInArrow(writer, _TOLD).collect():
        kind, name, count, sha256, size = row
        match kind:
            case "part":
                found.parts.append((name, count, sha256, size))
            case "had":
                found.had[name] = count, sha256
            case "has":
                found.has[name] = count, sha256
    found.parts.sort()
    session.catalog.dropTempView("_grown")
    return found


@dataclass(frozen=True)
class _PartitionWriter:
    """Writes the rows of whole partitions, which come in order, and tells of their parts and hashes."""

    open_site: OpenSite
    place: JobFolder
    pipeline: Pipeline
    rewritten: frozenset[str] | None
    part_bytes: int

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        with spool_folder() as folder:
            yield from _told(self._written(batches, folder))

    def _written(self, batches: Iterator[Any], folder: Path) -> Iterator[tuple[str, str, int, str, int]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        columns, key = snapshot_columns(self.pipeline), self.pipeline.row_key
        schema = arrow_schema(columns)
        writer = PartWriter(folder, schema, self.part_bytes, key)
        open_one: tuple[str, OrderedRows, OrderedRows] | None = None
        for name, table in _runs(batches):
            if open_one is None or open_one[0] != name:
                yield from _contents(open_one)
                open_one = name, OrderedRows(), OrderedRows()
            flags, rows = table[FLAG], table.select(schema.names).cast(schema)
            for content, other in ((open_one[1], NEW), (open_one[2], DISPLACED)):
                if not content.adds(rows.filter(pc.not_equal(flags, other)), columns, key):
                    raise _disordered()
            is_whole = self.rewritten is None or name in self.rewritten
            kept = pc.not_equal(flags, DISPLACED) if is_whole else pc.equal(flags, NEW)
            some = rows.filter(kept)
            if some.num_rows:
                names = pa.repeat(pa.scalar(name), some.num_rows)
                (batch,) = some.add_column(0, PARTITION, names).combine_chunks().to_batches()
                if not writer.takes(batch, sorted_by_partition=True):
                    raise _disordered()
            yield from self._kept(writer)
        yield from _contents(open_one)
        yield from self._kept(writer, last=True)

    def _kept(self, writer: PartWriter, *, last: bool = False) -> Iterator[tuple[str, str, int, str, int]]:
        """Bring the parts that ended to the site, and tell of them."""
        for part in writer.finish() if last else writer.ended():
            site, key = self.open_site(), self.place.part(part.sha256)
            keep_file(site, self.place.bucket, key, part.file, part.sha256, metadata={}, content_type=PART_TYPE)
            part.file.unlink()
            yield _PART, part.partition, part.rows, part.sha256, part.bytes


def _runs(batches: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of each partition in a batch; they come in order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in batches:
        table = pa.Table.from_batches([batch])
        names = table[PARTITION]
        for name in pc.unique(names).to_pylist():
            yield name, table.filter(pc.equal(names, name))


def _contents(
    found: tuple[str, OrderedRows, OrderedRows] | None,
) -> Iterator[tuple[str, str, int, str, int]]:
    if found is not None:
        name, had, has = found
        for kind, rows in ((_HAD, had), (_HAS, has)):
            content = rows.content(name)
            yield kind, name, content.rows, content.sha256, 0


def _told(facts: Iterator[tuple[str, str, int, str, int]]) -> Iterator[Any]:
    import pyarrow as pa

    types = [pa.string(), pa.string(), pa.int64(), pa.string(), pa.int64()]
    names = ["kind", "name", "rows", "sha256", "bytes"]
    for fact in facts:
        yield pa.RecordBatch.from_arrays([pa.array([each], of) for each, of in zip(fact, types, strict=True)], names)


def _disordered() -> IntegrityError:
    return IntegrityError(
        "write parts: Spark did not sort the rows, or two of them have one key", "Report this as a bug."
    )
