"""The demo's third part: the champion at work. It predicts in batch and online, is replayed, and is watched."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, Protocol

from rempart.cli.demo.demo_flights import RunningDemo
from rempart.deployment.setup import paths, profiles
from rempart.errors import ServingError
from rempart.settings import config, pipelines
from rempart.settings.pipeline import ModelPipeline

PIPELINE, CLIENT = "hotel_bookings", "demo"
WEEK = {"from": "2017-06-05", "to": "2017-06-12"}
"""Arrivals of one week, held out from training."""
REQUESTS = 10
SAME = 1e-6
"""Relative difference of two predictions that are equal as numbers of 32 bits."""
PATIENCE = 120.0
"""Seconds for which the demo asks a scorer that is not ready yet."""
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
        self.scored: dict[str, Any] = {}

    def run(self) -> None:
        """Run the stages, and check what they give. Raises RempartError."""
        self.score()
        self.serve()
        self.watch()

    def score(self) -> None:
        """Predict a week of arrivals in batch, and check that the champion answered for each row."""
        scored = self.scored = self.demo.run("score", f"score_{PIPELINE}", "score", conf=WEEK)
        told = f"{scored['rows']} bookings of a week predicted in batch by version {scored['version']}"
        self.demo.stages.result(told)
        self.demo.report["scoring"] = {key: scored[key] for key in ("rows", "refused", "version", "table")}
        self.demo.check(scored["rows"] > 0 == scored["refused"] and scored["version"] == self._champion(), told)

    def serve(self) -> None:
        """Ask the running scorer for single rows. The answers equal the batch's, and the log of one gives it again."""
        from rempart.flows.governance import clients
        from rempart.flows.prediction_log import keys
        from rempart.flows.prediction_log.replay import replay
        from rempart.settings.champions.serving import log_folder

        demo, platform, stack = self.demo, self.demo.platform, paths.current()
        url = f"http://{stack.host(config.SCORER)}:{stack.scorer_port}/predict/{PIPELINE}"
        demo.stages.begin("serve", f"POST {url}, {REQUESTS} requests")
        if not profiles.scores(stack, os.environ):
            demo.stages.result("not run: this stack starts no scorer")
            return
        batch = self._batch()
        rows = list(islice((row for row in self._rows() if row["booking_id"] in batch), REQUESTS))
        keys.make(platform, self.pipeline)
        key = clients.issue(platform.ledger, CLIENT, [PIPELINE], 600, [PIPELINE])
        answers = [_post(url, key, row) for row in rows]
        clients.revoke(platform.ledger, CLIENT)
        versions = {answer["version"] for answer in answers}
        online = [answer["predictions"][0] for answer in answers]
        pairs = [(row["booking_id"], each["prediction"]) for row, each in zip(rows, online, strict=True)]
        same = sum(math.isclose(value, batch[booking], rel_tol=SAME) for booking, value in pairs)
        done = replay(platform, self.pipeline, online[-1]["id"], log_folder() / PIPELINE)
        told = f"{len(answers)} requests answered by version {', '.join(sorted(versions))}"
        equal = f"{same} of {len(answers)} online answers equal the batch's predictions of the same bookings"
        demo.stages.result(f"{told}, {same} equal to the batch; one, {pairs[-1][1]:.2f}, is replayed from its log")
        demo.report["serving"] = {
            "answers": len(answers),
            "equal_to_batch": same,
            "prediction": pairs[-1][1],
            "replayed": done.same,
        }
        demo.check(versions == {self._champion()}, told)
        demo.check(same == len(answers) == REQUESTS, equal)
        demo.check(done.same, f"a replay of prediction {online[-1]['id'][:12]}… gives the same number")

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

    def _batch(self) -> Mapping[int, float]:
        """Return the batch's predictions of the week, by booking."""
        import pyarrow.parquet as pq

        from rempart.flows.prediction import scorings

        site = self.demo.platform.active_site(self.pipeline.classification)
        bucket, _, root = self.scored["table"].partition("/")
        known = {scoring.id: scoring for scoring in scorings.all_of(site, bucket, root)}
        found, wanted = dict[int, float](), self.scored["scoring"]
        while wanted:  # of partitions that did not change, an earlier scoring has the rows
            for part in known[wanted].parts:
                table = pq.read_table(io.BytesIO(site.read(bucket, part.key, sha256=part.sha256)))
                for row in table.select(["booking_id", "prediction"]).to_pylist():
                    found.setdefault(row["booking_id"], row["prediction"])
            wanted = known[wanted].based_on
        return found

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the week's bookings as a program would send them, without their target."""
        file = config.project_root() / "data" / "hotel_bookings.csv.gz"
        with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if WEEK["from"] <= row["arrival_date"] < WEEK["to"]:
                    yield {
                        name: _JSON.get(column.type, str)(row[name]) if row[name] else None
                        for name, column in self.pipeline.columns.items()
                        if name != self.pipeline.prediction.target
                    }


def _post(url: str, key: str, row: dict[str, Any], patience: float = PATIENCE) -> Any:
    """Return the scorer's answer. Ask again as long as it says so, at most for `patience` seconds: it may be opening
    the champion. Raises ServingError.
    """
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(row).encode(), headers)  # noqa: S310 - this machine's scorer
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            told, later = json.loads(refused.read() or b"{}"), refused.headers.get("Retry-After")
            if refused.code != HTTPStatus.SERVICE_UNAVAILABLE or later is None or time.monotonic() > until:
                raise ServingError(
                    f"ask the scorer: {told.get('error', refused.code)}", str(told.get("remedy", "Read its log."))
                ) from None
        time.sleep(float(later))
