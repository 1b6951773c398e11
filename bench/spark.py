"""Measure training sets on Spark beside DuckDB, on this machine.

make bench BENCH=spark ARGS="1000000"        # bookings, then rounds, executors, MiB of each

Both read the same Parquet parts of the shipped bookings, multiplied with new ids, run the same statements, and write
the training set of include/pipelines/hotel_bookings.yaml as Parquet in order of the key. DuckDB has the threads and the
memory of rempart.yaml; Spark has executors as processes of this machine, as `engine: spark` starts them. Parts are in a
folder: fetching and checking them is the same work for both. Seconds are of the clock and of the processors; a start of
Spark (JVM, session, executors) is told apart. Memory is the peak of the PSS of all processes: driver, executors, and
their Python workers. The bench compares both results. It needs `make setup-spark`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measured_process import Run, measured
from bench.report import Row, write
from rempart.spark import environment

if TYPE_CHECKING:
    import pyarrow as pa

EXECUTORS, EXECUTOR_MEMORY, DRIVER_MEMORY = 2, 1024, 1024


def on_duckdb(parts: Path, folder: Path) -> None:
    """Write the training set by DuckDB as duckdb.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bench.training_sets import BATCH, MEMORY, THREADS
    from rempart.features import training_set
    from rempart.features.parquet_store import joining, loading, scratch, training_sets
    from rempart.settings.pipelines import named, with_model

    pipeline = with_model(named("hotel_bookings"))
    files = [pq.ParquetFile(file) for file in sorted(parts.iterdir())]
    batches = (batch for file in files for batch in file.iter_batches(BATCH))
    rows = pa.RecordBatchReader.from_batches(files[0].schema_arrow, batches)
    place = folder / "scratch"
    place.mkdir()
    with scratch.created(scratch.ScratchDatabase(place, MEMORY, THREADS), "measure") as connection:
        loaded = loading.load(connection, pipeline, rows, None)
        views = [(view, joining.uniqueness(connection, view)) for view in joining.of_pipeline(pipeline)]
        entities = loading.in_duckdb(training_set.entity_query(pipeline))
        joined = joining.joined(entities, training_set.entity_columns(pipeline), "event_timestamp", views)
        reader = training_sets.ordered(connection, pipeline, joined, loaded.examples)
        with pq.ParquetWriter(folder / "duckdb.parquet", reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)


def on_spark(parts: Path, folder: Path, executors: int, memory: int) -> None:
    """Write the training set by Spark as spark/*.parquet. Print the seconds until the session stood."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rempart.features import training_set
    from rempart.features.parquet_store import joining, loading
    from rempart.flows.distributed.training_set import query
    from rempart.settings.pipeline_sections import SparkResources
    from rempart.settings.pipelines import named, with_model
    from rempart.spark import session
    from rempart.spark.connection import SparkConnection
    from rempart.spark.sites import one_task_each, spark_schema

    began = time.perf_counter()
    pipeline = with_model(named("hotel_bookings"))
    resources = SparkResources(executors=executors, cores=1, memory=memory, driver_memory=DRIVER_MEMORY)
    (folder / "spark").mkdir()
    with session.opened(resources, folder / "work") as spark, SparkConnection(spark) as connection:
        started = time.perf_counter() - began
        files = tuple(map(str, sorted(parts.iterdir())))
        schema = pq.read_schema(files[0])
        rows = one_task_each(spark, len(files)).mapInArrow(_Reader(files), spark_schema(schema))
        loading.load(connection, pipeline, rows, None)
        loaded = time.perf_counter() - began
        frame = connection.sql(query(connection, pipeline, joining.of_pipeline(pipeline))).frame
        stored = pa.schema(training_set.stored_kinds(pipeline).items())
        frame.mapInArrow(_Writer(pipeline, str(folder / "spark"), stored), "rows bigint").collect()
        told = {"start": started, "load": loaded - started, "join and write": time.perf_counter() - began - loaded}
    print(json.dumps({name: round(seconds, 1) for name, seconds in told.items()}))


@dataclass(frozen=True)
class _Reader:
    files: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        for batch in batches:
            for number in batch.column(0).to_pylist():
                with pq.ParquetFile(self.files[number]) as file:
                    yield from file.iter_batches(16_384)


@dataclass(frozen=True)
class _Writer:
    pipeline: Any
    folder: str
    stored: Any

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyspark import TaskContext

        from rempart.features import training_set
        from rempart.features.parquet_store import training_sets

        context = TaskContext.get()
        assert context is not None
        schema, rows = pa.schema(training_set.kinds(self.pipeline).items()), 0
        file = f"{self.folder}/{context.partitionId():05d}.parquet"
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in batches:
                rows += batch.num_rows
                writer.write_table(training_sets.finished(self.pipeline, batch, self.stored))
        yield pa.RecordBatch.from_pydict({"rows": [rows]})


def check_same(folder: Path) -> None:
    """Compare both training sets row by row: floats within 1e-9 of their size, all else exactly. Fails otherwise."""
    import duckdb

    from bench.training_sets import MEMORY

    ours, other = (f"read_parquet('{folder}/{of}')" for of in ("spark/*.parquet", "duckdb.parquet"))
    with duckdb.connect(config={"memory_limit": f"{MEMORY}MiB", "temp_directory": str(folder)}) as connection:
        kinds = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE FROM {other}").fetchall()}
        same = " AND ".join(
            f"(a.{name} IS NOT DISTINCT FROM b.{name}"
            f" OR coalesce(abs(a.{name} - b.{name}) <= 1e-9 * abs(b.{name}), false))"
            if kind == "DOUBLE"
            else f"a.{name} IS NOT DISTINCT FROM b.{name}"
            for name, kind in kinds.items()
        )
        counted = f"SELECT count(*), count(*) FILTER ({same}) FROM {ours} a FULL JOIN {other} b USING (booking_id)"  # noqa: S608
        ((rows, equal),) = connection.execute(counted).fetchall()
        assert rows == equal, (rows, equal)


def main(given: Sequence[str]) -> None:
    from bench.training_sets import multiplied

    numbers = [*map(int, given)]
    rows, rounds, executors, memory = numbers + [1_000_000, 1, EXECUTORS, EXECUTOR_MEMORY][len(numbers) :]
    cases: dict[str, list[Run]] = {"spark": [], "duckdb": []}
    interpreters = {"spark": str(environment.python()), "duckdb": sys.executable}
    steps: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        parts, log = Path(name) / "parts", Path(name) / "log"
        parts.mkdir()
        multiplied(rows, parts)
        for number in range(rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            for case, runs in cases.items():
                command = [
                    interpreters[case],
                    "-m",
                    "bench.spark",
                    case,
                    str(parts),
                    str(folder),
                    str(executors),
                    str(memory),
                ]
                run, told = measured(command, os.environ | {"TMPDIR": str(folder)}, log, proportional=True)
                runs.append(run)
                steps += [json.loads(told.splitlines()[-1])] if case == "spark" else []
            check_same(folder)
    shown = f"{rows:,} bookings, a training set"
    found = []
    for of, told, unit, scale in (
        ("seconds", "elapsed", "s", 1),
        ("cpu", "processor time", "s", 1),
        ("memory", "peak memory (PSS)", "MiB", 1 << 20),
    ):
        spark, peer = (round(statistics.median(getattr(run, of) for run in runs) / scale, 1) for runs in cases.values())
        found.append(Row(f"{shown}, {told}", unit, spark, peer, "DuckDB, the same statements", "lower"))
    runs = {case: [asdict(run) for run in of] for case, of in cases.items()}
    write("spark", found, steps=steps, executors=executors, executor_memory=memory, runs=runs)


if __name__ == "__main__":
    case, *rest = sys.argv[1:] or ["1000000"]
    if case == "duckdb":
        on_duckdb(Path(rest[0]), Path(rest[1]))
    elif case == "spark":
        on_spark(Path(rest[0]), Path(rest[1]), int(rest[2]), int(rest[3]))
    else:
        main(sys.argv[1:])
