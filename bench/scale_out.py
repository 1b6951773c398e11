"""Replicate in 200 mapped tasks, with one worker and with two; each shard is done once, and none is lost.

make bench BENCH=scale_out          (needs the same as `make prove-compose`; ARGS="--shards 50" for fewer)

The platform runs in containers with profile `celery`; state and settings are the bench's own (var/scale-out). For each
number of workers, new objects of 1 KiB are put at the primary site, ten for each shard. A DAG of the bench copies them
to the second site with the functions of `replicate_<source>_to_<target>`, but with ten keys to a piece instead of
2,000, so that each mapped task has one piece. Every other DAG is paused. The bench measures the DAG run, and the time
from the first start of a mapped task to the last end. Then it lists both sites. On a machine with two cores, two
workers have no more CPU than one: the bench checks that no shard is done twice or lost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from bench import prove_celery
from bench.prove_compose import Compose, tell, why_not
from bench.report import Row, write
from rempart.airflow_api import AirflowApi
from rempart.settings import config
from rempart.settings.config import Connection

DAG, SHARDS, KEYS = "scale_out", 200, 10
WORKERS = (1, 2)
SOURCE = f'''
from airflow.sdk import DAG, task

from rempart.orchestration import replication, runtime
from rempart.orchestration.dags import highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
with DAG(
    "{DAG}",
    schedule=None,
    max_active_runs=1,
    max_active_tasks=64,
    tags=["rempart", "replicate", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=0, timeout=defaults.timeout),
):

    @task
    def prepare(ti=None, run_id=None):
        from rempart.flows.replication.replicate_in_tasks import prepare
        from rempart.replication import pieces

        pieces.PIECE = {KEYS}
        ready = prepare(runtime.platform(), "primary", "haven", run_name=run_id)
        ti.xcom_push("plan", ready.as_json())
        return replication.shares(ready.pieces())

    @task
    def carry(plan, pieces):
        from rempart.flows.replication.replicate_in_tasks import carry, prepared

        platform, ready = runtime.platform(), prepared(plan)
        return [carry(platform, ready, piece) for piece in pieces]

    @task
    def conclude(plan, carried):
        from rempart.flows.replication.replicate_in_tasks import conclude, prepared

        told = [one for share in carried for one in share]
        result = runtime.as_json(conclude(runtime.platform(), prepared(plan), told))
        return result | {{"pieces": len(told), "different": len({{one["piece"] for one in told}})}}

    ready = prepare()
    conclude(ready["plan"], carry.partial(plan=ready["plan"]).expand(pieces=ready))
'''
PUT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from rempart.flows.shared.platform import open_platform
platform, (prefix, count) = open_platform(), sys.argv[1:]
site, bucket = platform.site("primary", "internal"), platform.config.buckets.lake
def put(n):
    site.write(bucket, f"{prefix}/{n:06}", f"{prefix}/{n:06} ".encode() * 64)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(put, range(int(count))))
"""
LIST = """
import json
from rempart.flows.shared.platform import open_platform
platform = open_platform()
bucket = platform.config.buckets.lake
print(json.dumps([[one.key for one in platform.site(name, "internal").list(bucket)] for name in ("primary", "haven")]))
"""


@dataclass(frozen=True)
class Result:
    """One run: its seconds and those of its mapped tasks, tasks by worker, and its faults."""

    workers: int
    seconds: float
    mapped: float
    spread: dict[str, int]
    faults: tuple[str, ...]


def faults(
    mapped: Sequence[dict[str, Any]], told: dict[str, Any], sites: Sequence[Sequence[str]], shards: int
) -> list[str]:
    """Return the faults of a run: a shard not done, or done twice, or an object that is not at both sites."""
    found = []
    indexes = Counter(int(task["map_index"]) for task in mapped)
    if set(indexes) != set(range(shards)) or set(indexes.values()) != {1}:
        found.append(f"{len(indexes)} of {shards} shards have a task, {sum(indexes.values())} tasks")
    if again := [task["map_index"] for task in mapped if task["state"] != "success" or task["try_number"] != 1]:
        found.append(f"not done at the first try: {again}")
    if told["pieces"] != shards or told["different"] != shards:
        found.append(f"{told['pieces']} pieces were carried, {told['different']} of them different")
    if told["copied"] != shards * KEYS or told["failures"]:
        found.append(f"{told['copied']} objects copied of {shards * KEYS}, {told['failures']} failures")
    primary, haven = (set(keys) for keys in sites)
    if primary != haven:
        found.append(f"{len(primary - haven)} objects are not at the second site, {len(haven - primary)} only there")
    return found


def inside(compose: Compose, script: str, *words: str) -> str:
    return compose.must("run", "--rm", "--no-deps", "-T", "cli", "python", "-c", script, *words)


def waited(what: str, done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}, for {seconds:.0f} s")
        time.sleep(2)


def pause_others(api: AirflowApi, user: Connection) -> None:
    """Pause every DAG except the bench's: the others would copy its objects, or take time.

    Active runs end first: a run of a paused DAG stands still, and a replication would keep its lease.
    """
    going = "/api/v2/dags/~/dagRuns?state=running&state=queued&limit=1"
    waited(f"Airflow does not know {DAG}: {api.import_errors()}", lambda: DAG in api.dag_ids(), 120)
    waited("Runs that Airflow began by itself did not end", lambda: not api.get(going)["dag_runs"], 900)
    dags = api.dag_ids()
    login = {"username": user.login, "password": user.password}
    with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {http.post('/auth/token', json=login).json()['access_token']}"
        for dag in dags:
            http.patch(f"/api/v2/dags/{dag}", json={"is_paused": dag != DAG}).raise_for_status()


def measure(compose: Compose, api: AirflowApi, workers: int, shards: int) -> Result:
    """Measure one run with this many workers."""
    compose.must("up", "--wait", "--scale", f"worker={workers}")
    inside(compose, PUT, f"bench-{workers}", str(shards * KEYS))
    tell(f"{workers} workers: {shards * KEYS} objects are there")
    run = api.trigger(DAG)
    seconds = api.follow(DAG, run, lambda line: None, timeout=3600)
    path = f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances"
    mapped = api.every(path, "task_instances", order_by="map_index", task_id="carry")
    started = min(datetime.fromisoformat(task["start_date"]) for task in mapped)
    ended = max(datetime.fromisoformat(task["end_date"]) for task in mapped)
    told, sites = api.result(DAG, run, "conclude"), json.loads(inside(compose, LIST).splitlines()[-1])
    by = prove_celery.spread(mapped)
    tell(f"{workers} workers: {seconds:.0f} s, tasks by worker {by}")
    wrong = faults(mapped, told, sites, shards)
    if len(by) != workers:
        wrong.append(f"{len(by)} of {workers} workers had tasks")
    return Result(workers, round(seconds, 1), round((ended - started).total_seconds(), 1), by, tuple(wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="mapped replication by one worker and by two")
    parser.add_argument("--shards", type=int, default=SHARDS, help="mapped tasks (default: %(default)s, at most 256)")
    options = parser.parse_args(arguments)
    if why := why_not():
        print(f"The bench was NOT RUN: {why}.", file=sys.stderr)
        return 1
    root, folder = config.project_root().resolve(), config.var_dir().absolute() / "scale-out"
    compose = Compose(root, folder / "compose.env")
    if (folder / "compose.env").is_file():
        compose.run("down", "--volumes", "--remove-orphans")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mounted = folder / "scale_out.py"
    mounted.write_text(SOURCE, encoding="utf-8")
    mounted.chmod(0o644)
    volumes = {"volumes": [f"{mounted}:/opt/rempart/dags/scale_out.py:ro"]}
    override = folder / "override.json"
    override.write_text(json.dumps({"services": dict.fromkeys(("dag-processor", "worker"), volumes)}), "utf-8")
    compose.files.append(override)
    try:
        prove_celery.start(compose, folder, WORKERS[0])
        api = prove_celery.api_of(folder)
        pause_others(api, prove_celery.given(folder, "airflow_api"))
        alone, two = (measure(compose, api, workers, options.shards) for workers in WORKERS)
    finally:
        compose.run("down", "--volumes", "--remove-orphans")
    case = f"{options.shards} shards of {KEYS} objects"
    rows = [
        Row(f"{case}, the DAG run, 2 workers", "s", two.seconds, alone.seconds, "1 worker", "lower"),
        Row(f"{case}, first start to last end of a shard", "s", two.mapped, alone.mapped, "1 worker", "lower"),
    ]
    write(DAG, rows, spread={str(alone.workers): alone.spread, str(two.workers): two.spread}, slots=4)
    wrong = [f"{each.workers} workers: {fault}" for each in (alone, two) for fault in each.faults]
    print("\n".join(wrong) or f"each of {options.shards} shards was done once, by one worker and by two; none is lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
