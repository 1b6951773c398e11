"""Program for .venv-trainer: run jobs of `tabular_network` on a site in memory, and print results as JSON.

.venv-trainer/bin/python -m tests.unit.training.network_attempts FOLDER     spec-*.json and dataset.parquet are in it
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from rempart.training import experiment
from rempart.training.attempts.interruption import Interrupted, Interruption
from rempart.training.entrypoint import World, run_job
from rempart.training.job import JobSpec, parse_spec
from rempart.training.trainers import trainers
from tests.memory_site import MemorySite
from tests.unit.training.at_step import AtStep


def log(tracking, spec, features, metrics, files):
    hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    return experiment.Logged("run", "m-1", hashes)


def job(spec: JobSpec, dataset: bytes, *stops: int):
    """The result and model of a job that is interrupted at these steps, and went on each time."""
    site, lines = MemorySite("primary"), []
    for bucket in {spec.dataset.bucket, spec.output.bucket}:
        site.ensure_bucket(bucket, versioned=True)
    site.write(spec.dataset.bucket, spec.dataset.key, dataset)

    def world(interruption):
        return World(
            lambda _: site,
            lambda _: None,
            lambda *message, **facts: lines.append([*message, facts]),
            interruption=interruption,
        )

    for stop in stops:
        try:
            run_job(spec, world(AtStep(stop)))
        except Interrupted:
            continue
        raise AssertionError("it was not interrupted")
    result = run_job(spec, world(Interruption()))
    left = [info.key for info in site.list(spec.output.bucket) if "checkpoint" in info.key]
    return {
        "model": hashlib.sha256(site.read(spec.output.bucket, spec.key("model.onnx"))).hexdigest(),
        "metrics": result.metrics,
        "work": result.work.model_dump(),
        "made_with": result.made_with,
        "left": left,
        "lines": lines,
    }


def main(folder: Path) -> None:
    experiment.log = log
    dataset, message = (folder / "dataset.parquet").read_bytes(), {}
    for file in sorted(folder.glob("spec-*.json")):
        spec = parse_spec(file.read_bytes())
        whole = job(spec, dataset)
        half = whole["work"]["steps"] // 2
        message[file.stem] = {
            "whole": whole,
            "again": job(spec, dataset),
            "interrupted": job(spec, dataset, half, half + 3),
        }
    print(json.dumps({"code": trainers.code_version("tabular_network"), "pid": os.getpid(), **message}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
