"""Run the chain through Airflow, beside the same library calls in one plain process, on the running stack.

    make up && make bench BENCH=orchestration_overhead

Each round trains a new job with its own seed, so both sides do the same work on the same data. The figures show where
the time goes: the seconds of each stage in its DAG run and in the plain call.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime

from bench.report import Row, write
from rempart.airflow_api import AirflowApi
from rempart.settings import config

PIPELINE = "hotel_bookings"
ROUNDS = 3
PLAIN = """
import sys, time, json
started = time.perf_counter()
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
trained = timed("train", lambda: train(platform, spec, params={"l2_regularization": float(sys.argv[2])}))
timed("validate", lambda: validate(platform, spec, trained.version))
seconds["chain"] = time.perf_counter() - started
print(json.dumps(seconds))
"""


def through_airflow(api: AirflowApi, regularization: float) -> dict[str, float]:
    """Trigger the stages as a user would: ingest and features by REST, the gate started by its asset."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def stage(name: str, dag_id: str, run_id: str) -> None:
        started = time.perf_counter()
        api.follow(dag_id, run_id, lambda line: None)
        seconds[name] = time.perf_counter() - started

    stage("ingest", f"ingest_{PIPELINE}", api.trigger(f"ingest_{PIPELINE}"))
    stage("materialize", f"materialize_features_{PIPELINE}", api.trigger(f"materialize_features_{PIPELINE}"))
    since = datetime.now(UTC)
    conf = {"trainer_params": {"l2_regularization": regularization}}
    # materialize_features starts a train run at its end; our run waits for it (one run at a time)
    stage("train", f"train_{PIPELINE}", api.trigger(f"train_{PIPELINE}", conf))
    stage("validate", f"validate_model_{PIPELINE}", api.await_run(f"validate_model_{PIPELINE}", since))
    seconds["chain"] = time.perf_counter() - began
    return seconds


def in_one_process(regularization: float) -> dict[str, float]:
    import json

    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, PIPELINE, str(regularization)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the plain process failed:\n{done.stderr[-2000:]}")
    seconds: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds | {"process": time.perf_counter() - started}


def main() -> None:
    api = AirflowApi(config.environment_connections("airflow_api"))
    ours, plain = [], []
    base = time.time() % 1e6 * 1e-9  # new parameters each time the bench runs, too small to change the model
    for i in range(ROUNDS):
        plain.append(in_one_process(base + i * 2e-12))
        ours.append(through_airflow(api, base + i * 2e-12 + 1e-12))

    def median(of: list[dict[str, float]], key: str) -> float:
        return round(statistics.median(r[key] for r in of), 2)

    stages = {
        s: {"airflow": median(ours, s), "plain": median(plain, s)}
        for s in ("ingest", "materialize", "train", "validate")
    }
    write(
        "orchestration_overhead",
        [Row("chain", "s", median(ours, "chain"), median(plain, "process"), "one plain process", "lower")],
        stages=stages,
    )


if __name__ == "__main__":
    main()
