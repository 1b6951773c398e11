"""Measure the ingestion engine beside plain conversions of the same file to Parquet.

make bench BENCH=ingest ARGS="1000000 csv parquet"      # rows, then rounds, forms and cases
make bench BENCH=ingest ARGS="10000000 1 csv whole"     # ten million rows once: ours and the peers
make bench BENCH=ingest ARGS="10000000 1 csv more"      # the same rows, then one hundredth more; no peer

The file holds the hotel bookings, multiplied with new ids. Ours is typed, judged by Great Expectations, deduplicated,
written as parts by month, identified by the hash of its rows, and committed to an S3 site on this machine, each object
read back: the steps of an ingestion run without its raw copy and its evidence. Peers: DuckDB's conversion with its own
types, and that of Polars where it is installed. Each runs in a process of its own, one after the other; the table has
medians. Then one hundredth more rows, newest in time, are taken in, beside the snapshot at the site.

The start of a process and the import of all packages are no part of the steps: a worker of Airflow has loaded them
once, and forks for each task. `as a worker` compares the steps alone; the other rows are whole processes.

Seconds are those of the processors (user and system, of all processes of a case, the S3 server apart): other work on
the machine disturbs them less than the clock. Memory is the peak of the PSS of all processes.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measured_process import Run, measured
from bench.report import Row, write

if TYPE_CHECKING:
    from rempart.settings.config import Connection

SITE = "primary"
ROUNDS, THREADS, MEMORY = 3, 2, 768 << 20
SAMPLE = Path("data/hotel_bookings.csv.gz")
FIRST_ID = 1_000_000
NEWEST = "2017-08"
STEPS = ("start", "read", "judge", "new rows", "identity", "commit")
CASES = ("whole", "more")
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


def ours(file: Path, folder: Path, place: Path, *, few: bool) -> None:
    """Take a delivery in, as an ingestion run does, and commit the snapshot. `place`: facts of the site.

    `few`: this process judges the rows itself, so it loads Great Expectations as it starts.
    """
    from rempart.coordination.active import Active
    from rempart.flows.ingestion import ingest_run
    from rempart.flows.ingestion.ingest_run import IngestionRun
    from rempart.ingestion import expectations, snapshots
    from rempart.settings import config
    from rempart.settings.config import Connection
    from rempart.settings.pipelines import named
    from rempart.sites.s3.site import S3Site
    from rempart.sovereignty.places import decide_site

    if few:
        expectations.load()
    spent = [0.0, _spent()]
    facts = json.loads(place.read_text())
    pipeline, now = named("hotel_bookings"), datetime.now(UTC)
    source = pipeline.source.model_copy(update={"format": file.suffix[1:]})
    pipeline = pipeline.model_copy(update={"source": source})
    most = {"memory": MEMORY >> 20, "threads": THREADS, "largest_delivery": 1 << 20}
    loaded = config.load()
    loaded = loaded.model_copy(
        update={
            "ingestion": loaded.ingestion.model_copy(update=most),
            "buckets": loaded.buckets.model_copy(update={"lake": facts["bucket"]}),
        }
    )
    connection = Connection(**facts["connection"])
    endpoint = connection.extra["endpoint_url"]
    permission = decide_site(loaded, pipeline.classification, "data", SITE, on=now.date(), endpoint=endpoint)
    site = S3Site(SITE, connection, loaded.sites[SITE].region, permission)
    site.ensure_bucket(facts["bucket"], versioned=True)
    no_ledger: Any = None  # evidence is not measured
    run = IngestionRun(no_ledger, loaded, pipeline, Active(0, SITE), site, now)
    before = snapshots.current(site, facts["bucket"], pipeline.name)
    read = ingest_run.read(run, file, file.name, folder)
    ingest_run.end_reading(read.delivered)
    spent.append(_spent())
    (judged,) = ingest_run.judged(run, [read], folder)
    spent.append(_spent())
    known = ingest_run.known_rows(run, before, folder)
    taken = ingest_run.decide(run, [judged], known, folder)
    spent.append(_spent())
    snapshot, added = ingest_run.draw_up(run, before, known, taken, folder)
    spent.append(_spent())
    ingest_run.commit(run, snapshot, added)
    spent.append(_spent())
    steps = dict(zip(STEPS, (after - began for began, after in itertools.pairwise(spent)), strict=True))
    (delivery,) = taken.deliveries
    print(
        json.dumps(steps),
        f"snapshot {snapshot.id}: {taken.accepted} rows in {len(added)} new parts, {len(delivery.refused)} refused, "
        f"{delivery.fault}; " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items()),
        sep="\n",
    )


def _spent() -> float:
    """Return the processor time of this process and of its children that have ended."""
    own, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


@contextmanager
def stored(place: Path) -> Iterator[Connection]:
    """Start an S3 site, SeaweedFS, and yield its connection. Its work is not measured."""
    from rempart.settings import config
    from tests.integration.own_servers import own_servers

    with own_servers(place / "var", (f"site-{SITE}",)) as servers:
        yield servers.connections(config.load().sites[SITE].connection)


def main(rows: int, forms: list[str], rounds: int, cases: list[str]) -> None:
    load = os.getloadavg()[0]
    table: list[Row] = []
    clock: dict[str, float] = {}
    peers = [name for name in NAMES if find_spec(name) and "whole" in cases]
    others = ("more",) if "more" in cases else ()
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as place, stored(Path(place)) as connection:
        whole, more = Path(place) / "bookings.csv", Path(place) / "more.csv"
        multiplied(rows, whole)
        multiplied(rows // 100, more, first=FIRST_ID + rows, only=NEWEST)
        for form in forms:
            file, addition = other_form(whole, form), other_form(more, form)
            runs: dict[str, list[Run]] = {name: [] for name in ("ours", *others, *peers)}
            works: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(rounds):
                for who in runs:
                    folder = Path(place) / f"{who}-{form}-{number}"
                    folder.mkdir()
                    facts = folder / "site.json"
                    facts.write_text(json.dumps({"bucket": f"lake-{form}-{number}", "connection": asdict(connection)}))
                    command = [sys.executable, "-m", "bench.ingest", who, str(addition if who == "more" else file)]
                    command += [str(folder), str(facts)]
                    run, output = measured(command, dict(os.environ), folder / "log", proportional=True)
                    print(
                        who, form, f"{run.cpu:.1f} s of processors, {run.seconds:.1f} s, {run.memory / 2**20:.0f} MiB"
                    )
                    if output:
                        steps, told = output.splitlines()
                        works[who].append(sum(s for step, s in json.loads(steps).items() if step != "start"))
                        print("   ", told, flush=True)
                    runs[who].append(run)
                    shutil.rmtree(folder)
            work = {who: statistics.median(some) for who, some in works.items() if some}
            table += _rows(f"{rows:,} rows, {form}", runs, peers, work)
            clock |= {f"{who}, {form}": statistics.median(run.seconds for run in some) for who, some in runs.items()}
    name = "_".join(["ingest", *([] if rows == 1_000_000 else [str(rows), *forms, *cases])])
    write(name, table, load=[load, os.getloadavg()[0]], clock=clock)


def _rows(case: str, runs: dict[str, list[Run]], peers: list[str], work: dict[str, float]) -> list[Row]:
    cpu = {who: statistics.median(run.cpu for run in some) for who, some in runs.items()}
    memory = {who: statistics.median(run.memory for run in some) / 2**20 for who, some in runs.items()}
    made = []
    for peer in peers:
        made.append(Row(case, "s", cpu["ours"], cpu[peer], NAMES[peer], "lower"))
        made.append(Row(f"{case}, peak memory", "MiB", memory["ours"], memory[peer], NAMES[peer], "lower"))
    if "more" in cpu:
        made.append(Row(f"{case}, then 1 % more", "s", cpu["more"], cpu["ours"], "the whole", "lower"))
        made.append(Row(f"{case}, then 1 % more, as a worker", "s", work["more"], work["ours"], "the whole", "lower"))
    return made


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["duckdb", file, folder, _]:
            by_duckdb(Path(file), Path(folder))
        case ["polars", file, folder, _]:
            by_polars(Path(file), Path(folder))
        case ["ours" | "more" as who, file, folder, facts]:
            ours(Path(file), Path(folder), Path(facts), few=who == "more")
        case words:
            counts = [int(word) for word in words if word.isdigit()]
            chosen = [word for word in words if word in ("csv", "parquet", "jsonl")]
            cases = [word for word in words if word in CASES]
            rounds = counts[1] if counts[1:] else ROUNDS
            main(counts[0] if counts else 1_000_000, chosen or ["csv", "parquet"], rounds, cases or list(CASES))
