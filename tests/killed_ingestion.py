"""Extract and ingest in a process that kills itself at the n-th effect: a write, a read, a query, a row.

The parent starts this module once. It imports what a run needs, and forks for each attempt, so an attempt costs no
imports. An attempt reads deliveries itself: the process that reads them on the platform would be started for each. The
count of effects decides where an attempt ends, never the time.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from rempart.settings.config import Config, Connection, project_root
from rempart.settings.pipeline import Pipeline

ROWS, BYTES = 4, 400
"""Rows of one delivery, and bytes after which an extraction ends: a run has several parts."""


@dataclass(frozen=True)
class Job:
    """Arguments of one attempt. `home` is the project's folder."""

    config: Config
    pipeline: Pipeline
    connections: Mapping[str, Connection] = field(repr=False)
    home: Path = field(default_factory=project_root)


Point = tuple[Literal["effects", "writes"], int]
"""Where an attempt dies: at the n-th effect, or at the n-th of those that write to the site. There are far fewer."""


class Countdown:
    """Kills this process at a point, if there is one."""

    def __init__(self, at: Point | None) -> None:
        self.at, self.counts, self._lock = at, {"effects": 0, "writes": 0}, threading.Lock()

    def step(self, *, write: bool = False) -> None:
        with self._lock:
            self.counts["effects"] += 1
            self.counts["writes"] += write
            if self.at and self.counts[self.at[0]] == self.at[1] and (write or self.at[0] == "effects"):
                os.kill(os.getpid(), signal.SIGKILL)

    def effect(self, owner: Any, *names: str, write: bool = False) -> None:
        """Count a call before it is made, and once it has returned."""
        for name in names:
            place = next(cls for cls in owner.__mro__ if name in vars(cls))
            setattr(place, name, self._call(getattr(place, name), write))

    def stream(self, owner: Any, *names: str) -> None:
        """Count each piece that a generator gives."""
        for name in names:
            place = next(cls for cls in owner.__mro__ if name in vars(cls))
            setattr(place, name, self._pieces(getattr(place, name)))

    def _call(self, real: Callable[..., Any], write: bool) -> Callable[..., Any]:
        @wraps(real)
        def call(*args: Any, **more: Any) -> Any:
            self.step(write=write)
            found = real(*args, **more)
            self.step(write=write)
            return found

        return call

    def _pieces(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        def pieces(*args: Any, **more: Any) -> Iterator[Any]:
            self.step()
            for piece in real(*args, **more):
                self.step()
                yield piece

        return pieces


def _count(down: Countdown) -> None:
    """Count what reaches outside the process, and make a run's parts small."""
    import psycopg

    from rempart.flows.ingestion import ingest, ingest_run
    from rempart.ingestion import isolated
    from rempart.ingestion.sources import bucket, csv_deliveries, sql
    from rempart.ingestion.sources.mariadb import MariadbReading
    from rempart.ingestion.sources.postgresql import PostgresqlReading
    from rempart.ingestion.sources.web import client, source
    from rempart.sites.s3.site import S3Site

    down.effect(S3Site, "read", "fetch", "head", "checks", "open")
    down.effect(S3Site, "write", "write_new", "write_file", "delete", write=True)
    down.stream(S3Site, "list")
    down.effect(psycopg.Connection, "execute")
    down.stream(PostgresqlReading, "_copy")
    down.stream(MariadbReading, "_select")
    down.effect(client.Client, "page")
    down.stream(client.Client, "blocks")
    ingest.WORKERS = ingest_run.WORKERS = 1  # the same count is the same effect
    isolated._ask, isolated.idle = _read, os.getpid
    csv_deliveries.MOST_ROWS = source.DELIVERY_ROWS = ROWS
    source.RUN_BYTES = bucket.RUN_BYTES = BYTES
    client.wait_of = lambda *about: 0.0
    real = sql.SqlExtraction
    sql.SqlExtraction = lambda *given: real(*given[:-1], most=BYTES)  # type: ignore[misc,assignment] # only here


def _read(order: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Read a delivery in this process. In each attempt, a process for foreign files would import for a second."""
    from rempart.ingestion import reading_process
    from rempart.ingestion.unpacking import Unreadable

    try:
        return {"fault": None, **reading_process.work(order)}
    except Unreadable as fault:
        return {"fault": str(fault)}


def run(job: Job, at: Point | None) -> dict[str, Any]:
    """Extract and ingest once. Die at a point. Return what a person would see, and the counts of effects and writes."""
    from rempart.flows.ingestion.extract import extract
    from rempart.flows.ingestion.ingest import ingest
    from rempart.flows.shared.platform import Platform
    from tests.conftest import OwnContinuity

    os.environ["REMPART_HOME"] = str(job.home)
    down = Countdown(at)
    _count(down)
    # each attempt has leases of its own: that of a killed one would be held for a minute
    continuity = OwnContinuity(job.connections["pg_continuity"])
    platform = Platform(job.config, job.connections.__getitem__, continuity_=continuity)
    extracted = extract(platform, job.pipeline)
    ingested = ingest(platform, job.pipeline)
    return {
        "new": extracted.deliveries + ingested.deliveries,
        "complete": extracted.complete and not extracted.waiting,
        "changed": ingested.changed,
        "counts": down.counts,
    }


def serve() -> None:
    """Fork for each order of the parent: the file of a job, and the point at which it dies."""
    import great_expectations  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import rempart.flows.ingestion.extract
    import rempart.flows.ingestion.ingest
    import rempart.ingestion.reading_process
    import rempart.sites.s3.site  # noqa: F401
    import tests.conftest  # noqa: F401
    from rempart.sites.s3.client import open_client

    nowhere = Connection("nowhere", "aws", login="-", password="-", extra={"endpoint_url": "http://127.0.0.1:9"})
    open_client("nowhere", nowhere, "local-1")  # boto3 reads its model of S3 here
    gc.freeze()  # each attempt would look through these objects again
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        if not (child := os.fork()):
            try:
                job = pickle.loads(Path(order["job"]).read_bytes())  # noqa: S301 - the parent wrote it
                result = run(job, order["at"] and tuple(order["at"]))
                Path(order["result"]).write_text(json.dumps(result))
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, file=answers, flush=True)


class Runner:
    """Runs attempts of jobs in processes that may be killed."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def attempt(self, job: Job, at: Point | None = None) -> dict[str, Any] | None:
        """Return what an attempt gave, or None if it was killed at the point."""
        file, result = self._folder / "job", self._folder / "result"
        file.write_bytes(pickle.dumps(job))
        result.unlink(missing_ok=True)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"job": str(file), "result": str(result), "at": at}) + "\n")
        self._process.stdin.flush()
        code = self._process.stdout.readline().strip()
        if code == str(-signal.SIGKILL) and at:
            return None
        assert code == "0", (code, (self._folder / "log").read_text()[-4000:])
        found: dict[str, Any] = json.loads(result.read_text())
        return found


@contextmanager
def running(folder: Path) -> Iterator[Runner]:
    """Start the process that forks, until the end of the block."""
    root = Path(__file__).resolve().parents[1]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", "from tests.killed_ingestion import serve; serve()"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield Runner(process, folder)
        assert process.stdin
        process.stdin.close()
        process.wait(60)
