"""Replicate one site to another by Rempart, beside rclone, on servers of the bench's own.

make bench BENCH=replication        ARGS="--keys 200000" adds a pass over that many keys with nothing to do

The bench starts two SeaweedFS servers and a PostgreSQL. rclone runs twice beside each of our runs: as `sync --transfers
16 --checksum`, which verifies nothing after the copy, and as the same followed by `check --download`, which reads both
sides. Each run is a process of its own, and each side has its own buckets. Our time is measured from the call of
`bring` to its return, rclone's from its start to its end. CPU time (user and system) and peak memory are those of the
whole process on both sides, with Python's imports. The servers share the machine's cores with the runs. After each of
our runs, outside of the timing, a plain client lists and reads both sites: every key and size, and the SHA-256 of a
sample.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

from bench.measured_process import Run, measured
from bench.report import Row, write
from rempart.flows.doctor import doctor_site
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings import config
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site
from tests.integration.own_servers import Servers, own_servers

SITES = ("primary", "haven")
ROUNDS = 3
SAMPLE = 500
WRITERS = 8
SYNC = ("sync", "--transfers", "16", "--checksum")
CHECK = ("check", "--download")
PEERS = ("rclone sync, unverified", "rclone sync, then check --download")
TINY = 16
"""Bytes of each object of the pass over many keys."""
_CHUNK = 1 << 20
OURS = """
import json, sys, time
from dataclasses import asdict, replace
from rempart.flows.shared.platform import open_platform
from rempart.flows.replication.replicate import bring
platform = open_platform()
buckets = platform.config.buckets.model_copy(update={"lake": sys.argv[1]})
# rclone copies no tags, and asking for them is a request for each object
pair = platform.config.replication[0].model_copy(update={"tags": False})
settings = platform.config.model_copy(update={"buckets": buckets, "replication": [pair]})
platform = replace(platform, config=settings)
began, start = time.perf_counter(), time.process_time()
result = bring(platform, "primary", "haven", ["lake"])
print(json.dumps({"seconds": time.perf_counter() - began, "start": start, "result": asdict(result)}))
"""


@dataclass(frozen=True)
class Case:
    """A case of the rows: the number and bytes of its objects, and the unit of its speed."""

    name: str
    objects: int
    bytes: int
    unit: str

    def speed(self, run: Run) -> float:
        """Return the speed in the case's unit."""
        if self.unit == "objects/s":
            return self.objects / run.seconds
        return self.bytes / 1e6 / run.seconds if self.unit == "MB/s" else run.seconds


Runs = dict[Case, dict[str, list[Run]]]


@dataclass
class Bench:
    """Two sites, and the programs that copy between them."""

    servers: Servers
    platform: Platform
    folder: Path
    told: random.Random
    began: float
    checked: int = 0
    starts: list[float] = field(default_factory=list)

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    # --- the two sides ------------------------------------------------------------------------------------------------

    def run_code(self, home: Path, script: str, *arguments: str) -> tuple[Run, str]:
        """Run a script in a process of its own, with the library of the checkout at `home`."""
        env = os.environ | {"REMPART_HOME": str(home), "REMPART_VAR": str(self.servers.stack.var)}
        env["PYTHONPATH"] = str(home / "include")
        return measured((sys.executable, "-c", script, *arguments), env, self.folder / "ours.log")

    def ours(self, bucket: str, home: Path | None = None) -> tuple[Run, dict[str, Any]]:
        whole, output = self.run_code(home or config.project_root(), OURS, bucket)
        told = json.loads(output.splitlines()[-1])
        self.starts.append(told["start"])
        return Run(told["seconds"], whole.cpu, whole.memory), told["result"]

    def rclone(self, verb: Sequence[str], bucket: str, target: str, sites: Sequence[str] = SITES) -> Run:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
        env["RCLONE_CONFIG"] = str(self.folder / "no-rclone.conf")
        for site in SITES:
            connection = self.servers.connections(self.platform.config.sites[site].connection)
            options = {
                "TYPE": "s3",
                "PROVIDER": "SeaweedFS",
                "ENDPOINT": connection.extra["endpoint_url"],
                "ACCESS_KEY_ID": connection.login,
                "SECRET_ACCESS_KEY": connection.password,
                "REGION": connection.extra["region_name"],
                "NO_CHECK_BUCKET": "true",
            }
            env |= {f"RCLONE_CONFIG_{site.upper()}_{name}": value for name, value in options.items()}
        binary = Path(sys.executable).with_name("rclone")
        where = (f"{sites[0]}:{bucket}", f"{sites[1]}:{target}")
        return measured((str(binary), verb[0], *where, *verb[1:]), env, self.folder / "rclone.log")[0]

    def both(self, case: Case, bucket: str, runs: Runs, number: int, copied: int, among: Sequence[str] = ()) -> None:
        """Run one round of a case; our outcome is verified after the measurement."""
        found = runs.setdefault(case, {name: [] for name in ("ours", *PEERS)})

        def mine() -> None:
            run, result = self.ours(bucket)
            if (result["copied"], result["failures"]) != (copied, 0):
                raise SystemExit(f"{case.name}: {copied} copies were to be made; {result}")
            found["ours"].append(run)

        def theirs() -> None:
            synced = self.rclone(SYNC, bucket, peers(bucket))
            found[PEERS[0]].append(synced)
            found[PEERS[1]].append(synced.then(self.rclone(CHECK, bucket, peers(bucket))))

        for act in (theirs, mine) if number % 2 else (mine, theirs):
            act()
        self.verify(bucket, among)
        last = {name: f"{case.speed(found[name][-1]):.2f}" for name in found}
        self.tell(f"{case.name}: " + ", ".join(f"{name} {value}" for name, value in last.items()) + f" {case.unit}")

    # --- objects at the sites -----------------------------------------------------------------------------------------

    def site(self, name: str) -> Site:
        return self.platform.site(name, classification_of(load_all()))

    def client(self, site: str) -> Any:
        connection = self.servers.connections(self.platform.config.sites[site].connection)
        return boto3.session.Session().client(
            "s3",
            endpoint_url=connection.extra["endpoint_url"],
            aws_access_key_id=connection.login,
            aws_secret_access_key=connection.password,
            region_name=connection.extra["region_name"],
            config=BotoConfig(s3={"addressing_style": "path"}, max_pool_connections=WRITERS),
        )

    def buckets(self, bucket: str) -> None:
        """Create a bucket at the source, and one at the target for each side."""
        for site, name in ((SITES[0], bucket), (SITES[1], bucket), (SITES[1], peers(bucket))):
            self.site(site).ensure_bucket(name, versioned=True)

    def drop(self, bucket: str) -> None:
        """Delete buckets with their content: SeaweedFS deletes a bucket's volumes at once."""
        for site, name in ((SITES[0], bucket), (SITES[1], bucket), (SITES[1], peers(bucket))):
            self.client(site).delete_bucket(Bucket=name)

    def seed(self, bucket: str, keys: Sequence[str], size: int) -> float:
        """Write random bodies to the source, as the platform writes them. Return the seconds that it took."""
        site, began = self.site(SITES[0]), time.monotonic()

        def put(key: str) -> None:
            if size <= 4 << 20:
                site.write(bucket, key, os.urandom(size))
                return
            with tempfile.NamedTemporaryFile(dir=self.folder) as spool:
                for start in range(0, size, _CHUNK):
                    spool.write(os.urandom(min(_CHUNK, size - start)))
                spool.flush()
                site.write_file(bucket, key, Path(spool.name))

        with ThreadPoolExecutor(1 if size > 4 << 20 else WRITERS) as pool:
            for done, _ in enumerate(pool.map(put, keys), start=1):
                if done % 20_000 == 0:
                    self.tell(f"  {done} objects written")
        return time.monotonic() - began

    def verify(self, bucket: str, among: Sequence[str] = ()) -> None:
        """Compare our target with the source: all keys and sizes, and the SHA-256 of a sample and of `among`."""
        clients = [self.client(site) for site in SITES]
        source, target = (_sizes(client, bucket) for client in clients)
        if source != target:
            other = sorted(source.items() ^ target.items())[:5]
            raise SystemExit(f"{bucket}: {len(source)} objects at the source, {len(target)} at the target: {other}")
        sample = sorted({*self.told.sample(sorted(source), min(SAMPLE, len(source))), *among})
        with ThreadPoolExecutor(WRITERS) as pool:
            for key, source_sum, target_sum in zip(
                sample,
                *(pool.map(lambda key, client=client: _sha256(client, bucket, key), sample) for client in clients),
                strict=True,
            ):
                if source_sum != target_sum:
                    raise SystemExit(f"{bucket}/{key}: SHA-256 {source_sum} at the source, {target_sum} at the target")
        self.checked += len(sample)


def peers(bucket: str) -> str:
    """Return rclone's bucket at the target."""
    return f"{bucket}-peer"


def _sizes(client: Any, bucket: str) -> dict[str, int]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}


def _sha256(client: Any, bucket: str, key: str) -> str:
    digest = hashlib.sha256()
    with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
        while chunk := body.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def named(count: int, first: int = 0) -> list[str]:
    """Return keys in folders, as in a lake."""
    return [f"table={n % 20:02}/part-{n:07}.parquet" for n in range(first, first + count)]


# --- the cases --------------------------------------------------------------------------------------------------------


def many_small(bench: Bench, runs: Runs, number: int, count: int) -> None:
    """Replicate all objects, then nothing new, then one in a hundred changed or new; each round from a fresh source."""
    bucket, size, keys = f"bench-small-{number}", 10 << 10, named(count)
    bench.buckets(bucket)
    bench.tell(f"round {number + 1}: {count} x 10 KiB written in {bench.seed(bucket, keys, size):.0f} s")
    bench.both(Case(f"{count:,} x 10 KiB", count, count * size, "objects/s"), bucket, runs, number, count)
    bench.both(Case(f"no-op pass over {count:,}", 0, 0, "s"), bucket, runs, number, 0)
    new = max(1, count // 1000)
    delta = [*keys[: 9 * new], *named(new, count)]
    bench.seed(bucket, delta, size)
    changed = Case(f"1 % delta of {count:,}", len(delta), len(delta) * size, "s")
    bench.both(changed, bucket, runs, number, len(delta), among=delta)
    bench.drop(bucket)


def larger(bench: Bench, runs: Runs, number: int, count: int, size: int) -> None:
    """Replicate objects of one size."""
    bucket = f"bench-{size >> 20}-mib-{number}"
    bench.buckets(bucket)
    bench.tell(f"{count} x {size >> 20} MiB written in {bench.seed(bucket, named(count), size):.0f} s")
    case = Case(f"{count} x {size >> 20} MiB", count, count * size, "MB/s")
    bench.both(case, bucket, runs, number, count)
    bench.drop(bucket)


def many_keys(bench: Bench, count: int) -> tuple[list[Row], dict[str, Any]]:
    """Measure a pass over very many keys with nothing to do: seconds and memory, beside rclone over the same two
    buckets.
    """
    bucket = f"bench-keys-{count}"
    bench.buckets(bucket)
    seeding = bench.seed(bucket, named(count), TINY)
    bench.tell(f"{count} keys written in {seeding:.0f} s")
    first, result = bench.ours(bucket)
    bench.tell(f"first copy of {count} keys: {first.seconds:.0f} s, {first.memory / 1e6:.0f} MB")
    again, nothing = bench.ours(bucket)
    if (result["copied"], result["failures"], nothing["copied"]) != (count, 0, 0):
        raise SystemExit(f"{count} keys were to be copied once: {result}, then {nothing}")
    bench.verify(bucket)
    peer = bench.rclone(SYNC, bucket, bucket)
    bench.drop(bucket)
    case = f"no-op pass over {count:,}"
    rows = [
        Row(case, "s", again.seconds, peer.seconds, PEERS[0], "lower"),
        Row(f"{case}, peak memory", "MB", again.memory / 1e6, peer.memory / 1e6, PEERS[0], "lower"),
    ]
    figures = {
        "keys": count,
        "body_bytes": TINY,
        "seeding_seconds": round(seeding, 1),
        "first_copy_seconds": round(first.seconds, 1),
        "first_copy_memory_mb": round(first.memory / 1e6, 1),
    }
    return rows, figures


def rows_of(runs: Runs) -> Iterator[Row]:
    """Return medians: the speed of each case beside both peers, then CPU time and memory."""

    def middle(case: Case, who: str, of: Callable[[Run], float]) -> float:
        return round(statistics.median(map(of, runs[case][who])), 3)

    for case in runs:
        better: Any = "lower" if case.unit == "s" else "higher"
        for peer in PEERS:
            ours, theirs = (middle(case, who, case.speed) for who in ("ours", peer))
            yield Row(case.name, case.unit, ours, theirs, peer, better)
    for case in (run for run in runs if run.unit != "s"):
        for peer in PEERS:
            ours, theirs = (middle(case, who, lambda run: run.cpu / case.bytes * 1e9) for who in ("ours", peer))  # noqa: B023 # used at once
            yield Row(f"{case.name}, processor time of the client", "s/GB", ours, theirs, peer, "lower")
    for case in runs:
        ours, theirs = (middle(case, who, lambda run: run.memory / 1e6) for who in ("ours", PEERS[0]))
        yield Row(f"{case.name}, peak memory", "MB", ours, theirs, PEERS[0], "lower")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each case; 0 leaves out all but --keys")
    parser.add_argument("--scale", type=float, default=1.0, help="of counts and of the largest size, to try the bench")
    parser.add_argument("--keys", type=int, default=0, help="add a pass over so many keys with nothing to do")
    chosen = parser.parse_args()
    small, medium = (max(20, round(count * chosen.scale)) for count in (10_000, 200))
    large = max(24, round(512 * chosen.scale)) << 20
    runs: Runs = {}
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        own_servers(Path(name) / "var", ("postgresql", *(f"site-{site}" for site in SITES))) as servers,
    ):
        platform = Platform(config.load(), servers.connections)
        bench = Bench(servers, platform, Path(name), random.Random(1), time.monotonic())  # noqa: S311 # a sample
        for site in SITES:  # once, before any measurement: the result is stored in the ledger of the bench's PostgreSQL
            doctor_site.probe(platform, bench.site(site))
        bench.tell("both sites are up, and what they can do is on record")
        for number in range(chosen.rounds):
            many_small(bench, runs, number, small)
            larger(bench, runs, number, medium, 1 << 20)
            larger(bench, runs, number, 4, large)
        rows += rows_of(runs)
        if chosen.keys:
            found, figures = many_keys(bench, chosen.keys)
            rows += found
        checked, start = bench.checked, statistics.median(bench.starts)
    what = "every key and size; SHA-256 of a sample, and of all that had changed"
    write(
        "replication" if chosen.scale == 1 else "replication-scaled",
        rows,
        rounds=chosen.rounds,
        scale=chosen.scale,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        verified={"what": what, "sample": SAMPLE, "objects_read_at_both_sites": checked},
        processor_seconds_before_our_call=round(start, 2),
        many_keys=figures,
        runs={
            case.name: {
                who: [[round(run.seconds, 3), round(run.cpu, 2), round(run.memory / 1e6, 1)] for run in each]
                for who, each in found.items()
            }
            for case, found in runs.items()
        },
        runs_are="seconds, processor seconds of the client, peak memory in MB",
    )


if __name__ == "__main__":
    main()
