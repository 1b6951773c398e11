"""Proof: 50 jobs on one pool with 2 GPUs all end, none runs twice, and none occupies a worker while it waits.

    make prove-queue           ARGS="--jobs 20" for fewer

Airflow, its triggerer, the operator, the site and the ledger are real. The pool is a double (tests/kubernetes_double),
and the job only writes a result, so the proof measures the queue. It adds a DAG with one task for each job beside our
DAGs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.prove_pods import own_stack, write
from rempart.airflow_api import TERMINAL, AirflowApi
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.flows.shared.platform import Platform, open_platform
from rempart.flows.training import pod_job
from rempart.settings import config
from rempart.settings.pipelines import named
from rempart.sovereignty.job_permission import JobSite
from rempart.training.job import Dataset, JobSpec, Output, Tracking, TrainerSpec
from tests import pods

OFFSET, GPUS = "4200", 2
DAG = """
import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from rempart.orchestration.dags import task_defaults
from rempart.orchestration.training.training_pod import TrainingPodOperator
from rempart.settings import config
from rempart.settings.pipelines import named

orders = json.loads((Path(__file__).parents[1] / "orders.json").read_text())
defaults = task_defaults(config.load().dags, owner="platform", retries=2, timeout=timedelta(hours=1))
with DAG("queue", tags=["classification:personal"], schedule=None, default_args=defaults):
    for number, order in enumerate(orders):
        TrainingPodOperator(
            task_id=f"run_{number}", pipeline=named("hotel_bookings"), order=order, execution_timeout=timedelta(hours=1)
        )
"""
JOB = """
import os, time
from datetime import UTC, datetime
from rempart.settings.config import environment_connections
from rempart.sites.s3.site import S3Site
from rempart.training.job import JobResult, parse_spec
from rempart.training.permission import decide, permission_of

spec = parse_spec(os.environ["REMPART_JOB_SPEC"])
print("job", spec.job_id, flush=True)
time.sleep(6)
connection, place = environment_connections(spec.output.site.connection), spec.output.site
allowed = decide(spec, place.name, connection.extra.get("endpoint_url"), on=datetime.now(UTC).date())
files = {"model.onnx": "0" * 64}
result = JobResult(job_id=spec.job_id, status="succeeded", metrics={"train_mae": 1.0}, files=files, model_files=files,
                   run_id="r", model_id="m", seconds={}, rows=1,
                   decision=permission_of(spec).decision)
S3Site(place.name, connection, place.region, allowed).write(
    spec.output.bucket, spec.key("result.json"), result.to_json(), content_type="application/json")
"""


def orders(platform: Platform, count: int) -> list[dict[str, Any]]:
    """Return orders of this many jobs, which differ in a parameter."""
    pipeline, site = named("hotel_bookings"), platform.config.sites[platform.config.active_site]
    place = JobSite(name=platform.config.active_site, connection=site.connection, region=site.region)
    buckets, key = platform.config.buckets, "training/queue/none"
    # no job reads it, but each job's session is proven on it
    read = platform.active_site(pipeline.classification).write(buckets.lake, key, b"none")
    made = []
    for number in range(count):
        spec = JobSpec.model_validate(
            {
                "pipeline": pipeline.name,
                "classification": pipeline.classification,
                "task": "regression",
                "target": {"name": "price", "type": "number"},
                "features": [{"name": "lead", "type": "number"}],
                "dataset": Dataset(
                    site=place,
                    bucket=buckets.lake,
                    key=key,
                    sha256=str(read.sha256),
                    rows=1,
                    held_out="0" * 64,
                    examples="0" * 64,
                ),
                "trainer": TrainerSpec(use="gradient_boosting", params={"max_iter": number + 1}),
                "tracking": Tracking(connection="mlflow", experiment="queue"),
                "output": Output(site=place, bucket=buckets.artifacts, prefix="jobs/"),
                "snapshot": "none",
                "code_version": "queue",
            }
        )
        made.append(dataclasses.asdict(pod_job.place(platform, pipeline, spec)))
    return made


def project(folder: Path) -> Path:
    """Create the project in pods, with its own DAG folder, and an image whose `python` only writes a result."""
    home = pods.project(folder / "home", {"gpu-a": {"max_pending": "1h"}}, gpu_pools=["gpu-a"])
    shared = (home / "dags").resolve()
    (home / "dags").unlink()
    (home / "dags").mkdir()
    for file in shared.glob("*.py"):
        (home / "dags" / file.name).symlink_to(file)
    stub = home / "stub"
    stub.mkdir()
    (stub / "job.py").write_text(JOB, encoding="utf-8")
    (stub / "python").write_text(f"#!/bin/sh\nexec {sys.executable} {stub / 'job.py'}\n", encoding="utf-8")
    (stub / "python").chmod(0o755)
    return home


def follow(api: AirflowApi, run_id: str, seconds: float) -> tuple[dict[str, str], list[Counter[str]]]:
    """Follow the run to its end. Return each task's last state, and the number of tasks in each state by sample."""
    samples: list[Counter[str]] = []
    deadline = time.monotonic() + seconds
    while True:
        found = api.every(f"/api/v2/dags/queue/dagRuns/{run_id}/taskInstances", "task_instances")
        states = {task["task_id"]: task["state"] or "none" for task in found}
        samples.append(Counter(states.values()))
        over = api.get(f"/api/v2/dags/queue/dagRuns/{run_id}")["state"] in TERMINAL
        if len(samples) % 20 == 1 or over:
            print(f"{time.strftime('%H:%M:%S')}  {dict(samples[-1])}", flush=True)
        if over or time.monotonic() > deadline:
            return states, samples
        time.sleep(1)


@rendering.on_terminal()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_queue", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50)
    count = parser.parse_args(arguments).jobs
    folder = config.var_dir() / "prove-queue"
    shutil.rmtree(folder / "home", ignore_errors=True)
    home, began = project(folder), time.monotonic()
    with pods.clusters(home, {"gpu-a": GPUS}) as clusters:
        double = clusters["gpu-a"]
        env = {"REMPART_HOME": str(home), "PATH": f"{home / 'stub'}:{os.environ['PATH']}"}
        double.add_image(pods.IMAGE, digest=pods.IMAGE.partition("@")[2], env=env)
        with own_stack(home, folder / "var", OFFSET, clusters) as stack:
            lifecycle.up(stack)
            (home / "orders.json").write_text(json.dumps(orders(open_platform(), count)), encoding="utf-8")
            (home / "dags" / "queue.py").write_text(DAG, encoding="utf-8")
            api = AirflowApi(config.environment_connections("airflow_api"))
            while "queue" not in api.dag_ids():
                time.sleep(2)
            started = time.monotonic()
            states, samples = follow(api, api.trigger("queue"), 40 * count)
            took = time.monotonic() - started
        history = double.history
    ran = Counter(record.labels["rempart.eu/job"] for record in history if record.started)
    waiting = [sample for sample in samples if sample["deferred"] > GPUS]
    idle = [queue for queue in waiting if not queue["running"] and not queue["queued"] and not queue["scheduled"]]
    ended = Counter(states.values())
    peak, most = max(sample["running"] for sample in samples), max(sample["deferred"] for sample in samples)
    checks = [
        {"what": f"all {count} jobs end well", "ok": ended["success"] == count, "detail": str(dict(ended))},
        {
            "what": "none runs twice",
            "ok": len(ran) == count and set(ran.values()) == {1},
            "detail": f"{sum(ran.values())} containers of {len(ran)} jobs",
        },
        {
            "what": "waiting jobs hold no worker",
            "ok": most > min(4, count - 1) and peak <= 4,
            "detail": f"up to {most} jobs deferred at once, at most {peak} tasks in a worker (parallelism is 4); "
            f"no worker busy in {len(idle)} of {len(waiting)} samples with a queue",
        },
        {
            "what": "no pod is left",
            "ok": all(record.deleted for record in history),
            "detail": f"{len(history)} pods were made",
        },
    ]
    figures = {"jobs": count, "gpus": GPUS, "seconds_of_the_queue": round(took, 1), "peak_running_tasks": peak}
    return 0 if write("queue", checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
