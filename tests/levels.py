"""The servers of one process of tests, started as far as its tests need: stores, tracking, the whole stack.

Airflow is started for the tests that talk to it, and stopped when the next test does not. Its DAGs are paused from the
first, so that no schedule meets a test; `unpaused` is for those that need some.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from rempart.airflow_api import TERMINAL, AirflowApi
from rempart.deployment.embedded import lifecycle
from rempart.deployment.embedded.supervision import Supervisor
from rempart.deployment.servers import airflow_server, mlflow_server
from rempart.deployment.setup import credentials
from rempart.deployment.setup.paths import AIRFLOW_COMPONENTS, Stack
from rempart.errors import RempartError, StackError
from tests import schemas

LEVELS = ("stores", "tracking", "stack")
"""Markers of tests, from the least to the most: PostgreSQL with Airflow's schema, and two sites; MLflow; Airflow."""
PAUSED = """
CREATE OR REPLACE FUNCTION pause_dag() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN NEW.is_paused := true; RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER pause_dag BEFORE INSERT ON dag FOR EACH ROW EXECUTE FUNCTION pause_dag();
"""
"""Airflow's own setting would be one of production, too."""


class Levels:
    """A stack of which so much runs as the last test needed. `shared` is a folder of all processes of tests."""

    def __init__(self, stack: Stack, shared: Path) -> None:
        self.stack, self._shared, self._runs = stack, shared, ""
        self._failure: RempartError | None = None

    def reach(self, level: str) -> None:
        """Start what a level has beyond the last one; stop Airflow below its own. Fails at once if it failed before."""
        if self._failure:
            raise self._failure
        try:
            self._reach(level)
        except RempartError as failure:
            self._failure = failure
            raise

    def _reach(self, level: str) -> None:
        if not self._runs:
            if self.stack.state.is_dir():  # what an interrupted run left
                lifecycle.down(self.stack)
            shutil.rmtree(self.stack.var, ignore_errors=True)
            self._runs = "stores"
            lifecycle.start_stores(self.stack)
            self._make_schema()
        if self._runs == "stack" and level != "stack":
            with suppress(StackError):  # it may take longer than that; the tests that follow do not need it gone
                Supervisor(self.stack).stop(["watchdog", "scorer", *AIRFLOW_COMPONENTS])
            self._runs = "tracking"
        elif self._runs == "stores" and level == "tracking":
            self._start_mlflow()
            self._runs = "tracking"
        elif self._runs != "stack" and level == "stack":
            lifecycle.up(self.stack)
            self._runs = "stack"

    def end(self) -> None:
        if self._runs:
            lifecycle.down(self.stack)

    def _start_mlflow(self) -> None:
        connections = credentials.connections(self.stack, credentials.ensure(self.stack))
        Supervisor(self.stack).launch(["mlflow"])
        wait_until(lambda: mlflow_server.check(connections("mlflow")), 600)

    def _make_schema(self) -> None:
        """Make Airflow's schema, which restore points hold. In it, each DAG is paused as soon as it is stored."""
        secrets = credentials.ensure(self.stack)
        database = credentials.connections(self.stack, secrets)("pg_airflow")

        def migrate() -> None:
            if migration := airflow_server.begin_migration(self.stack, secrets, database):
                airflow_server.end_migration(self.stack, migration.wait(), database)

        schemas.copied(self._shared, database, migrate)
        airflow_server.end_migration(self.stack, 0, database)  # so a later start does not migrate it again
        with psycopg.connect(database.postgresql_url()) as session:
            session.execute(PAUSED)


def wait_until(check: Callable[[], object], seconds: float) -> None:
    """Repeat a check until it raises no RempartError; after `seconds` its error is raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
            return
        except RempartError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _set_paused(api: AirflowApi, dag_ids: tuple[str, ...], paused: bool) -> None:
    for dag_id in dag_ids:
        api._call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", json={"is_paused": paused})


@contextmanager
def unpaused(api: AirflowApi, *dag_ids: str) -> Iterator[AirflowApi]:
    """DAGs that run meanwhile, by their schedules as well; at the end none of their runs is under way."""
    _set_paused(api, dag_ids, paused=False)
    try:
        yield api
    finally:
        for dag_id in dag_ids:
            for run in _unfinished(api, dag_id):
                with suppress(RempartError):  # how it ends is nothing to those who come later
                    api.follow(dag_id, run["dag_run_id"], lambda line: None)
        _set_paused(api, dag_ids, paused=True)


def _unfinished(api: AirflowApi, dag_id: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = api.get(f"/api/v2/dags/{dag_id}/dagRuns?order_by=-run_after&limit=20")["dag_runs"]
    return [run for run in runs if run["state"] not in TERMINAL]
