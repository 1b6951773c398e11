"""One delivery's way from the landing bucket to the gate, through Airflow beside the same calls in one plain process.

    make up && make bench BENCH=orchestration_overhead

Each reading has a delivery of its own, a week of new bookings, so both sides ingest, load, train and judge the same
amount. Through Airflow, ingestion is triggered by REST, and each later stage starts by the asset of the stage before.
The time ends when the gate's run ends. The plain process is timed from its start. The figures tell where the time goes:
each stage's seconds on both sides, and for each task how long it waited for its start and how long it ran.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from bench.report import Row, write
from rempart.airflow_api import AirflowApi
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ingestion.sample import deliveries
from rempart.settings import config, pipelines

PIPELINE = "hotel_bookings"
ROUNDS = 3
STAGES = {"ingest": "ingest", "materialize": "materialize_features", "train": "train", "validate": "validate_model"}
"""The first part of each stage's DAG id."""
PLAIN = """
import sys, time, json
from rempart.settings import pipelines
from rempart.flows.shared.platform import open_platform
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.training.materialize import materialize
from rempart.flows.training.train import train
from rempart.flows.training.validate import validate
platform, spec, seconds = open_platform(), pipelines.named(sys.argv[1]), {}
def timed(stage, call):
    began = time.perf_counter(); result = call(); seconds[stage] = time.perf_counter() - began
    return result
timed("ingest", lambda: ingest(platform, spec))
timed("materialize", lambda: materialize(platform, spec))
trained = timed("train", lambda: train(platform, spec))
timed("validate", lambda: validate(platform, spec, trained.version))
print(json.dumps(seconds))
"""


class Supplier:
    """Puts deliveries into the landing bucket: the sample's, and weeks of new bookings."""

    def __init__(self, platform: Platform) -> None:
        spec = pipelines.named(PIPELINE)
        self.site, self.bucket = platform.active_site(spec.classification), platform.config.buckets.landing
        self.prefix = spec.source.prefix
        self.sample = list(deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz"))
        self.next = count(int(time.time()) * 1000)
        """Ids of new bookings, larger than those of an earlier run of this bench."""

    def deliver(self, name: str, body: bytes) -> None:
        self.site.write(self.bucket, self.prefix + name, body, content_type="text/csv")

    def deliver_sample(self) -> None:
        for name, body in self.sample:
            self.deliver(name, body)

    def deliver_new_week(self) -> None:
        """Deliver the bookings of the sample's second week under new ids."""
        header, *rows = self.sample[1][1].decode().splitlines(keepends=True)
        renamed = [f"{n},{row.partition(',')[2]}" for n, row in zip(self.next, rows, strict=False)]
        self.deliver(f"bench_{renamed[0].partition(',')[0]}.csv", "".join([header, *renamed]).encode())


def settle(api: AirflowApi) -> None:
    """Wait until no DAG runs: a promotion starts a backup, which is no part of the next reading."""
    path = "/api/v2/dags/~/dagRuns?limit=1&state"
    while any(api.get(f"{path}={state}")["total_entries"] for state in ("queued", "running")):
        time.sleep(1)


def through_airflow(api: AirflowApi) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the seconds of each stage and of the chain, and of each task how long it waited and ran."""
    seconds: dict[str, float] = {}
    tasks: dict[str, dict[str, float]] = {}
    began = ended = time.time()
    since = datetime.fromtimestamp(began, UTC)
    for stage, kind in STAGES.items():
        dag_id = f"{kind}_{PIPELINE}"
        run_id = api.trigger(dag_id) if stage == "ingest" else api.await_run(dag_id, since)
        api.follow(dag_id, run_id, lambda line: None)
        run = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        found = api.every(f"{run}/taskInstances", "task_instances")
        free = ended
        for task in sorted((task for task in found if task["start_date"]), key=lambda task: str(task["start_date"])):
            start, end = moment(task, "start_date"), moment(task, "end_date")
            tasks[f"{stage}.{task['task_id']}"] = {"waited": start - free, "ran": end - start}
            free = max(free, end)
        seconds[stage], ended = moment(api.get(run), "end_date") - ended, moment(api.get(run), "end_date")
    return seconds | {"chain": ended - began}, tasks


def moment(of: Mapping[str, Any], name: str) -> float:
    return datetime.fromisoformat(of[name]).timestamp()


def in_one_process() -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PLAIN, PIPELINE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the plain process failed:\n{done.stderr[-2000:]}")
    seconds: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds | {"process": time.perf_counter() - started}


def main() -> None:
    api = AirflowApi(config.environment_connections("airflow_api"))
    supplier = Supplier(open_platform())
    supplier.deliver_sample()
    in_one_process()  # brings the sample in, and warms the servers
    plain, ours, tasks = [], [], []
    for _ in range(ROUNDS):
        settle(api)
        supplier.deliver_new_week()
        plain.append(in_one_process())
        supplier.deliver_new_week()
        seconds, of_tasks = through_airflow(api)
        ours.append(seconds)
        tasks.append(of_tasks)

    def median(of: list[dict[str, float]], key: str) -> float:
        return round(statistics.median(r[key] for r in of), 2)

    write(
        "orchestration_overhead",
        [Row("one delivery", "s", median(ours, "chain"), median(plain, "process"), "one plain process", "lower")],
        stages={s: {"airflow": median(ours, s), "plain": median(plain, s)} for s in STAGES},
        tasks={
            name: {kind: median([each[name] for each in tasks if name in each], kind) for kind in ("waited", "ran")}
            for name in tasks[0]
        },
        load_average=[round(load, 1) for load in os.getloadavg()],
    )


if __name__ == "__main__":
    main()
