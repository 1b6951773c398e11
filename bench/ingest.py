"""Measure the ingestion engine beside plain conversions of the same file to Parquet.

make bench BENCH=ingest ARGS="1000000 csv parquet"

The file holds the hotel bookings, multiplied with new ids. Ours is typed, judged by Great Expectations, deduplicated,
written as parts by month and identified by the hash of its rows. Peers: DuckDB's conversion with its own types, and
that of Polars where it is installed. Each runs in a process of its own, one after the other; the table has medians.
Then one hundredth more rows, newest in time, are taken in beside the parts of the first run.

Seconds are those of the processors (user and system, of all processes of a case): other work on the machine disturbs
them less than the clock. Memory is the peak of the PSS of all processes.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.measured_process import Run, measured
from bench.report import Row, write

ROUNDS, THREADS, MEMORY = 3, 2, 768 << 20
SAMPLE = Path("data/hotel_bookings.csv.gz")
FIRST_ID = 1_000_000
NEWEST = "2017-08"
NAMES = {"duckdb": "DuckDB's conversion to Parquet", "polars": "Polars' conversion to Parquet"}


def multiplied(rows: int, file: Path, *, first: int = FIRST_ID, only: str = "") -> None:
    """Write `rows` bookings: the shipped ones again and again, each with an id of its own. `only`: those of a month."""
    header, *lines = gzip.decompress(SAMPLE.read_bytes()).decode().splitlines()
    rest = [line.partition(",")[2] for line in lines if not only or line.rpartition(",")[2].startswith(only)]
    with file.open("w", encoding="utf-8") as target:
        target.write(header + "\n")
        for number in range(rows):
            target.write(f"{first + number},{rest[number % len(rest)]}\n")


def other_form(file: Path, form: str) -> Path:
    """Return the rows of a CSV file as Parquet or JSON Lines, written by DuckDB."""
    if form == "csv":
        return file
    import duckdb

    target = file.with_suffix(f".{form}")
    how = "FORMAT parquet, COMPRESSION zstd" if form == "parquet" else "FORMAT json"
    with duckdb.connect(config={"memory_limit": f"{MEMORY}B", "threads": THREADS}) as connection:
        connection.execute(f"COPY (FROM read_csv('{file}')) TO '{target}' ({how})")
    return target


def by_duckdb(file: Path, folder: Path) -> None:
    import duckdb

    read = {".csv": "read_csv", ".parquet": "read_parquet", ".jsonl": "read_json"}[file.suffix]
    with duckdb.connect(config={"memory_limit": f"{MEMORY}B", "threads": THREADS}) as connection:
        connection.execute(f"COPY (FROM {read}('{file}')) TO '{folder / 'peer.parquet'}' (COMPRESSION zstd)")


def by_polars(file: Path, folder: Path) -> None:
    import polars

    scan: dict[str, Any] = {
        ".csv": polars.scan_csv,
        ".parquet": polars.scan_parquet,
        ".jsonl": polars.scan_ndjson,
    }
    scan[file.suffix](file).sink_parquet(folder / "peer.parquet", compression="zstd")


def ours(file: Path, folder: Path, before: Path | None) -> None:
    """Take a delivery in. `before`: the folder of an earlier run, whose rows are known."""
    from rempart.ingestion.engine import deliveries, identity, parts
    from rempart.ingestion.engine.database import opened, parquet
    from rempart.ingestion.engine.limits import Limits, Resources
    from rempart.ingestion.judging.pool import judging
    from rempart.ingestion.snapshots import snapshot_columns
    from rempart.settings.pipelines import named

    pipeline = named("hotel_bookings")
    resources = Resources(MEMORY, THREADS, folder / "spill")
    earlier = json.loads((before / "snapshot.json").read_text()) if before else {"parts": [], "contents": []}
    known = [Path(file) for _, file in earlier["parts"]]
    started = time.perf_counter()
    with judging(pipeline.expectations, THREADS) as judge:
        limits = Limits(bytes=1 << 40, rows=1 << 40, lines=1 << 40)
        outcome = deliveries.take_in([file], known, pipeline, folder, resources, limits, judge)
    taken = time.perf_counter()
    columns = snapshot_columns(pipeline)
    made = [(part.partition, str(part.file)) for part in outcome.parts]
    touched = {partition for partition, _ in made}
    rows = [Path(file) for partition, file in [*earlier["parts"], *made] if partition in touched]
    with opened(resources, [folder, *({before} if before else ())]) as connection:
        found = identity.by_duckdb(connection, parquet(rows), columns, parts.period_of(pipeline))
    contents = [identity.PartitionContent(*content) for content in earlier["contents"] if content[0] not in touched]
    contents += found
    done = time.perf_counter()
    snapshot = identity.content_id(columns, pipeline.key, pipeline.partition_by, pipeline.partition_every, contents)
    (folder / "snapshot.json").write_text(
        json.dumps(
            {
                "parts": [*earlier["parts"], *made],
                "contents": [[content.partition, content.rows, content.sha256] for content in contents],
            }
        )
    )
    delivery = outcome.deliveries[0]
    print(
        f"snapshot {snapshot}: {sum(part.rows for part in outcome.parts)} rows in {len(outcome.parts)} parts, "
        f"{len(delivery.refused)} refused, {delivery.fault}; {taken - started:.1f} s, identity {done - taken:.1f} s"
    )


def main(rows: int, forms: list[str], rounds: int) -> None:
    load = os.getloadavg()[0]
    table: list[Row] = []
    clock: dict[str, float] = {}
    peers = [name for name in NAMES if find_spec(name)]
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as place:
        whole, more = Path(place) / "bookings.csv", Path(place) / "more.csv"
        multiplied(rows, whole)
        multiplied(rows // 100, more, first=FIRST_ID + rows, only=NEWEST)
        for form in forms:
            file, addition = other_form(whole, form), other_form(more, form)
            runs: dict[str, list[Run]] = {name: [] for name in ("ours", "more", *peers)}
            for number in range(rounds):
                for who in runs:
                    folder = Path(place) / f"{who}-{form}-{number}"
                    folder.mkdir()
                    before = str(Path(place) / f"ours-{form}-{number}") if who == "more" else ""
                    command = [sys.executable, "-m", "bench.ingest", who, str(addition if who == "more" else file)]
                    command += [str(folder), before]
                    run, output = measured(command, dict(os.environ), folder / "log", proportional=True)
                    print(
                        who, form, f"{run.cpu:.1f} s of processors, {run.seconds:.1f} s, {run.memory / 2**20:.0f} MiB"
                    )
                    print("   ", output.strip(), flush=True)
                    runs[who].append(run)
            table += _rows(f"{rows:,} rows, {form}", runs, peers)
            clock |= {f"{who}, {form}": statistics.median(run.seconds for run in some) for who, some in runs.items()}
    write("ingest" if rows == 1_000_000 else f"ingest_{rows}", table, load=[load, os.getloadavg()[0]], clock=clock)


def _rows(case: str, runs: dict[str, list[Run]], peers: list[str]) -> list[Row]:
    cpu = {who: statistics.median(run.cpu for run in some) for who, some in runs.items()}
    memory = {who: statistics.median(run.memory for run in some) / 2**20 for who, some in runs.items()}
    made = []
    for peer in peers:
        made.append(Row(case, "s", cpu["ours"], cpu[peer], NAMES[peer], "lower"))
        made.append(Row(f"{case}, peak memory", "MiB", memory["ours"], memory[peer], NAMES[peer], "lower"))
    made.append(Row(f"{case}, then 1 % more", "s", cpu["more"], cpu["ours"], "the whole", "lower"))
    return made


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["duckdb", file, folder, _]:
            by_duckdb(Path(file), Path(folder))
        case ["polars", file, folder, _]:
            by_polars(Path(file), Path(folder))
        case ["ours" | "more", file, folder, before]:
            ours(Path(file), Path(folder), Path(before) if before else None)
        case words:
            counts = [int(word) for word in words if word.isdigit()]
            chosen = [word for word in words if word in ("csv", "parquet", "jsonl")]
            main(counts[0] if counts else 1_000_000, chosen or ["csv", "parquet"], counts[1] if counts[1:] else ROUNDS)
