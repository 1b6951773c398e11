"""`make test-gpu`: the built-in trainers on this machine's NVIDIA GPUs (docs/how-to/test-on-a-gpu.md).

Says what it saw, and checks what a CPU cannot show. Exit status: 0 if none failed on a GPU, 1 if one failed, 2 if no
GPU was seen. `--rehearse` runs the same checks on the CPU: that proves the checks, not a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

NOTHING = "no GPU seen: nothing was checked"
NODE = Path(__file__).parent / "unit" / "training" / "node.py"
PARAMS = {"epochs": 3, "hidden": "64,32", "batch_size": 512, "learning_rate": 0.005}
CLOSE = 0.02
"""Largest mean difference between two devices' predictions, as a share of the target's spread."""
WORSE = 1.1
"""Largest error of mixed precision, as a multiple of float32's."""


@dataclass(frozen=True)
class Observation:
    """What a check found. `passed`: None if it could not run here."""

    name: str
    passed: bool | None
    found: str

    def line(self) -> str:
        return f"{ {True: 'ok', False: 'FAILED', None: 'not run'}[self.passed]:8}{self.name}: {self.found}"


def look() -> int:
    """The number of GPUs that NVIDIA's driver tells, by its own library: nothing has to be installed for it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        answered = library.nvmlInit_v2() == 0 and library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if answered else 0


@dataclass(frozen=True)
class Bench:
    """Rows that a network can learn, and where."""

    device: str
    inputs: Any
    target: Any

    @classmethod
    def of(cls, device: str, rows: int) -> Bench:
        import numpy as np

        random = np.random.default_rng(11)
        inputs = random.normal(size=(rows, 16)).astype(np.float32)
        inputs[random.random(inputs.shape) < 0.02] = np.nan
        filled = np.nan_to_num(inputs)
        target = 30 * filled[:, 0] + 20 * filled[:, 1] * (filled[:, 2] > 0) + random.normal(0, 2, rows)
        return cls(device, inputs, target)

    def network(self, device: str, precision: str, **params: Any) -> Any:
        from rempart.training.trainers import tabular_network

        given = {**PARAMS, "device": device, "precision": precision, **params}
        return tabular_network.fit(self.inputs, self.target, given, 7, "regression", 0)

    def error(self, predicted: Any) -> float:
        return float(abs(predicted - self.target).mean())

    def apart(self, predicted: Any, expected: Any) -> float:
        return float(abs(predicted - expected).mean() / self.target.std())


def devices(bench: Bench) -> Iterator[Observation]:
    import torch

    from rempart.training.gpus import nvml
    from rempart.training.gpus.watch import Unseen

    try:
        gpus = nvml.opened()
    except Unseen as why:
        yield Observation("driver", None if bench.device == "cpu" else False, str(why))
    else:
        told = [f"{gpu.name}, {(gpu.memory_bytes or 0) / 2**30:.0f} GiB" for gpu in gpus.devices]
        yield Observation("driver", True, f"NVIDIA {gpus.driver()}: {'; '.join(told)}")
        gpus.close()
    seen = torch.cuda.is_available()
    named = torch.cuda.get_device_name(0) if seen else "no GPU"
    passed = seen or bench.device == "cpu" or False
    yield Observation("PyTorch", passed, f"{torch.__version__} for CUDA {torch.version.cuda}, sees {named}")


def same(first: Any, second: Any) -> bool:
    """Whether two networks have the same weights and biases to the bit."""
    import numpy as np

    pairs = (pair for layers in zip(first.layers, second.layers, strict=True) for pair in zip(*layers, strict=True))
    return all(np.array_equal(*pair) for pair in pairs)


def network(bench: Bench) -> Iterator[Observation]:
    from rempart.models import onnx_format
    from rempart.training.trainers.network import batches

    plain = bench.network(bench.device, "float32")
    cpu = bench.network("cpu", "float32")
    some = bench.inputs[:5000]
    apart = bench.apart(plain.predict(some), cpu.predict(some))
    yield Observation("network on the device as on the CPU", apart < CLOSE, f"{apart:.2e} of the target's spread apart")
    mixed = bench.network(bench.device, "bfloat16")
    without, error = (bench.error(made.predict(bench.inputs)) for made in (plain, mixed))
    passed = error < WORSE * without and not same(plain, mixed)
    yield Observation(
        "mixed precision learns as float32", passed, f"error {error:.4f} with bfloat16, {without:.4f} without"
    )
    for name, made in (("float32", plain), ("bfloat16", mixed)):
        session = onnx_format.open_session(made.to_onnx())
        apart = bench.apart(onnx_format.run(session, some, "regression", 0), made.predict(some))
        yield Observation(
            f"ONNX of {name} predicts the same", apart < 1e-4, f"{apart:.1e} of the target's spread apart"
        )
    again = bench.network(bench.device, "float32")
    equal = same(plain, again)
    yield Observation("the same order gives the same weights", equal, "to the bit" if equal else "they differ")
    began = time.monotonic()
    with patch.object(batches, "is_resident", return_value=False):
        streamed = bench.network(bench.device, "float32")
    took = time.monotonic() - began
    equal = same(plain, streamed)
    yield Observation("batches by a thread give the same weights", equal, f"to the bit: {equal}; {took:.1f} s")


def xgboost(bench: Bench) -> Iterator[Observation]:
    import xgboost as library

    from rempart.models import onnx_format
    from rempart.training.trainers import xgboost_trees

    name = "XGBoost on the device as on the CPU"
    if bench.device == "cuda" and not library.build_info().get("USE_CUDA"):
        yield Observation(name, False, "this build of XGBoost knows no CUDA: run `make test-gpu`, which installs one")
        return
    made = [
        xgboost_trees.fit(bench.inputs, bench.target, {"device": device}, 7, "regression", 0)
        for device in (bench.device, "cpu")
    ]
    some = bench.inputs[:5000]
    ours, cpu = (onnx_format.run(onnx_format.open_session(m.to_onnx()), some, "regression", 0) for m in made)
    apart = bench.apart(ours, cpu)
    yield Observation(name, apart < CLOSE, f"{apart:.2e} of the target's spread apart")
    apart = bench.apart(ours, made[1].predict(some) if bench.device == "cpu" else made[0].predict(some))
    yield Observation("ONNX of XGBoost predicts the same", apart < 1e-4, f"{apart:.1e} of the target's spread apart")


def processes(bench: Bench) -> Iterator[Observation]:
    """Two processes of one job on one node, as in a pod with two GPUs."""
    import numpy as np
    import torch

    name = "two processes share a job"
    if bench.device == "cuda" and torch.cuda.device_count() < 2:
        yield Observation(name, None, "this machine has one GPU")
        return
    found = []
    with tempfile.TemporaryDirectory(prefix="rempart-gpu-") as folder:
        for number in (1, 2):
            home = Path(folder, str(number))
            result, weights = job(bench, home, number)
            found.append(weights)
    wanted = "nccl" if bench.device == "cuda" else "gloo"
    summed = result["made_with"].get("summed_by")
    apart = max(float(abs(a - b).max()) for a, b in zip(*found, strict=True))
    scale = max(float(np.abs(weight).max()) for weight in found[0])
    yield Observation(
        name, summed == wanted and apart < 0.05 * scale, f"sums by {summed}; weights at most {apart:.1e} apart"
    )
    seen = [gpu["process"] for gpu in result["gpus"]["devices"]]
    if bench.device == "cuda":
        yield Observation("each process tells its GPU", seen == [0, 1], f"processes {seen}")


def job(bench: Bench, home: Path, count: int) -> tuple[dict[str, Any], list[Any]]:
    """Run the entry point's job with `count` processes on a site in a folder: its result, and the model's numbers."""
    import hashlib

    import onnx
    import pyarrow as pa
    import pyarrow.parquet as pq
    from onnx import numpy_helper

    from rempart.sovereignty.job_permission import JobSite, Permission
    from rempart.training.job import Dataset, FeatureSpec, JobSpec, Output, Tracking, TrainerSpec
    from rempart.training.trainers import trainers

    names = [f"f{number}" for number in range(bench.inputs.shape[1])]
    rows = min(len(bench.target), 20_000)
    columns = {name: pa.array(bench.inputs[:rows, at], from_pandas=True) for at, name in enumerate(names)}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({**columns, "y": bench.target[:rows]}), buffer)
    body = buffer.getvalue().to_pybytes()
    site, digest = JobSite(name="primary", connection="s3", region="here"), hashlib.sha256(body).hexdigest()
    spec = JobSpec(
        pipeline="gpu",
        classification="internal",
        task="regression",
        target=FeatureSpec(name="y", type="number"),
        features=tuple(FeatureSpec(name=name, type="number") for name in names),
        dataset=Dataset(
            site=site, bucket="lake", key="rows.parquet", sha256=digest, rows=rows, held_out="0" * 64, examples="0" * 64
        ),
        trainer=TrainerSpec(
            use="tabular_network", params={**PARAMS, "device": bench.device, "precision": "float32"}, seed=7
        ),
        processes=count,
        tracking=Tracking(connection="mlflow", experiment="gpu"),
        output=Output(site=site, bucket="artifacts", prefix="jobs/"),
        snapshot="s1",
        code_version=trainers.code_version("tabular_network"),
        permission=Permission(hosts={"primary": ("127.0.0.1",)}, until=date.max, decision="0" * 64),
    )
    (home / "lake").mkdir(parents=True)
    (home / "artifacts").mkdir()
    (home / "lake" / "rows.parquet").write_bytes(body)
    (home / "spec.json").write_bytes(spec.to_json())
    command = [sys.executable, NODE, home, "--spec", home / "spec.json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**connections(spec), "PYTHONPATH": f"{NODE.parents[3]}"},
    )
    if done.returncode:
        raise RuntimeError(f"the job ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    made = home / "artifacts" / spec.key("result.json")
    graph = onnx.load(str(home / "artifacts" / spec.key("model.onnx"))).graph
    return json.loads(made.read_text()), [numpy_helper.to_array(part) for part in graph.initializer]


def connections(spec: Any) -> dict[str, str]:
    import os

    given = {name: value for name, value in os.environ.items() if not name.startswith(("PET_", "PYTHONPATH"))}
    return {**given, f"AIRFLOW_CONN_{spec.tracking.connection.upper()}": '{"conn_type": "http", "host": "127.0.0.1"}'}


def figures(bench: Bench) -> Iterator[Observation]:
    """What a job tells of the GPU while it trains."""
    from rempart.training.gpus import nvml, usage
    from rempart.training.gpus.watch import GpuWatch

    with GpuWatch(nvml.opened, every=0.2) as watch:
        bench.network(bench.device, "auto", batch_size=8192, hidden="1024,1024", epochs=6)
    use = watch.use()
    if not use.devices:
        yield Observation("use, memory and energy", None if bench.device == "cpu" else False, use.why)
        return
    told = usage.figures(use)
    passed = told.get("gpu_utilisation_peak", 0) > 0 and told.get("gpu_memory_peak_bytes", 0) > 0
    words = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
    untold = "" if "gpu_energy_joules" in told else "; this GPU does not tell its energy"
    yield Observation("use, memory and energy", passed, f"{words} in {use.seconds:.1f} s{untold}")


CHECKS: tuple[Callable[[Bench], Iterator[Observation]], ...] = (devices, network, xgboost, processes, figures)


def run(device: str, rows: int, only: Sequence[str] = (), told: Callable[[str], object] = print) -> list[Observation]:
    """Run every check, or some by name; one that raises an error has failed."""
    bench, found = Bench.of(device, rows), list[Observation]()
    for check in [check for check in CHECKS if not only or check.__name__ in only]:
        try:
            for made in check(bench):
                found.append(made)
                told(made.line())
        except Exception as fault:
            found.append(Observation(check.__name__, False, f"{type(fault).__name__}: {fault}"))
            told(found[-1].line())
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make test-gpu", description=__doc__)
    parser.add_argument("--look", action="store_true", help="only say whether there is a GPU")
    parser.add_argument("--rehearse", action="store_true", help="run the checks on the CPU")
    parser.add_argument("--rows", type=int, default=200_000)
    names = [check.__name__ for check in CHECKS]
    parser.add_argument("--only", nargs="*", default=[], choices=names, help="run some checks, not all")
    given = parser.parse_args(arguments)
    seen = look()
    if given.look or (not seen and not given.rehearse):
        print(f"{seen} GPUs seen" if seen else NOTHING)
        return 0 if seen else 2
    found = run("cpu" if given.rehearse else "cuda", given.rows, given.only)
    failed = [check for check in found if check.passed is False]
    left = [check for check in found if check.passed is None]
    where = "rehearsed on the CPU: no GPU was checked" if given.rehearse else f"checked on {seen} GPUs"
    print(f"{where}: {len(found) - len(failed) - len(left)} passed, {len(failed)} failed, {len(left)} not run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
