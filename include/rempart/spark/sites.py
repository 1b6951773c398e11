"""Read and write objects of a site in executors. Their rows never pass through the driver.

Executors open the site themselves (`open_site`), so no credential is in a task. An object is read by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.sites.digests import file_sha256
from rempart.sites.once import keep_file
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.spark.order import InputObject

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

OpenSite = Callable[[], Site]
"""Opens the site of an order in whatever process calls it. It can be sent to executors, and holds no secret."""
Change = Callable[[Any, str, int], Any]
"""Returns rows of an object in another form, given the object's SHA-256 and the position of the first row."""
_ROWS = 20_000
"""Rows of a batch."""
PARQUET = "application/vnd.apache.parquet"


def parquet_rows(
    session: SparkSession,
    open_site: OpenSite,
    objects: Sequence[InputObject],
    schema: pa.Schema,
    *,
    named: str | None = None,
    read: pa.Schema | None = None,
    change: Change | None = None,
) -> DataFrame:
    """Return the rows of Parquet objects with the columns of a schema, in any order. One task reads one object.

    `named`: a column with the SHA-256 of a row's object. `read`: columns of the objects, which `change` turns into
    those of the schema. Reading fails if an object has another SHA-256.
    """
    import pyarrow as pa

    whole = schema.append(pa.field(named, pa.string())) if named else schema
    names = tuple((each.bucket, each.key, each.sha256) for each in objects)
    reader = _ObjectReader(open_site, names, schema, named, read or schema, change)
    return one_task_each(session, len(objects)).mapInArrow(reader, spark_schema(whole))


def keep_rows(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    open_site: OpenSite,
    bucket: str,
    key: Callable[[str], str],
    metadata: Mapping[str, str] | None = None,
) -> tuple[str, int, int] | None:
    """Write the rows of a task as one Parquet object. Return its SHA-256, bytes and rows; None without rows.

    `key`: returns the key by the SHA-256, so that a task that runs twice writes one object. Raises SiteError.
    """
    import pyarrow.parquet as pq

    with spool_folder() as folder:
        file, rows = folder / "rows.parquet", 0
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for table in tables:
                rows += table.num_rows
                writer.write_table(table.select(schema.names).cast(schema))
        if not rows:
            return None
        sha256, size = file_sha256(file), file.stat().st_size
        keep_file(open_site(), bucket, key(sha256), file, sha256, metadata=metadata or {}, content_type=PARQUET)
    return sha256, size, rows


def one_task_each(session: SparkSession, count: int) -> DataFrame:
    """Return a frame of the numbers below `count`, each in a task of its own."""
    return session.range(0, count, 1, max(1, count))


def spark_schema(schema: pa.Schema) -> StructType:
    """Return Spark's types of Arrow's columns, all of which may be null."""
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField, StructType

    return StructType([StructField(field.name, from_arrow_type(field.type), True) for field in schema])


@dataclass(frozen=True)
class _ObjectReader:
    """Reads the objects whose numbers come in, as bucket, key and SHA-256."""

    open_site: OpenSite
    objects: tuple[tuple[str, str, str], ...]
    schema: Any
    named: str | None
    read: Any
    change: Change | None

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        site = self.open_site()
        for batch in batches:
            for number in batch.column(0).to_pylist():
                bucket, key, sha256 = self.objects[number]
                body = pa.BufferReader(site.read(bucket, key, sha256=sha256))
                with pq.ParquetFile(body) as file:
                    first = 0
                    for rows in file.iter_batches(_ROWS, columns=self.read.names):
                        yield from self._named(pa.Table.from_batches([rows]), sha256, first)
                        first += rows.num_rows

    def _named(self, rows: Any, sha256: str, first: int) -> Iterator[Any]:
        import pyarrow as pa

        table = rows.select(self.read.names).cast(self.read)
        if self.change:
            table = self.change(table, sha256, first)
        table = table.select(self.schema.names).cast(self.schema)
        if self.named:
            table = table.append_column(self.named, pa.repeat(pa.scalar(sha256), table.num_rows))
        yield from table.to_batches()
