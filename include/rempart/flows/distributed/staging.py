"""Read, type and judge deliveries in executors, by the functions that ingestion uses here.

A task has one large delivery or several small ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import PipelineError, SparkError
from rempart.ingestion import isolated, landing
from rempart.ingestion.engine.batches import LINE
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.engine.staging import staged_schema
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.judging.distinct import DistinctValues
from rempart.ingestion.refused import REASONS, RefusedRows
from rempart.ingestion.refused import schema as refused_schema
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder
from rempart.spark.order import InputObject
from rempart.spark.sites import OpenSite, one_task_each, spark_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

DELIVERY, KIND = "_delivery", "_kind"
"""Columns of staged rows: the position of their delivery, and the kind of a row."""
GOOD, REFUSED, SUMMARY = 0, 1, 2
_TOLD = "_told"
"""Column of a summary: the facts of a delivery, as JSON."""
_ROWS = 20_000
_TOGETHER = 16 << 20
"""Bytes of deliveries in one task, unless it has only one: each call of the expectations has its own cost."""


def groups(sizes: Sequence[int], slots: int) -> list[tuple[int, ...]]:
    """Return the positions of deliveries that are read in one task each, in order. Pure.

    `sizes`: bytes of each; `slots`: tasks that run at the same time, which should all have work.
    """
    most = min(_TOGETHER, -(-sum(sizes) // max(1, slots)))
    found: list[tuple[int, ...]] = []
    size = 0
    for position, bytes_ in enumerate(sizes):
        if found and size + bytes_ <= most:
            found[-1] += (position,)
            size += bytes_
        else:
            found.append((position,))
            size = bytes_
    return found


def staged(
    session: SparkSession,
    open_site: OpenSite,
    deliveries: tuple[InputObject, ...],
    pipeline: Pipeline,
    limits: Limits,
    struck: Mapping[str, Sequence[int]] | None = None,
) -> DataFrame:
    """Return the good and refused rows of deliveries, and one row that tells of each. Nothing is read yet.

    `struck`: by the SHA-256 of a delivery the lines of erased rows, which are refused without their text.
    """
    tasks = groups([delivery.bytes for delivery in deliveries], session.sparkContext.defaultParallelism)
    stager = _Stager(open_site, deliveries, tuple(tasks), pipeline, limits, dict(struck or {}))
    return one_task_each(session, len(tasks)).mapInArrow(stager, spark_schema(_schema(pipeline)))


def told(rows: list[tuple[int, str]], refused: Sequence[RefusedRows]) -> list[StagedDelivery]:
    """Return the deliveries that summaries (position, text) tell of, in order, with their refused rows.

    Raises PipelineError, and SparkError if a delivery, or a refused row of one that has no fault, is missing.
    """
    if [position for position, _ in sorted(rows)] != [*range(len(refused))]:
        raise SparkError("read deliveries on Spark: it told of another number of them", "Run the job again.")
    found = []
    for (_, text), some in zip(sorted(rows), refused, strict=True):
        facts = json.loads(text)
        if error := facts.get("error"):
            raise PipelineError(*error)
        if not facts["fault"] and facts["refused"] != len(some):
            raise SparkError(
                f"read deliveries on Spark: of {facts['refused']} refused rows {len(some)} came", "Run the job again."
            )
        found.append(StagedDelivery(Path(), facts["good"], facts["judged"], refused=some, fault=facts["fault"]))
    return found


def _schema(pipeline: Pipeline) -> pa.Schema:
    import pyarrow as pa

    more = [(DELIVERY, pa.int32()), (KIND, pa.int8()), (REASONS, pa.list_(pa.string())), (_TOLD, pa.string())]
    return pa.schema([*staged_schema(pipeline), *(pa.field(name, type_) for name, type_ in more)])


@dataclass(frozen=True)
class _Stager:
    """Stages the deliveries of the groups whose numbers come in."""

    open_site: OpenSite
    deliveries: tuple[InputObject, ...]
    groups: tuple[tuple[int, ...], ...]
    pipeline: Pipeline
    limits: Limits
    struck: Mapping[str, Sequence[int]]

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                with spool_folder() as folder:
                    yield from self._staged(self.groups[number], folder)

    def _staged(self, numbers: tuple[int, ...], folder: Path) -> Iterator[Any]:
        site, read, lines = self.open_site(), list[StagedDelivery](), list[Sequence[int]]()
        for number in numbers:
            delivery = self.deliveries[number]
            file = folder / delivery.sha256
            landing.fetch(site, delivery.bucket, delivery.key, file, delivery.sha256)
            read.append(isolated.stage(file, delivery.name, self.pipeline, self.limits, folder / f"read-{number}"))
            file.unlink()
            lines.append(self.struck.get(delivery.sha256, ()))
        judge = DistinctValues(self.pipeline.expectations)
        try:
            found = typed_rows.judged(read, judge, self.limits, folder / "judged", lines, columns=judge.columns)
        except PipelineError as error:  # the pipeline is wrong: another try of this task would not help
            for number in numbers:
                yield from self._summary(number, {"error": [error.what, error.hint]})
            return
        for number, judged in zip(numbers, found, strict=True):
            if not judged.fault:
                for table in _good(judged):
                    yield from self._rows(number, table, GOOD)
                yield from self._rows(number, judged.refused.table, REFUSED)
            facts = {"good": judged.good, "judged": judged.judged, "fault": judged.fault}
            yield from self._summary(number, facts | {"refused": len(judged.refused)})

    def _summary(self, number: int, facts: Mapping[str, Any]) -> Iterator[Any]:
        import pyarrow as pa

        yield from self._rows(number, pa.table({LINE: pa.array([0], pa.int64())}), SUMMARY, json.dumps(facts))

    def _rows(self, number: int, table: pa.Table, kind: int, text: str | None = None) -> Iterator[Any]:
        """Yield rows of a delivery in the form of all staged rows."""
        import pyarrow as pa

        schema = _schema(self.pipeline)
        given = {
            DELIVERY: pa.repeat(pa.scalar(number, pa.int32()), table.num_rows),
            KIND: pa.repeat(pa.scalar(kind, pa.int8()), table.num_rows),
            _TOLD: pa.repeat(pa.scalar(text, pa.string()), table.num_rows),
        }
        given |= {name: table[name] for name in table.column_names}
        columns = [
            given[field.name].cast(field.type) if field.name in given else pa.nulls(table.num_rows, field.type)
            for field in schema
        ]
        nullable = pa.schema([pa.field(field.name, field.type) for field in schema])
        yield from pa.table(columns, nullable).combine_chunks().to_batches(max_chunksize=_ROWS)


def _good(delivery: StagedDelivery) -> Iterator[Any]:
    """Yield the good rows of a delivery on this disk."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    gone = pq.read_table(delivery.left_out)[LINE].combine_chunks() if delivery.left_out else None
    with pq.ParquetFile(delivery.file) as source:
        for batch in source.iter_batches(_ROWS):
            table = pa.Table.from_batches([batch])
            yield table if gone is None else table.filter(pc.invert(pc.is_in(table[LINE], value_set=gone)))


def refused_of(rows: Iterator[Any], count: int) -> list[RefusedRows]:
    """Return the refused rows of each delivery from batches of staged rows (`DELIVERY`, and the refused columns)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: list[list[pa.Table]] = [[] for _ in range(count)]
    for batch in rows:
        table = pa.Table.from_batches([batch])
        for number in pc.unique(table[DELIVERY]).to_pylist():
            some = table.filter(pc.equal(table[DELIVERY], number)).select(refused_schema().names)
            found[number].append(some.cast(refused_schema()))
    empty = refused_schema().empty_table()
    return [RefusedRows(pa.concat_tables([empty, *tables])).sorted() for tables in found]
