"""Compare replication by this code and by another checkout's code, on the same two servers and the same objects.

make bench BENCH=replication_versions ARGS="../old"        the folder of the other checkout

Each case is written to the source once. Then both codes replicate it in turns, and each round begins with the other
one. Before each run, the target's bucket and the catalogue are emptied. The bench measures the call of `bring`, as
`bench.replication` does. After each run, a plain client lists and reads the target. At the start, each code probes both
sites itself, because it cannot read the other's record.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from bench.measured_process import Run
from bench.replication import SITES, Bench, Case, named
from bench.report import Row, write
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from tests.integration.own_servers import own_servers

ENOUGH = 0.95
"""The share of the other code's throughput that ours must reach in each case."""
MIB = 1 << 20
CASES = ((4_000, 10 << 10), (200, MIB), (8, 64 * MIB), (2, 512 * MIB))
"""Objects and bytes of each."""
PROBE = """
from rempart.flows.doctor import doctor_site
from rempart.flows.shared.platform import classification_of, open_platform
from rempart.settings.pipelines import load_all
platform = open_platform()
for name in ("primary", "haven"):
    doctor_site.probe(platform, platform.site(name, classification_of(load_all())), lambda line: None)
"""
_CATALOGUE = "TRUNCATE replica, comparison, lease"


def rounds_of(bench: Bench, other: Path, rounds: int, count: int, size: int) -> tuple[Case, dict[str, list[Run]]]:
    """Replicate one case by both codes, in turns."""
    unit, name = ("objects/s", f"{size >> 10} KiB") if size < MIB else ("MB/s", f"{size // MIB} MiB")
    case = Case(f"{count:,} x {name}", count, count * size, unit)
    bucket = f"bench-{count}-of-{size >> 10}-kib"
    bench.site(SITES[0]).ensure_bucket(bucket, versioned=True)
    bench.tell(f"{case.name} written in {bench.seed(bucket, named(count), size):.0f} s")
    url = bench.servers.connections("pg_continuity").postgresql_url()
    found: dict[str, list[Run]] = {"ours": [], "other": []}
    for number in range(rounds):
        for who in sorted(found, reverse=bool(number % 2)):
            bench.site(SITES[1]).ensure_bucket(bucket, versioned=True)
            with psycopg.connect(url, autocommit=True) as server:
                server.execute(_CATALOGUE)
            code = other if who == "other" else config.project_root()
            bench.run_code(code, PROBE)
            run, result = bench.ours(bucket, code)
            if (result["copied"], result["failures"]) != (count, 0):
                raise SystemExit(f"{case.name}, {who}: {result}")
            found[who].append(replace(run, cpu=run.cpu - bench.starts[-1]))  # without Python's imports
            bench.verify(bucket)
            bench.client(SITES[1]).delete_bucket(Bucket=bucket)
        last = {who: f"{case.speed(runs[-1]):.1f} {case.unit} ({runs[-1].cpu:.2f} s)" for who, runs in found.items()}
        bench.tell(f"  {number + 1}: {last}")
    bench.client(SITES[0]).delete_bucket(Bucket=bucket)
    return case, found


def rows_of(case: Case, found: dict[str, list[Run]]) -> list[Row]:
    """Return medians of speed and of the client's CPU time."""

    def middle(who: str, of: Callable[[Run], float]) -> float:
        return round(statistics.median(map(of, found[who])), 3)

    ours, theirs = (middle(who, case.speed) for who in ("ours", "other"))
    mine, others = (middle(who, lambda run: run.cpu) for who in ("ours", "other"))
    return [
        Row(case.name, case.unit, ours, theirs, "the other checkout", "higher"),
        Row(f"{case.name}, processor time of the client", "s", mine, others, "the other checkout", "lower"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="their numbers, from 0")
    chosen = parser.parse_args()
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as name,
        own_servers(Path(name) / "var", ("postgresql", *(f"site-{site}" for site in SITES))) as servers,
    ):
        platform = Platform(config.load(), servers.connections)
        bench = Bench(servers, platform, Path(name), random.Random(1), time.monotonic())  # noqa: S311 # a sample
        for number in chosen.cases:
            rows += rows_of(*rounds_of(bench, chosen.other.resolve(), chosen.rounds, *CASES[number]))
    fine = all(row.ours >= ENOUGH * row.peer for row in rows if row.better_is == "higher")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write("replication_versions", rows, ok=fine, rounds=chosen.rounds, at=at, other=chosen.other.name)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
