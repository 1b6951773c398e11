"""A scorer that is asked all along, while a proof breaks what is around it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.deployment.setup import paths
from rempart.errors import ServingError
from rempart.flows.governance import clients
from rempart.flows.prediction_log import files, keys, run
from rempart.flows.shared.platform import Platform
from rempart.serving import segments
from rempart.settings import config
from rempart.settings.champions.serving import log_folder
from rempart.settings.pipeline import ModelPipeline

EVERY = 0.05
"""Seconds between two requests."""
PATIENCE = 120.0


@dataclass(frozen=True)
class ProofRequest:
    """A request. `sent`, `got`: monotonic seconds; `status`: 0 without an answer; `told`: the answer's content."""

    sent: float
    got: float
    status: int
    told: Mapping[str, Any]


class AskedOn:
    """The scorer's process, and a thread that asks it for a pipeline's predictions until it is stopped."""

    def __init__(self, platform: Platform, pipeline: ModelPipeline, rows: Sequence[Mapping[str, Any]]) -> None:
        self._platform, self._pipeline, self._rows = platform, pipeline, rows
        keys.make(platform, pipeline)
        self._key = clients.issue(platform.ledger, "proof", [pipeline.name], 1_000_000, [pipeline.name])
        self._port = paths.current().scorer_port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.requests: list[ProofRequest] = []
        self._start()
        self._thread.start()

    def _start(self) -> None:
        log = config.var_dir() / "logs" / "scorer.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "rempart.cli", "run", "scorer", "--port", str(self._port)]
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline, url = time.monotonic() + PATIENCE, f"http://127.0.0.1:{self._port}/v2/health/ready"
        while True:
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=30):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServingError("start the scorer: it does not answer", f"Read {log}.")
            time.sleep(0.1)

    def start_again(self) -> float:
        """Stop the scorer, delete the models that it kept, and start it. Return the seconds until it answers."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        for model in (config.var_dir() / "scorer").glob("*.onnx"):
            model.unlink()
        began = time.monotonic()
        self._start()
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop asking, then the scorer."""
        self._ends.set()
        self._thread.join(PATIENCE)
        self._process.terminate()
        self._process.wait(PATIENCE)
        clients.revoke(self._platform.ledger, "proof")

    def _ask(self) -> None:
        number, opened = 0, self._open()
        headers = {"Authorization": f"Bearer {self._key}"}
        while not self._ends.wait(EVERY):
            body, sent, status, told = json.dumps(self._rows[number % len(self._rows)]), time.monotonic(), 0, {}
            try:
                opened.request("POST", f"/predict/{self._pipeline.name}", body, headers)
                answer = opened.getresponse()
                status, told = answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                opened.close()
                opened = self._open()
            self.requests.append(ProofRequest(sent, time.monotonic(), status, told))
            number += 1

    def _open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)

    def between(self, begin: float, end: float) -> list[ProofRequest]:
        """Return the requests that were sent in a time, and answered or refused."""
        return [each for each in self.requests if begin <= each.sent <= end]

    def ship(self) -> None:
        """Ship the log as the DAG ship_predictions does, which may be at it. Raises RempartError."""
        folder, deadline = log_folder() / self._pipeline.name, time.monotonic() + PATIENCE
        run.run(self._platform, log_folder())
        while segments.closed_in(folder) and time.monotonic() < deadline:
            time.sleep(0.5)
            run.run(self._platform, log_folder())

    def wrong_at(self, site: str) -> list[str]:
        """Return what is wrong with the log at a site: each answer is there once, as its client got it."""
        now, bucket = datetime.now(UTC), self._platform.config.buckets.lake
        opened = self._platform.site(site, self._pipeline.classification)
        tables = files.entries(
            self._platform.ledger, opened, bucket, self._pipeline.name, now - timedelta(hours=3), now
        )
        rows = [row for table in tables for row in table.to_pylist()]
        times, by_id = Counter(row["id"] for row in rows), {row["id"]: row for row in rows}
        wrong = [f"{id_} is there {count} times" for id_, count in times.items() if count > 1]
        for asked in self.requests:
            if asked.status == 200:
                (made,) = asked.told["predictions"]
                row = by_id.get(made["id"])
                if row is None or (row["version"], row["prediction"]) != (asked.told["version"], made["prediction"]):
                    wrong.append(f"{made['id']} is not in the log as it was answered")
        return wrong
