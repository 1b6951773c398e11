"""The second part of the demo: flights from a database, joined with hourly weather, and a model of which will be late.

The demo stands for the two suppliers: it makes a database of the airport on the stack's own server, with a role that
can only read, and delivers the weather as a file. All else runs in Airflow, as for any pipeline.
"""

from __future__ import annotations

import gzip
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from rempart.airflow_api import AirflowApi
from rempart.cli import run_follow
from rempart.cli.demo.demo_stages import Stages
from rempart.deployment.setup import credentials, paths
from rempart.errors import ConfigError
from rempart.flows.shared.platform import Platform
from rempart.orchestration import run_notes
from rempart.settings import config
from rempart.settings.config import Connection

STAGES: dict[str, float | None] = {
    "airport": 20.0,
    "weather": 20.0,
    "departures": 25.0,
    "join": 30.0,
    "late features": 25.0,
    "late model": 30.0,
    "late gate": 12.0,
}
"""The stages of this part, with the seconds of each on two cores."""
WEATHER, DEPARTURES, JOINED = "airport_weather", "departures", "late_departures"
DATABASE, READER = "airport", "airport_reader"
CONNECTION = "airport_database"
_BLOCK = 1 << 16
_TABLE = """
CREATE TABLE departures (
    flight_id bigint PRIMARY KEY, carrier text NOT NULL, flight_number integer NOT NULL, origin text NOT NULL,
    destination text NOT NULL, distance_miles integer NOT NULL, scheduled_departure timestamptz NOT NULL,
    delay_minutes integer, recorded_at timestamptz NOT NULL)
"""


def install(root: Path) -> None:
    """Copy the pipeline files and the SQL file of `data/flights` to their places. What stands there stays.

    Raises ConfigError if other content stands there.
    """
    source = root / "data" / "flights"
    for name in (f"{WEATHER}.yaml", f"{DEPARTURES}.yaml", f"{JOINED}.yaml", f"{JOINED}.sql"):
        target = root / "include" / ("sql" if name.endswith(".sql") else "pipelines") / name
        if not target.exists():
            shutil.copyfile(source / name, target)
        elif target.read_bytes() != (source / name).read_bytes():
            raise ConfigError(
                f"The demo would copy data/flights/{name} to {target}, where a file with other content is",
                "Rename that file, or run the demo without --all.",
            )


def declare(file: Path, port: int) -> None:
    """Add the place of the airport's database to rempart.yaml, with its one port, unless it is there.

    Raises ConfigError if the file declares other connections: they are a person's.
    """
    text = file.read_text(encoding="utf-8")
    place = f'{CONNECTION}: {{operator: this-machine, service: machine, region: local, hosts: ["127.0.0.1:{port}"]}}'
    if place in text:
        return
    if re.search(r"^connections:", text, re.MULTILINE):
        raise ConfigError(
            f"{file} declares connections already, and not the airport's database on port {port}",
            f"Add it by hand under connections, then run the demo again:  {place}",
        )
    part = file.with_suffix(".part")
    part.write_text(f"{text}\n# Of the demo's second part.\nconnections:\n  {place}\n", encoding="utf-8")
    part.replace(file)


def rows(file: Path) -> Iterator[bytes]:
    """Yield the rows of the airport's table as blocks of CSV."""
    with gzip.open(file) as stream:
        while block := stream.read(_BLOCK):
            yield block


def make_database(administrator: Connection, file: Path) -> Connection:
    """Make the airport's database with its rows, and return the login of its reader, with a new password.

    An existing table keeps its rows. `administrator` may create databases and roles.
    """
    import psycopg
    from psycopg import sql

    login = replace(administrator, name=CONNECTION, conn_type="postgres", login=READER, schema=DATABASE)
    login = replace(login, password=secrets.token_urlsafe(24))
    database, reader = sql.Identifier(DATABASE), sql.Identifier(READER)
    with psycopg.connect(administrator.postgresql_url(), autocommit=True) as server:
        if server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (READER,)).fetchone() is None:
            server.execute(sql.SQL("CREATE ROLE {} LOGIN").format(reader))
        verifier = server.pgconn.encrypt_password(login.password.encode(), READER.encode(), b"scram-sha-256").decode()
        server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(reader, sql.Literal(verifier)))
        if server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(database))
            server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        server.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, reader))
    with psycopg.connect(replace(administrator, schema=DATABASE).postgresql_url()) as server:
        if server.execute("SELECT to_regclass('departures')").fetchone() == (None,):
            server.execute(_TABLE)
            with server.cursor().copy("COPY departures FROM STDIN (FORMAT csv, HEADER)") as copy:
                for block in rows(file):
                    copy.write(block)
        server.execute(sql.SQL("GRANT SELECT ON departures TO {}").format(reader))
    return login


class RunningDemo(Protocol):
    """The demo whose second part this is."""

    platform: Platform
    api: AirflowApi
    stages: Stages
    report: dict[str, Any]

    def check(self, ok: bool, fact: str) -> None: ...


class Flights:
    """The stages of this part, on a demo that runs."""

    def __init__(self, demo: RunningDemo) -> None:
        self.demo = demo
        self.began = datetime.now(UTC) - timedelta(seconds=1)
        self.report: dict[str, Any] = {}

    def run(self) -> None:
        """Run the stages, and check what they give. Raises RempartError."""
        self.suppliers()
        weather, weather_run = self._ingest("weather", WEATHER)
        flights, flights_run = self._ingest("departures", DEPARTURES)
        # each new snapshot of an input starts the join; the first finds one input alone, and is skipped
        source = flights_run if flights["changed"] else weather_run if weather["changed"] else None
        joined, run = self._stage("join", f"ingest_{JOINED}", "ingest", source)
        self.demo.stages.result(f"{joined['total_rows']} departures with the weather three hours before")
        features, run = self._stage(
            "late features", f"materialize_features_{JOINED}", "materialize", run if joined["changed"] else None
        )
        self.demo.stages.result(run_notes.online(features))
        trained, run = self._stage("late model", f"train_{JOINED}", "train", run)
        self.demo.stages.result(f"version {trained['version']} is a candidate")
        judged, _ = self._stage("late gate", f"validate_model_{JOINED}", "validate", run)
        figure, naive = judged["metrics"]["log_loss"], judged["baselines"]["log_loss"]
        told = f"log_loss {figure:.3f}, naive baseline {naive:.3f}"
        verdict = "is champion" if judged["promoted"] else "is refused"
        self.demo.stages.result(f"version {judged['version']} {verdict}: {told}")
        self.report |= {"rows": joined["total_rows"], "log_loss": figure, "baseline_log_loss": naive}
        self.demo.report["flights"] = self.report
        self.demo.check(weather["changed"] is False or weather["quarantined"] == 2, "2 weather rows are in quarantine")
        self.demo.check(joined["total_rows"] > 19_000, f"{joined['total_rows']} departures joined with their weather")
        self.demo.check(judged["promoted"], f"{JOINED} version {judged['version']} is champion: {told}")

    def suppliers(self) -> None:
        """Make the airport's database and its connection in Airflow, deliver the weather, and wait for the new DAGs."""
        from rempart.settings import pipelines

        demo, root, stack = self.demo, config.project_root(), paths.current()
        if stack.containers:
            raise ConfigError(
                "The demo's second part makes a database on a server of this machine, and here are containers",
                "Run `make demo ARGS=--all` in a clone on a machine, or the demo without --all.",
            )
        demo.stages.begin("airport", "a database with departures, a reader's login, a file with weather")
        install(root)
        declare(root / "rempart.yaml", stack.ports["postgresql"])
        administrator = credentials.superuser(stack, config.read_env_file(stack.secrets))
        demo.api.put_connection(make_database(administrator, root / "data" / "flights" / f"{DEPARTURES}.csv.gz"))
        spec = pipelines.named(WEATHER)
        body = (root / "data" / "flights" / f"{WEATHER}.parquet").read_bytes()
        landing, key = demo.platform.config.buckets.landing, f"{spec.source.prefix}{WEATHER}.parquet"
        demo.platform.active_site(spec.classification).write(landing, key, body)
        self._await_dags()
        demo.stages.result("the airport's database and the weather's file are there, and Airflow has read their DAGs")

    def _await_dags(self) -> None:
        """Wait until Airflow has read each DAG of this part: an asset starts no DAG that Airflow does not know."""
        for dag_id in (
            *run_follow.dag_ids(WEATHER, ("ingest",)),
            *run_follow.dag_ids(DEPARTURES, ("ingest",)),
            *run_follow.dag_ids(JOINED),
        ):
            self.demo.api.await_dag(dag_id)

    def _ingest(self, stage: str, pipeline: str) -> tuple[dict[str, Any], str]:
        found, run = self._stage(stage, f"ingest_{pipeline}", "ingest", None)
        self.demo.stages.result(f"{found['total_rows']} rows in snapshot {str(found['snapshot'])[:12]}")
        return found, run

    def _stage(self, stage: str, dag_id: str, task_id: str, source: str | None) -> tuple[dict[str, Any], str]:
        """Follow a run to its end; return its task's result and its id.

        The run is the one that the assets of run `source` started or, without one, it is started here.
        """
        api, stages = self.demo.api, self.demo.stages
        if source is None:
            stages.begin(stage, f"POST /api/v2/dags/{dag_id}/dagRuns {{}}")
            run = api.trigger(dag_id)
        else:
            stages.begin(stage, f"{dag_id}, started by its asset")
            run = api.await_run(dag_id, self.began, source_run=source)
        api.follow(dag_id, run, stages.event)
        return api.result(dag_id, run, task_id), run
