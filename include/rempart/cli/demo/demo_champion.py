"""The demo's third part: the champion at work. It predicts in batch and online, is replayed, and is watched."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

from rempart.cli.demo.demo_flights import RunningDemo
from rempart.deployment.setup import paths
from rempart.errors import ServingError
from rempart.settings import config, pipelines
from rempart.settings.pipeline import ModelPipeline

PIPELINE, CLIENT = "hotel_bookings", "demo"
WEEK = {"from": "2017-06-05", "to": "2017-06-12"}
"""Arrivals of one week, held out from training."""
REQUESTS = 10
_PATIENCE = 60.0
_JSON = {"integer": int, "number": float, "decimal": float}


class DemoWithRuns(RunningDemo, Protocol):
    """A demo that starts a DAG and waits for the result of a task."""

    def run(self, stage: str, dag_id: str, task_id: str, *, conf: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""


class AtWork:
    """The champion of the demo's pipeline at work."""

    def __init__(self, demo: DemoWithRuns) -> None:
        self.demo = demo
        self.pipeline: ModelPipeline = pipelines.with_model(pipelines.named(PIPELINE))

    def run(self) -> None:
        """Run the stages, and check what they give. Raises RempartError."""
        self.score()
        self.serve()
        self.watch()

    def score(self) -> None:
        """Predict a week of arrivals in batch, and check that the champion answered for each row."""
        scored = self.demo.run("score", f"score_{PIPELINE}", "score", conf=WEEK)
        told = f"{scored['rows']} bookings of a week predicted in batch by version {scored['version']}"
        self.demo.stages.result(told)
        self.demo.report["scoring"] = {key: scored[key] for key in ("rows", "refused", "version", "table")}
        self.demo.check(scored["rows"] > 0 == scored["refused"] and scored["version"] == self._champion(), told)

    def serve(self) -> None:
        """Ask the scorer for predictions of single rows, and replay one: the log must give the same number."""
        from rempart.flows.governance import clients
        from rempart.flows.prediction_log import keys
        from rempart.flows.prediction_log.replay import replay
        from rempart.settings.champions.serving import log_folder

        demo, platform = self.demo, self.demo.platform
        demo.stages.begin("serve", f"rempart run scorer; POST /predict/{PIPELINE}, {REQUESTS} requests")
        key = clients.issue(platform.ledger, CLIENT, [PIPELINE], 600, [PIPELINE])
        keys.make(platform, self.pipeline)
        with self._scorer() as url:
            answers = [_post(f"{url}/predict/{PIPELINE}", key, row) for row in self._rows()]
        clients.revoke(platform.ledger, CLIENT)
        versions = {answer["version"] for answer in answers}
        last = answers[-1]["predictions"][0]
        done = replay(platform, self.pipeline, last["id"], log_folder() / PIPELINE)
        told = f"{len(answers)} requests answered by version {', '.join(sorted(versions))}"
        demo.stages.result(f"{told}; the last prediction, {last['prediction']:.2f}, is replayed from its log")
        demo.report["serving"] = {"answers": len(answers), "prediction": last["prediction"], "replayed": done.same}
        demo.check(versions == {self._champion()}, told)
        demo.check(done.same, f"a replay of prediction {last['id'][:12]}… gives the same number")

    def watch(self) -> None:
        """Compare what the champion sees now with what it learned from."""
        found = self.demo.run("watch", f"monitor_{PIPELINE}", "watch")
        told = (
            f"the champion fits {found['window']['rows']:,} newer rows: {found['moved']} of {found['watched']} columns "
            "moved"
        )
        self.demo.stages.result(f"the verdict is {found['outcome']}: {told}")
        self.demo.report["watch"] = {key: found[key] for key in ("outcome", "watched", "moved")}
        self.demo.check(found["outcome"] == "green", told)

    def _champion(self) -> str:
        version: str = self.demo.report["model"]["version"]
        return version

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield bookings as a program would send them, without their target."""
        file = config.project_root() / "data" / "hotel_bookings.csv.gz"
        with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
            for row in islice((row for row in csv.DictReader(lines) if row["arrival_date"] >= WEEK["from"]), REQUESTS):
                yield {
                    name: _JSON.get(column.type, str)(row[name]) if row[name] else None
                    for name, column in self.pipeline.columns.items()
                    if name != self.pipeline.prediction.target
                }

    @contextmanager
    def _scorer(self) -> Iterator[str]:
        """Run the scorer until the block ends. Yields its address. Raises ServingError if it does not begin to work."""
        port = paths.current().scorer_port
        url = f"http://127.0.0.1:{port}"
        log = config.var_dir() / "logs" / "scorer.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "rempart.cli", "run", "scorer", "--port", str(port)], stdout=out, stderr=out
            )
            try:
                end = time.monotonic() + _PATIENCE
                while not _is_ready(f"{url}/v2/health/ready"):
                    if process.poll() is not None or time.monotonic() > end:
                        raise ServingError(f"serve '{PIPELINE}': the scorer does not answer", f"Read {log}.")
                    time.sleep(0.2)
                yield url
            finally:
                process.terminate()
                process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - this machine's scorer
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _post(url: str, key: str, row: dict[str, Any]) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(row).encode(), headers)  # noqa: S310 - this machine's scorer
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        told = json.loads(refused.read() or b"{}")
        raise ServingError(
            f"ask the scorer: {told.get('error', refused.code)}", str(told.get("remedy", "Read its log."))
        ) from None
