"""Run the engine's statements, which are in DuckDB's dialect, on Spark: the same text, the same rows.

A table stays with the executors, in memory or on their disks, until the connection is closed. Only results come here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rempart.spark import (
    dialect,
    functions,  # noqa: F401 - it adds its rewrites to the dialect
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class SparkConnection:
    """Tables and views of one piece of work in a session. They end with the connection."""

    def __init__(self, session: SparkSession) -> None:
        self.session = session
        self._views: list[str] = []
        self._kept: list[DataFrame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def register(self, name: str, frame: DataFrame) -> None:
        """Make the rows of a frame a view."""
        frame.createOrReplaceTempView(name)
        self._views.append(name)

    def unregister(self, name: str) -> None:
        """Forget a view. Tables that were made of it stay."""
        self.session.catalog.dropTempView(name)

    def execute(self, query: str, /) -> SparkRows:
        """Run a statement. Raises SparkError for one that has no translation."""
        *parts, found = dialect.statements(query)
        held = []
        for part in parts:
            held.append(self._persisted(self.session.sql(part.query)))
            self.register(part.name, self._leaf(held[-1]))
        frame = self.session.sql(found.query)
        if found.kind == "query":
            self._kept += held
            return SparkRows(frame)
        if found.kind == "table":
            frame = self._leaf(self.keep(frame))
            if held:
                frame.count()  # so that its parts can go
        self.register(found.name, frame)
        for each in held:
            each.unpersist()
        return SparkRows(frame.limit(0))

    def sql(self, query: str, /) -> SparkRows:
        """Return the result of a query. Raises SparkError for one that has no translation."""
        return self.execute(query)

    def keep(self, frame: DataFrame) -> DataFrame:
        """Compute the rows of a frame once, at first use. They stay with the executors until `close`."""
        kept = self._persisted(frame)
        self._kept.append(kept)
        return kept

    def _persisted(self, frame: DataFrame) -> DataFrame:
        from pyspark import StorageLevel

        return frame.persist(StorageLevel.MEMORY_AND_DISK)

    def _leaf(self, frame: DataFrame) -> DataFrame:
        """Return a kept frame as one that is planned as a source. A lost block is computed again.

        Otherwise each query over it would be planned with all that it is made of, as often as it reads it. A query
        reads only the columns that it needs.
        """
        from pyspark.sql.classic.dataframe import DataFrame as ClassicFrame

        kept, java, jvm = _java(frame._jdf), _java(self.session._jsparkSession), _java(self.session._jvm)
        relation = java.sharedState().cacheManager().lookupCachedData(kept).get().cachedRepresentation()
        return ClassicFrame(jvm.org.apache.spark.sql.classic.Dataset.ofRows(java, relation), self.session)

    def close(self) -> None:
        """Drop the tables and views."""
        views, self._views = self._views, []
        kept, self._kept = self._kept, []
        for name in reversed(views):
            self.session.catalog.dropTempView(name)
        for frame in reversed(kept):
            with suppress(Exception):  # the session may have ended, and its tables with it
                frame.unpersist()


class SparkRows:
    """The result of a statement."""

    def __init__(self, frame: DataFrame) -> None:
        self.frame = frame

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows. They must fit in the driver's memory."""
        return [tuple(row) for row in self.frame.collect()]

    def to_arrow_reader(self, rows: int) -> Iterator[Any]:
        """Yield the rows as record batches of at most `rows`, in the order of the query.

        In the driver are the batches of one task at a time.
        """
        import pyarrow as pa

        for packed in self.frame.mapInArrow(_packed, "batch binary").toLocalIterator():
            with pa.ipc.open_stream(packed[0]) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, rows):
                        yield batch.slice(start, rows)


def _java(held: Any) -> Any:
    """Return an object of Java, of whose methods Python's types know nothing."""
    return held


def _packed(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield each batch as one row that holds its bytes: a frame's own iterator makes a Python object of every value."""
    import pyarrow as pa

    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield pa.RecordBatch.from_arrays([pa.array([sink.getvalue().to_pybytes()], pa.binary())], ["batch"])
