"""Measure the scorer beside `mlflow models serve`, and beside stock Feast with onnxruntime behind FastAPI.

make bench BENCH=serving                   # 4 s for each measurement, about 4 minutes
make bench BENCH=serving ARGS="10"         # seconds for each measurement
make bench BENCH=serving ARGS="2 profile"  # where the scorer's time goes, and nothing else

Each server has one worker, and the same model.onnx. On a machine with more than one processor, the first is for the
servers alone, and the requests come from the second. The servers run side by side, so a case is measured at nearly the
same moment for all of them; a server that is not asked does nothing.

*By rows*: the model is trained on the sample's row features. The scorer gets rows with the columns of the source,
checks the key and the rows, makes features, predicts in its isolated process, and writes a sealed record before it
answers; the disk has it at most 50 ms later. MLflow's server gets the encoded matrix, so it is spared that work; it has
neither keys nor a log. *By key*: both get the keys of bookings, and read the features from the same PostgreSQL, each
from its own online tables. *TLS*: the scorer by rows, beside itself without TLS.

An open loop sends requests at fixed times, and counts the time from when each was due. The highest rate is measured by
64 connections that ask as fast as they are answered. The processor time of a request is that of the server and its
children in the meantime, without PostgreSQL's: other work on the machine hardly changes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import Row, write
from bench.serving_load import Load, LoadFigures, disk_milliseconds
from bench.serving_servers import NAME, keep_databases, plain_pipeline
from rempart.settings.telemetry import TELEMETRY_OFF

RATES = {1: 200, 10: 100, 100: 20}
"""Requests a second of the open loop, by rows of a request."""
AT = datetime(2030, 1, 1, tzinfo=UTC)
BY_ROWS, BY_KEY = f"/predict/{NAME}", "/predict"


def sample() -> Any:
    """Rows of the sample with the columns and types of the schema."""
    import pyarrow as pa
    import pyarrow.csv as csv

    from rempart.settings.config import project_root

    texts = {name: pa.string() for name, column in plain_pipeline().columns.items() if column.type == "string"}
    options = csv.ConvertOptions(column_types=texts)
    return csv.read_csv(project_root() / "data" / "hotel_bookings.csv.gz", convert_options=options)


def prepare(folder: Path) -> None:
    """Write model.onnx, and the bodies of requests by kind and size."""
    import numpy as np

    from rempart.features.prediction.plan import inputs_of, plan
    from rempart.features.prediction.rows import features
    from rempart.models.encoding import encode, features_of
    from rempart.models.inputs import typed
    from rempart.training.trainers import trainers

    pipeline, table = plain_pipeline(), sample()
    names = pipeline.model_inputs()
    inputs, planned = inputs_of(pipeline, names), plan(pipeline, names)
    made = features(planned, typed(inputs, table), datetime.now(UTC), lambda view, keys: None)
    matrix = encode(features_of(pipeline), made)
    truth = np.asarray(table["avg_price_per_room"].to_numpy(), np.float64)
    params = {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 15}
    body = trainers.train("gradient_boosting", matrix, truth, params, 7, "regression", matrix, 0).body
    (folder / "model.onnx").write_bytes(body)
    rows = table.select(["booking_id", *(each.name for each in inputs)])
    dice = random.Random(11)  # noqa: S311 - test data
    for size in RATES:
        keys = [{"booking_id": key} for key in dice.sample(table["booking_id"].to_pylist(), size)]
        bodies = {
            "rows": {"rows": rows.slice(100, size).to_pylist()},
            "matrix": {"inputs": matrix[100 : 100 + size].tolist()},
            "keys": {"keys": keys},
        }
        for kind, content in bodies.items():
            (folder / f"{kind}-{size}.json").write_text(json.dumps(content, default=str))


@contextmanager
def online_stores(folder: Path) -> Iterator[None]:
    """A PostgreSQL with the sample's features in stock Feast's online store, and in ours."""
    from rempart.features import offline, online, quick_feast, repository
    from rempart.features.databases import FeatureDatabases, session
    from tests.integration.own_servers import own_servers

    quick_feast.load()
    pipeline = plain_pipeline()
    with own_servers(folder / "var") as servers:
        of = (servers.connections(f"pg_feast_{part}") for part in ("registry", "offline", "online"))
        databases = FeatureDatabases(*of)
        offline.load(databases, pipeline, sample().to_reader(50_000), "s1", AT)
        with repository.feature_store(databases, pipeline, "postgres") as store:
            repository.apply(store, pipeline)
            store.materialize(datetime(2010, 1, 1, tzinfo=UTC), AT)
        with session(databases.offline, "begin again") as opened:
            opened.execute("UPDATE feature_views SET watermark = NULL WHERE pipeline = %s", (pipeline.name,))
        online.materialize(databases, pipeline, AT)
        keep_databases(folder, databases)
        yield


def free_port() -> int:
    """Return a free port below those that the system itself gives away, so that none is taken before it is used."""
    for port in random.sample(range(26000, 30000), 1000):
        with socket.socket() as opened, contextlib.suppress(OSError):
            opened.bind(("127.0.0.1", port))
            return port
    raise OSError("1,000 ports between 26000 and 30000 are in use")


@contextmanager
def served(command: Sequence[str], port: int, log: Path) -> Iterator[int]:
    """A server on the first processor that accepts connections. Yields its process id."""
    environment = os.environ | TELEMETRY_OFF
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow starts uvicorn by its name
    first = min(os.sched_getaffinity(0))
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        os.sched_setaffinity(process.pid, {first})
        try:
            for _ in range(900):
                time.sleep(0.2)
                with socket.socket() as opened:
                    if opened.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, log.read_text()
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)


def mlflow_command(folder: Path, port: int) -> list[str]:
    """MLflow's own server, in this environment, with one worker."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(folder / "model.onnx"), str(folder / "mlflow"), pip_requirements=["onnxruntime"])
    serve = ["models", "serve", "-m", str(folder / "mlflow"), "--env-manager", "local", "-p", str(port)]
    return [sys.executable, "-m", "mlflow", *serve, "-h", "127.0.0.1", "--workers", "1"]


def own_command(which: str, folder: Path, port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "bench.serving_servers", which, str(folder), str(port), *options]


def compared(way: str, size: int, ours: LoadFigures, other: LoadFigures, peer: str) -> list[Row]:
    """Return the rows of one case."""
    case = f"{way}, {size} row{'' if size == 1 else 's'}"
    open_loop = f"{case}, {RATES[size]} requests/s"
    return [
        Row(f"{open_loop}, p50", "ms", ours.p50, other.p50, peer, "lower"),
        Row(f"{open_loop}, p99", "ms", ours.p99, other.p99, peer, "lower"),
        Row(f"{case}, highest rate", "requests/s", ours.rate, other.rate, peer, "higher"),
        Row(f"{case}, processor time of a request", "ms", ours.cpu, other.cpu, peer, "lower"),
    ]


def main(seconds: float) -> None:
    from tests.listeners import certificate

    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        prepare(folder)
        certificate(folder)
        stack.enter_context(online_stores(folder))
        ports = {name: free_port() for name in ("ours", "mlflow", "tls", "feast")}
        commands = {
            "ours": own_command("scorer", folder, ports["ours"]),
            "mlflow": mlflow_command(folder, ports["mlflow"]),
            "tls": own_command("scorer", folder, ports["tls"], "tls"),
            "feast": own_command("feast", folder, ports["feast"]),
        }
        pids = {
            name: stack.enter_context(served(command, ports[name], folder / f"{name}.log"))
            for name, command in commands.items()
        }
        if len(processors := sorted(os.sched_getaffinity(0))) > 1:
            os.sched_setaffinity(0, set(processors[1:]))

        def measured(server: str, path: str, kind: str, size: int) -> LoadFigures:
            body = (folder / f"{kind}-{size}.json").read_bytes()
            load = Load(ports[server], path, body, pids[server], tls=server == "tls")
            found = load.measure(RATES[size], seconds)
            print(f"{server}, {kind}, {size}: {found}", flush=True)
            return found

        rows = list[Row]()
        for size in RATES:
            ours = measured("ours", BY_ROWS, "rows", size)
            rows += compared(
                "by rows", size, ours, measured("mlflow", "/invocations", "matrix", size), "mlflow models serve"
            )
            rows += compared(
                "by rows with TLS", size, measured("tls", BY_ROWS, "rows", size), ours, "the same without TLS"
            )
            by_key = measured("ours", BY_ROWS, "keys", size)
            rows += compared("by key", size, by_key, measured("feast", BY_KEY, "keys", size), "stock Feast and FastAPI")
        figures = {"load_average": os.getloadavg(), "disk_ms": disk_milliseconds(folder)}
        write("serving", rows, seconds=seconds, rates=RATES, **figures)
        print(figures)


def profile(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as name:
        folder, port = Path(name), free_port()
        prepare(folder)
        with served(own_command("scorer", folder, port, "profile"), port, folder / "log") as pid:
            for size, rate in RATES.items():
                load = Load(port, BY_ROWS, (folder / f"rows-{size}.json").read_bytes(), pid)
                print(size, load.measure(rate, seconds))
        print((folder / "log").read_text())


if __name__ == "__main__":
    told = sys.argv[1:]
    length = float(next(iter(told), "4"))
    profile(length) if "profile" in told else main(length)
