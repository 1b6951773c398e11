"""Measure the scorer beside `mlflow models serve` with the same ONNX model, each one process over HTTP.

make bench BENCH=serving                   # 20 s for each case
make bench BENCH=serving ARGS="5"          # seconds for each case
make bench BENCH=serving ARGS="5 profile"  # and where the scorer's time goes

The model is trained on the sample's row features (no trailing views, so no database is read). The scorer gets rows with
the columns of the source, checks them, makes features, predicts in its isolated process and brings a sealed entry to
disk before it answers. MLflow's server (one worker) gets the encoded matrix, so it is spared that work; it has neither
keys nor a log.

An open loop sends requests at fixed times, and counts the time from when each was due. The highest rate is measured by
32 connections that ask as fast as they are answered. The load comes from another process of the same machine.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.report import Row, write
from rempart.settings.telemetry import TELEMETRY_OFF

RATE, CONNECTIONS = 200, 32
ROWS = (1, 10, 100)
KEY = "rempart-client-" + "k" * 43
NAME = "hotel_bookings"


def plain_pipeline() -> Any:
    """Hotel bookings with the row view alone."""
    from rempart.settings.pipeline import ModelPipeline
    from rempart.settings.pipelines import named

    pipeline = named(NAME)
    assert isinstance(pipeline, ModelPipeline)
    return pipeline.model_copy(update={"features": {"booking": pipeline.features["booking"]}})


def sample() -> Any:
    """Rows of the sample with the columns of the schema."""
    import pyarrow.csv as csv

    from rempart.settings.config import project_root

    return csv.read_csv(project_root() / "data" / "hotel_bookings.csv.gz")


def trained(folder: Path) -> None:
    """Write model.onnx, and the request bodies of each size for both servers."""
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
    rows = table.select([each.name for each in inputs])
    for size in ROWS:
        ours = {"rows": rows.slice(100, size).to_pylist()}
        (folder / f"ours-{size}.json").write_text(json.dumps(ours, default=str))
        (folder / f"peer-{size}.json").write_text(json.dumps({"inputs": matrix[100 : 100 + size].tolist()}))


async def scorer(folder: Path, port: int, *, profiled: bool) -> None:
    """Serve the model as `rempart run scorer` does, with a key and a sealed log."""
    from rempart.backup.keys import age
    from rempart.features.prediction.plan import inputs_of
    from rempart.flows.prediction_log import keys
    from rempart.flows.serving.answering import AnsweringVersion
    from rempart.flows.serving.stored_features import StoredFeatures
    from rempart.models.encoding import features_of
    from rempart.models.isolated_model import IsolatedModel
    from rempart.models.loading import LoadedModel
    from rempart.serving.journal import Journal
    from rempart.serving.scorer import http_server
    from rempart.serving.scorer.app import Scorer
    from rempart.serving.scorer.clients import Client, Clients, digest
    from rempart.serving.scorer.deployments import Deployment, Deployments

    pipeline = plain_pipeline()
    features, inputs = features_of(pipeline), inputs_of(pipeline, pipeline.model_inputs())
    model = IsolatedModel((folder / "model.onnx").read_bytes())
    loaded = LoadedModel(NAME, "1", "regression", None, features, inputs, "0" * 64, model)
    version = AnsweringVersion(loaded, pipeline, StoredFeatures(_no_database, pipeline), lambda: datetime.now(UTC))
    clients = Clients()
    clients.replace([Client("bench", digest(KEY), (NAME,), 1_000_000)])
    (folder / "log").mkdir(exist_ok=True)
    journal = Journal(folder / "log", keys.sealing("bench", age.new_identity().recipient))
    found = Scorer(Deployments(), clients, journal, "bench", "0")
    found.deployments.replace(NAME, Deployment(version))
    profile = cProfile.Profile()
    if profiled:
        profile.enable()
    await http_server.server(found.application(), "127.0.0.1", port).serve()
    if profiled:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    await found.deployments.finish()
    await journal.close()


def _no_database() -> Any:
    raise AssertionError("no view is trailing")


class Load:
    """Requests of one kind on connections that stay open."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _ask(self, opened: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        reader, writer = opened
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split(b" ", 2)[1] == b"200", head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))

    async def open_loop(self, seconds: float) -> list[float]:
        """Send at a fixed rate. Return the seconds from when each request was due to its answer."""
        free, took = asyncio.Queue[Any](), list[float]()
        for _ in range(CONNECTIONS):
            free.put_nowait(await self._connect())

        async def send(due: float) -> None:
            opened = await free.get()
            await self._ask(opened)
            took.append(time.perf_counter() - due)
            free.put_nowait(opened)

        began, tasks = time.perf_counter() + 0.1, []
        for number in range(int(seconds * RATE)):
            due = began + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(send(due)))
        await asyncio.gather(*tasks)
        return took

    async def closed_loop(self, seconds: float) -> float:
        """Ask as fast as answers come. Return requests in a second."""
        end, done = time.perf_counter() + seconds, 0

        async def ask() -> None:
            nonlocal done
            opened = await self._connect()
            while time.perf_counter() < end:
                await self._ask(opened)
                done += 1
            opened[1].close()

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
        return done / seconds


def loaded(port: int, path: str, body: bytes, seconds: float) -> dict[str, float]:
    """Measure one kind of request. Times in milliseconds."""

    async def measure() -> dict[str, float]:
        load = Load(port, path, body)
        await load.closed_loop(1.0)
        took = sorted(await load.open_loop(seconds))
        rate = await load.closed_loop(seconds)
        return {
            "p50": 1000 * statistics.median(took),
            "p99": 1000 * took[int(len(took) * 0.99)],
            "rate": rate,
        }

    return asyncio.run(measure())


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server that accepts connections."""
    environment = os.environ | TELEMETRY_OFF
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow starts uvicorn by its name
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(600):
                time.sleep(0.2)
                with socket.socket() as opened:
                    if opened.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(30)


def peer_command(folder: Path, port: int) -> list[str]:
    """MLflow's own server, in this environment, with one worker."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(folder / "model.onnx"), str(folder / "mlflow"), pip_requirements=["onnxruntime"])
    serve = ["models", "serve", "-m", str(folder / "mlflow"), "--env-manager", "local", "-p", str(port)]
    return [sys.executable, "-m", "mlflow", *serve, "-h", "127.0.0.1", "--workers", "1"]


def main(seconds: float, *, profiled: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as name:
        folder = Path(name)
        trained(folder)
        found: dict[str, dict[int, dict[str, float]]] = {}

        def ours(port: int) -> list[str]:
            told = "profile" if profiled else ""
            return [sys.executable, "-m", "bench.serving", "serve", name, str(port), told]

        servers = {
            "ours": (ours, f"/predict/{NAME}"),
            "peer": (partial(peer_command, folder), "/invocations"),
        }
        for server, (command, path) in servers.items():
            port = free_port()
            with served(command(port), port, folder / f"{server}.log"):
                found[server] = {
                    size: loaded(port, path, (folder / f"{server}-{size}.json").read_bytes(), seconds) for size in ROWS
                }
            print(server, found[server], flush=True)
            if profiled and server == "ours":
                print((folder / "ours.log").read_text())
        peer = "mlflow models serve"
        rows = []
        for size in ROWS:
            mine, other = found["ours"][size], found["peer"][size]
            told = f"{size} row{'' if size == 1 else 's'}"
            rows += [
                Row(f"{told}, {RATE} requests/s, p50", "ms", mine["p50"], other["p50"], peer, "lower"),
                Row(f"{told}, {RATE} requests/s, p99", "ms", mine["p99"], other["p99"], peer, "lower"),
                Row(f"{told}, highest rate", "requests/s", mine["rate"], other["rate"], peer, "higher"),
            ]
        write("serving", rows, seconds=seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        import uvloop

        uvloop.run(scorer(Path(sys.argv[2]), int(sys.argv[3]), profiled="profile" in sys.argv))
    else:
        main(float(next(iter(sys.argv[1:]), "20")), profiled="profile" in sys.argv)
