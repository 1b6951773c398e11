"""The scorer as a process of its own, on real stores, and clients that ask it at fixed times.

Ledger, generations and buckets belong to the test; PostgreSQL and the sites are those of the stack.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql

from bench.serving import free_port
from rempart.backup.databases.postgresql import drop_database
from rempart.features.prediction.plan import plan
from rempart.flows.governance import clients
from rempart.flows.prediction.champion import Champion
from rempart.flows.prediction_log import files, keys, run
from rempart.flows.shared.platform import Platform
from rempart.models.loading import open_verified
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings import config, pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from tests import answering
from tests.buckets import own_buckets
from tests.derived_project import write_project
from tests.switchovers import ROOT, generations
from tests.unit.flows.prediction.test_champion import no_lookup, raw
from tests.unit.training import stage

NAME = "stays_test"
ROWS = 8
"""Different rows that clients send."""
ITERATIONS = {"1": 3, "2": 4}
"""Of the versions' trainings: they predict differently."""
STORES = ("pg_ledger", "pg_continuity", "pg_feast_online", "s3_primary", "s3_haven")
"""Connections that the scorer has; none to Airflow or MLflow, and no key."""
CONNECTIONS = 32
MOST_REQUESTS = 50_000
"""Of one load: what it waits for has not come then, and does not."""


@dataclass(frozen=True)
class Answer:
    """What a client got for a request, or that it got nothing (status 0). `sent` and `got`: monotonic seconds."""

    row: int
    sent: float
    got: float
    status: int
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.body["predictions"][0]["id"])

    @property
    def version(self) -> str:
        return str(self.body["version"])

    @property
    def output(self) -> dict[str, Any]:
        return {name: value for name, value in self.body["predictions"][0].items() if name != "id"}


class Served:
    """A project with one pipeline and two versions, and the process of its scorer."""

    def __init__(self, platform: Platform, home: Path, environment: Mapping[str, str]) -> None:
        self.platform, self._environment = platform, dict(environment)
        self.var = home / "var"
        self.port, self._process = 0, None  # type: int, subprocess.Popen[bytes] | None
        self._champion: str | None = None
        self.pipeline: ModelPipeline = pipelines.with_model(pipelines.named(NAME))
        table = raw(answering.TABLE).slice(0, ROWS)
        self.rows = [row | {"arrival": row["arrival"].isoformat(), "stay_id": 0} for row in table.to_pylist()]
        site = platform.site("primary", "personal")
        self.wanted: dict[str, list[dict[str, Any]]] = {}
        """The predictions of each version, by row."""
        for version, iterations in ITERATIONS.items():
            record, body = answering.record(version, iterations, self.pipeline), answering.body(iterations)
            site.write(platform.config.buckets.artifacts, f"jobs/{version}/{MODEL_FILE}", body)
            platform.ledger.append("candidate", NAME, record)
            model = open_verified(record, body)
            planned = plan(self.pipeline, [feature.name for feature in model.features])
            self.wanted[version] = Champion(model, planned, no_lookup, platform.clock).predict(table).to_pylist()
            model.close()
        keys.make(platform, self.pipeline)
        self.key = clients.issue(platform.ledger, "load", [NAME], 1_000_000, [NAME])
        self.promote("1")

    @property
    def log(self) -> Path:
        return self.var / "prediction-log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def promote(self, version: str) -> None:
        body = {"version": version, "previous": self._champion, "reasons": []}
        self.platform.ledger.append("promotion", NAME, body)
        self._champion = version

    def roll_back(self, version: str) -> None:
        body = {"champion": version, "replaces": self._champion, "alias_was": self._champion}
        self.platform.ledger.append("rollback", NAME, body)
        self._champion = version

    def start(self, *away: str) -> None:
        """Start the scorer, and wait until it answers. `away`: connections that lead nowhere."""
        self.port = free_port()
        lost = {variable(name): as_text(nowhere(self.platform.connections(name))) for name in away}
        command = [sys.executable, "-m", "rempart.cli", "run", "scorer", "--port", str(self.port)]
        with (self.var.parent / "scorer.log").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=self._environment | lost)
        deadline = time.monotonic() + 120
        while not self.is_ready():
            assert self._process.poll() is None and time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def told(self) -> str:
        """What the scorer wrote."""
        return (self.var.parent / "scorer.log").read_text()[-3000:]

    def is_ready(self) -> bool:
        return bool(self.health().get("ready"))

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (urllib.error.URLError, OSError):
            return {}

    def kill(self) -> None:
        """Kill the scorer (SIGKILL)."""
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def stop(self) -> int:
        """Ask the scorer to end. Return its exit code."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        return self.end()

    def end(self) -> int:
        return 0 if self._process is None else self._process.wait(90)

    def ship(self) -> dict[str, int]:
        """Ship the log as the DAG ship_predictions does."""
        return run.run(self.platform, self.log)

    def logged(self, site: str = "primary") -> list[dict[str, Any]]:
        """Every entry of the hour files at a site that evidence names. They equal their evidence."""
        now = datetime.now(UTC)
        bucket, opened = self.platform.config.buckets.lake, self.platform.site(site, "personal")
        tables = files.entries(self.platform.ledger, opened, bucket, NAME, now - timedelta(hours=3), now)
        return [row for table in tables for row in table.to_pylist()]

    def lost_or_doubled(self, answers: Sequence[Answer], logged: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong with the log of these answers: nothing, if each is in it once and as the client got it."""
        times, by_id = Counter(row["id"] for row in logged), {row["id"]: row for row in logged}
        wrong = [f"{id_} is there {count} times" for id_, count in times.items() if count > 1]
        for answer in answers:
            if answer.status != 200:
                continue
            row = by_id.get(answer.id)
            if row is None:
                wrong.append(f"{answer.id} was answered, and is not in the log")
            elif any(row[name] != value for name, value in {"version": answer.version, **answer.output}.items()):
                wrong.append(f"{answer.id} was answered in another way than it was logged")
        return wrong

    def wrong(self, answers: Sequence[Answer]) -> list[str]:
        """Answers whose prediction is not that of the version that they name."""
        return [
            f"{answer.id} of version {answer.version}"
            for answer in answers
            if answer.status == 200
            and any(
                abs(answer.output[name] - value) > 1e-6 if isinstance(value, float) else answer.output[name] != value
                for name, value in self.wanted[answer.version][answer.row].items()
            )
        ]

    def load(self, rate: float, goes_on: Callable[[list[Answer]], bool]) -> list[Answer]:
        """Send requests at fixed times until `goes_on` says no, whether or not the former are answered."""
        return asyncio.run(_Load(self, rate, goes_on).run())


class _Load:
    """An open loop. A connection that breaks ends its request without an answer, and is opened anew for the next."""

    def __init__(self, served: Served, rate: float, goes_on: Callable[[list[Answer]], bool]) -> None:
        self._port, self._rate, self._goes_on = served.port, rate, goes_on
        self._requests = [_request(served.key, row) for row in served.rows]
        self.answers: list[Answer] = []
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.Queue()

    async def run(self) -> list[Answer]:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(None)
        began, number, tasks = time.monotonic(), 0, set[asyncio.Task[None]]()
        while await asyncio.to_thread(self._goes_on, self.answers) if number % 50 == 0 else True:
            await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))
            tasks.add(task := asyncio.create_task(self._ask(number % ROWS)))
            task.add_done_callback(tasks.discard)
            number += 1
            if number > MOST_REQUESTS:
                raise AssertionError(f"what the load waits for has not come after {number} requests")
        await asyncio.gather(*tasks)
        while not self._free.empty():
            if opened := self._free.get_nowait():
                opened[1].close()
        return self.answers

    async def _ask(self, row: int) -> None:
        opened, sent = await self._free.get(), time.monotonic()
        try:
            opened = opened or await asyncio.open_connection("127.0.0.1", self._port)
            status, body = await _answer(*opened, self._requests[row])
            self.answers.append(Answer(row, sent, time.monotonic(), status, body))
        except (OSError, asyncio.IncompleteReadError):
            self.answers.append(Answer(row, sent, time.monotonic(), 0))
            if opened:
                opened[1].close()
            opened = None
        self._free.put_nowait(opened)


def _request(key: str, row: Mapping[str, Any]) -> bytes:
    body = json.dumps(row).encode()
    head = f"POST /predict/{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[str, Any]]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    body = await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split(b" ")[1]), json.loads(body)


def variable(name: str) -> str:
    return f"AIRFLOW_CONN_{name.upper()}"


def as_text(connection: Connection) -> str:
    """A connection as its environment variable holds it."""
    names = ("conn_type", "host", "port", "login", "password", "schema")
    return json.dumps({name: getattr(connection, name) for name in names} | {"extra": dict(connection.extra)})


def nowhere(connection: Connection) -> Connection:
    """The same connection where nothing listens."""
    extra = connection.extra | ({"endpoint_url": "http://127.0.0.1:1"} if "endpoint_url" in connection.extra else {})
    return replace(connection, port=1, extra=extra)


@contextmanager
def own_ledger(owner: Connection) -> Iterator[Connection]:
    """An empty ledger in a database of the test's own; `owner` may create databases (`pg_drill`)."""
    name = f"scratch_{secrets.token_hex(4)}_ledger"
    script = (ROOT / "include" / "sql" / "platform" / "ledger.sql").read_text(encoding="utf-8")
    with psycopg.connect(owner.postgresql_url(), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        try:
            made = replace(owner, schema=name)
            with psycopg.connect(made.postgresql_url(), autocommit=True) as opened:
                opened.execute(script.replace("SET ROLE ledger_owner;", "").replace("RESET ROLE;", "").encode())
            yield made
        finally:
            drop_database(server, name)


@contextmanager
def served(stack: Platform, proofs: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Served]:
    """A project on the stack's stores. `proofs`: what its sites were proven able to do."""
    owner, before = config.environment_connections("pg_drill"), os.environ["REMPART_HOME"]
    home = folder / "project"
    home.mkdir()
    write_project(home, yaml.safe_dump(stage.definition(NAME, "classification")), sql={})
    with own_buckets(stack, "serving") as buckets, own_ledger(owner) as ledger, generations(owner) as continuity:
        plain = yaml.safe_load((home / "rempart.yaml").read_text())
        plain["buckets"] |= {name: getattr(buckets, name) for name in ("lake", "artifacts", "backups")}
        (home / "rempart.yaml").write_text(yaml.safe_dump(plain))
        own = {"pg_ledger": ledger, "pg_continuity": continuity}

        def connections(name: str) -> Connection:
            return own.get(name) or config.environment_connections(name)

        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        environment |= {variable(name): as_text(connections(name)) for name in STORES}
        environment |= {"REMPART_HOME": str(home), "REMPART_VAR": str(home / "var")}
        os.environ["REMPART_HOME"] = str(home)
        made: Served | None = None
        try:
            platform = Platform(config.load(home / "rempart.yaml"), connections)
            for proof in proofs:
                platform.ledger.append("capabilities", proof["site"], proof)
            made = Served(platform, home, environment)
            yield made
        finally:
            if made:
                made.stop()
            os.environ["REMPART_HOME"] = before
