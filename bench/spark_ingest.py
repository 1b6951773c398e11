"""Measure ingestion on Spark beside DuckDB, on this machine, at an S3 site.

make bench BENCH=spark_ingest ARGS="1000000"        # bookings, in eight deliveries

Both take the same deliveries in by the same flow: fetch, read, judge, deduplicate, identify, write, read back, commit.
The evidence stays in memory. DuckDB has the threads and the memory of rempart.yaml; Spark is a job of `engine: spark`,
with two executors as processes of this machine. The S3 server is not measured. Seconds are of the clock and of the
processors; memory is the peak of the PSS of all processes. The bench compares the ids of both snapshots. It needs
`make setup-spark`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.measured_process import Run, measured
from bench.report import Row, write

FILES = 8
EXECUTORS, EXECUTOR_MEMORY, DRIVER_MEMORY = 2, 1024, 1024
ENGINES = ("spark", "duckdb")


def take_in(engine: str, facts: Path) -> None:
    """Ingest what waits at a site on an engine. Print the snapshot's id."""
    from rempart.flows.ingestion.ingest import ingest
    from rempart.flows.shared.platform import Platform
    from rempart.ledger.memory import MemoryLedger
    from rempart.replication.continuity import MemoryContinuity
    from rempart.settings import config
    from rempart.settings.config import Connection
    from rempart.settings.pipelines import named

    told = json.loads(facts.read_text())
    loaded = config.load()
    loaded = loaded.model_copy(update={"buckets": loaded.buckets.model_copy(update=told["buckets"])})
    connection = Connection(**told["connection"])
    platform = Platform(loaded, lambda name: connection, ledger_=MemoryLedger(), continuity_=MemoryContinuity())
    resources = {"executors": EXECUTORS, "cores": 1, "memory": EXECUTOR_MEMORY, "driver_memory": DRIVER_MEMORY}
    pipeline = named("hotel_bookings")
    spark = pipeline.spark.model_copy(update=resources)
    result = ingest(platform, pipeline.model_copy(update={"engine": engine, "spark": spark}))
    print(json.dumps({"snapshot": result.snapshot, "rows": result.total_rows, "hint": result.hint}))


def deliver(connection: object, rows: int, place: Path) -> None:
    """Put the deliveries into the landing bucket of each engine."""
    from bench.ingest import FIRST_ID, SITE, multiplied
    from rempart.settings import config
    from rempart.settings.config import Connection
    from rempart.settings.pipelines import named
    from rempart.sites.s3.site import S3Site
    from rempart.sovereignty.places import decide_site

    assert isinstance(connection, Connection)
    loaded, pipeline = config.load(), named("hotel_bookings")
    endpoint = connection.extra["endpoint_url"]
    permission = decide_site(
        loaded, pipeline.classification, "data", SITE, on=datetime.now(UTC).date(), endpoint=endpoint
    )
    site = S3Site(SITE, connection, loaded.sites[SITE].region, permission)
    file = place / "delivery.csv"
    for number in range(FILES):
        multiplied(rows // FILES, file, first=FIRST_ID + number * (rows // FILES))
        for engine in ENGINES:
            for bucket in (f"landing-{engine}", f"lake-{engine}"):
                site.ensure_bucket(bucket, versioned=True)
            site.write(f"landing-{engine}", f"{pipeline.source.prefix}{number}.csv", file.read_bytes())
    file.unlink()


def main(given: Sequence[str]) -> None:
    from bench.ingest import stored

    rows = int(given[0]) if given else 1_000_000
    runs: dict[str, Run] = {}
    snapshots: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as name, stored(Path(name)) as connection:
        place = Path(name)
        deliver(connection, rows, place)
        for engine in ENGINES:
            facts = place / f"{engine}.json"
            buckets = {"landing": f"landing-{engine}", "lake": f"lake-{engine}"}
            facts.write_text(json.dumps({"buckets": buckets, "connection": asdict(connection)}))
            command = [sys.executable, "-m", "bench.spark_ingest", engine, str(facts)]
            runs[engine], output = measured(command, dict(os.environ), place / "log", proportional=True)
            snapshots[engine] = json.loads(output.splitlines()[-1])["snapshot"]
            print(engine, output.splitlines()[-1], runs[engine], flush=True)
    assert snapshots["spark"] == snapshots["duckdb"], snapshots
    shown, spark, peer = f"{rows:,} bookings, ingestion", runs["spark"], runs["duckdb"]
    name = "DuckDB, the same flow"
    found = [
        Row(f"{shown}, elapsed", "s", round(spark.seconds, 1), round(peer.seconds, 1), name, "lower"),
        Row(f"{shown}, processor time", "s", round(spark.cpu, 1), round(peer.cpu, 1), name, "lower"),
        Row(
            f"{shown}, peak memory (PSS)", "MiB", round(spark.memory / 2**20), round(peer.memory / 2**20), name, "lower"
        ),
    ]
    write("spark_ingest" if rows == 1_000_000 else f"spark_ingest_{rows}", found)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["duckdb" | "spark" as engine, facts]:
            take_in(engine, Path(facts))
        case words:
            main(words)
