"""Measure a whole LightGBM job beside a plain script on the same Parquet file, with the same parameters.

make bench BENCH=trainers                   # 500,000 rows, three rounds
make bench BENCH=trainers ARGS="2000000 1"  # rows, rounds

The job is `run_job` with its site in memory and without MLflow: it reads the file and checks its hash, decodes
and encodes it, trains, converts to ONNX, compares ONNX with the native model, measures, and stores its files. The
script reads the file, trains with LightGBM's own defaults of determinism and threads, predicts as many rows, and saves
the model. Both train on the same columns. Each runs in a process of its own; imports are not counted. After that, each
reads three times more, and the fastest counts: `decoded` is the job's own way to pieces of rows, with the check of the
hash, beside Arrow's decoding of a local file alone. The job's figure for `read` has the matrix, too, in memory that is
touched for the first time. A figure is the median of the rounds. Exit code 1: the job takes more than MOST times the
script's time, or reads at less than LEAST of Arrow's speed.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib  # noqa: F401 # imports are not counted
import lightgbm
import numpy as np
import onnxruntime  # noqa: F401
import pyarrow as pa
import pyarrow.parquet as pq

from bench.report import Row, write
from rempart.sovereignty.job_permission import JobSite, Permission
from rempart.training import datasets, experiment
from rempart.training.entrypoint import World, run_job
from rempart.training.job import Dataset, FeatureSpec, JobSpec, Output, Tracking, TrainerSpec
from rempart.training.protocol import learning, reading
from rempart.training.trainers import trainers
from tests.memory_site import MemorySite

NUMBERS, CATEGORY = 20, tuple(f"value {number}" for number in range(30))
PARAMS: dict[str, Any] = {"num_iterations": 100}
MOST, LEAST = 1.3, 0.5
PLACE = JobSite(name="primary", connection="none", region="none")


def table(count: int) -> pa.Table:
    """Return random rows whose target depends on numbers and on a category."""
    dice = np.random.default_rng(0)
    values = dice.normal(size=(NUMBERS, count)).astype(np.float32)
    values[:, ::9] = np.nan
    codes = dice.integers(0, len(CATEGORY), count)
    target = (
        np.nan_to_num(values[0]) * 3 + np.sin(codes) + np.nan_to_num(values[1] * values[2]) + dice.normal(size=count)
    )
    made: dict[str, Any] = {f"f{number}": pa.array(column, from_pandas=True) for number, column in enumerate(values)}
    return pa.table(
        made | {"category": pa.DictionaryArray.from_arrays(codes, CATEGORY).cast(pa.string()), "target": target}
    )


def spec(body: bytes, rows: int) -> JobSpec:
    use = "lightgbm"
    names = [FeatureSpec(name=f"f{number}", type="number") for number in range(NUMBERS)]
    digest = hashlib.sha256(body).hexdigest()
    return JobSpec(
        pipeline="bench",
        classification="internal",
        task="regression",
        target=FeatureSpec(name="target", type="number"),
        features=(*names, FeatureSpec(name="category", type="category", values=CATEGORY)),
        dataset=Dataset(
            site=PLACE, bucket="lake", key="rows", sha256=digest, rows=rows, held_out="0" * 64, examples="0" * 64
        ),
        trainer=TrainerSpec(use=use, params=PARAMS),
        tracking=Tracking(connection="mlflow", experiment="bench"),
        output=Output(site=PLACE, bucket="artifacts", prefix="bench/"),
        snapshot="none",
        code_version=trainers.code_version(use),
        permission=Permission(
            hosts={"primary": ("none",)}, until=datetime.now(UTC).date() + timedelta(days=1), decision="0" * 64
        ),
    )


def ours(file: Path) -> dict[str, float]:
    body = file.read_bytes()
    site = MemorySite("primary")
    for bucket in ("lake", "artifacts"):
        site.ensure_bucket(bucket, versioned=True)
    site.write("lake", "rows", body)
    order = spec(body, pq.read_metadata(file).num_rows)

    def log(tracking: Any, job: Any, features: Any, metrics: Any, files: Any) -> experiment.Logged:
        return experiment.Logged("run", "m-1", {name: hashlib.sha256(each).hexdigest() for name, each in files.items()})

    experiment.log = log
    began, worked = time.perf_counter(), time.process_time()
    result = run_job(order, World(lambda _: site, lambda _: None, lambda *_, **__: None))  # type: ignore[arg-type,return-value]
    took = {"job": time.perf_counter() - began, "job cpu": time.process_time() - worked, **result.seconds}
    place, features = order.dataset, [feature.feature() for feature in order.features]

    def decode() -> None:
        again = site.read(place.bucket, place.key, sha256=place.sha256)
        assert sum(piece.num_rows for piece in reading.pieces(again, features, order.target.feature())) == place.rows

    return took | {"decoded": fastest(decode)}


def script(file: Path) -> dict[str, float]:
    began, worked = time.perf_counter(), time.process_time()
    rows = pq.read_table(file)
    columns = [rows[f"f{number}"].to_numpy() for number in range(NUMBERS)]
    codes = rows["category"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    inputs = np.column_stack([*columns, codes.astype(np.float32)])
    learnt = lightgbm.Dataset(inputs, rows["target"].to_numpy(), categorical_feature=[NUMBERS])
    settings = {name: value for name, value in PARAMS.items() if name != "num_iterations"}
    model = lightgbm.train({"objective": "regression", "verbosity": -1, **settings}, learnt, PARAMS["num_iterations"])
    np.mean(np.abs(model.predict(inputs[:: -(-len(inputs) // learning.CHECKED)])))
    model.save_model(file.with_suffix(".txt"))
    took = {"job": time.perf_counter() - began, "job cpu": time.process_time() - worked}
    return took | {"decoded": fastest(lambda: pq.read_table(file))}


def fastest(read: Callable[[], object]) -> float:
    """Return the seconds of the fastest of three reads: the first ones ask the system for memory."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        read()
        found.append(time.perf_counter() - began)
    return min(found)


def timed(way: str, file: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.trainers", way, str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(count: int = 500_000, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "rows.parquet")
        file.write_bytes(datasets.encoded(table(count)))
        size = file.stat().st_size
        both = [(timed("ours", file), timed("script", file)) for _ in range(rounds)]

    def row(case: str, name: str) -> Row:
        mine, theirs = (statistics.median(each[name] for each in side) for side in zip(*both, strict=True))
        return Row(case, "s", mine, theirs, "script" if "job" in name else "Arrow", "lower")

    job, read = row("LightGBM job", "job"), row("read, verify, decode", "decoded")
    bounds = {
        f"job: {job.ours / job.peer:.2f} times the script's time, at most {MOST} allowed": job.ours <= MOST * job.peer,
        f"read: {read.ratio:.2f} of Arrow's speed, at least {LEAST} asked": read.ratio >= LEAST,
    }
    write(
        "trainers",
        [job, row("LightGBM job, CPU", "job cpu"), read],
        entities=count,
        bytes=size,
        rounds=rounds,
        parts={
            name: round(statistics.median(mine[name] for mine, _ in both), 2) for name in ("read", "train", "evaluate")
        },
        bounds=bounds,
    )
    for what, kept in bounds.items():
        print(f"{'kept' if kept else 'NOT KEPT'}: {what}")
    if not all(bounds.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("ours", "script"):
        print(json.dumps({"ours": ours, "script": script}[sys.argv[1]](Path(sys.argv[2]))))
    else:
        main(*map(int, sys.argv[1:]))
