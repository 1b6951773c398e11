"""Measure the ingestion engine beside DuckDB's plain conversion of the same file to Parquet.

make bench BENCH=ingest_engine ARGS="1000000"

The file holds the hotel bookings, multiplied with new ids. Ours is typed, judged row by row, deduplicated, hashed and
written as parts by month; the peer reads the CSV file with DuckDB's own types and writes one Parquet file. Each runs
in a process of its own, one after the other, three times; the table has the medians. `ARGS="1000000 --no-expectations"`
leaves Great Expectations out.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.measured_process import Run, measured
from bench.report import Row, write

ROUNDS, THREADS, MEMORY = 3, 2, 1 << 30
SAMPLE = Path("data/hotel_bookings.csv.gz")


def multiplied(rows: int, file: Path) -> None:
    """Write `rows` bookings: the shipped ones again and again, each with an id of its own."""
    header, *lines = gzip.decompress(SAMPLE.read_bytes()).decode().splitlines()
    rest = [line.partition(",")[2] for line in lines]
    with file.open("w", encoding="utf-8") as target:
        target.write(header + "\n")
        for number in range(rows):
            target.write(f"{1_000_000 + number},{rest[number % len(rest)]}\n")


def peer(file: Path, folder: Path) -> None:
    import duckdb

    with duckdb.connect(config={"memory_limit": f"{MEMORY}B", "threads": THREADS}) as connection:
        connection.execute(f"COPY (FROM read_csv('{file}')) TO '{folder / 'peer.parquet'}' (COMPRESSION zstd)")


def ours(file: Path, folder: Path, judged: bool) -> None:
    from rempart.ingestion import expectations
    from rempart.ingestion.engine import deliveries, identity, parts
    from rempart.ingestion.engine.database import opened, parquet
    from rempart.ingestion.engine.limits import Limits, Resources
    from rempart.ingestion.parsing.schema import snapshot_columns
    from rempart.settings.pipelines import named

    pipeline = named("hotel_bookings")
    resources = Resources(MEMORY, THREADS, folder / "spill")
    started = time.perf_counter()
    outcome = deliveries.take_in(
        [file],
        [],
        pipeline,
        folder,
        resources,
        Limits(rows=1 << 40, lines=1 << 40),
        lambda table: expectations.broken(pipeline.expectations, table) if judged else {},
    )
    taken = time.perf_counter()
    columns = snapshot_columns(pipeline)
    with opened(resources, [folder]) as connection:
        written = parquet([part.file for part in outcome.parts])
        found = identity.by_duckdb(connection, written, columns, parts.period_of(pipeline))
    done = time.perf_counter()
    snapshot = identity.content_id(columns, pipeline.key, pipeline.partition_by, pipeline.partition_every, found)
    delivery = outcome.deliveries[0]
    print(
        f"snapshot {snapshot}: {sum(part.rows for part in outcome.parts)} rows in {len(outcome.parts)} parts, "
        f"{len(delivery.refused)} refused, {delivery.fault}; {taken - started:.1f} s, identity {done - taken:.1f} s"
    )


def main(rows: int, judged: bool) -> None:
    runs: dict[str, list[Run]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as place:
        file = Path(place) / "bookings.csv"
        multiplied(rows, file)
        for number in range(ROUNDS):
            for who in runs:
                folder = Path(place) / f"{who}-{number}"
                folder.mkdir()
                command = [sys.executable, "-m", "bench.ingest_engine", who, str(file), str(folder), str(int(judged))]
                run, output = measured(command, dict(os.environ), folder / "log")
                print(who, f"{run.seconds:.1f} s, {run.memory / 2**20:.0f} MiB", output.strip())
                runs[who].append(run)
    case = f"{rows} rows of CSV" + ("" if judged else ", without expectations")
    seconds = {who: statistics.median(run.seconds for run in some) for who, some in runs.items()}
    memory = {who: statistics.median(run.memory for run in some) / 2**20 for who, some in runs.items()}
    name = "DuckDB's CSV to Parquet"
    write(
        "ingest_engine",
        [
            Row(case, "s", seconds["ours"], seconds["peer"], name, "lower"),
            Row(f"{case}, peak memory", "MiB", memory["ours"], memory["peer"], name, "lower"),
        ],
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", file, folder, _]:
            peer(Path(file), Path(folder))
        case ["ours", file, folder, judged]:
            ours(Path(file), Path(folder), judged == "1")
        case arguments:
            counts = [int(word) for word in arguments if not word.startswith("-")]
            main(counts[0] if counts else 1_000_000, "--no-expectations" not in arguments)
