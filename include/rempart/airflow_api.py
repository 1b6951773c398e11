"""A small client of Airflow's REST API: what a script of the team would do with curl."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

import httpx

from rempart.errors import RempartError
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.sovereignty.dag_rules import BROKEN

logger = logging.getLogger(__name__)

TERMINAL = frozenset({"success", "failed"})
_TOLD_AGAIN_SECONDS = 60
_POLL_SECONDS = 1.0
_ASKED_AGAIN = 3
_LOGIN, _IMPORT_ERRORS = "/auth/token", "/api/v2/importErrors"
PAGE = 100
"""Entries of a page of a list: Airflow gives no more at once (`api.maximum_page_limit`), whatever `limit` asks for."""
_PARSED_SECONDS, _SKIPPED_SECONDS = 120.0, 600.0
_STORED_WITHIN = timedelta(seconds=15)
"""Time in which Airflow stores what it found in a file after it parsed it."""
_NEVER = datetime.fromtimestamp(0, UTC)


class AirflowApiError(RempartError):
    """Raised when Airflow refused a call, a run failed, or it took too long. `status` is the HTTP status, if any."""

    status: int | None = None
    silent = False
    """Whether Airflow gave no answer, or broke: it may answer later."""


def last_words(stack_trace: str) -> str:
    """Return an import error without its frames: the exception's message, which may have several lines."""
    text = stack_trace.strip()
    starts = [matched.start() for matched in re.finditer(r"^[A-Za-z_][\w.]*(Error|Exception|Violation)\b", text, re.M)]
    return text[starts[-1] :] if starts else text


def _read_at(stored: str | None, took: float | None = None) -> datetime:
    """Return when Airflow began to parse a file. `took`: seconds of the parsing."""
    return datetime.fromisoformat(stored) - timedelta(seconds=took or 0.0) if stored else _NEVER


class AirflowApi:
    """Trigger DAG runs and follow them. The connection holds host, port, user and password of the API server."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.http_url()
        self._login = {"username": connection.login, "password": connection.password}
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            answer = self._with_token(method, path, **kwargs)
            if answer.status_code == HTTPStatus.UNAUTHORIZED:  # the token has expired, or Airflow has another key
                del self._http.headers["Authorization"]
                answer = self._with_token(method, path, **kwargs)
        except httpx.RequestError as cause:
            unanswered = AirflowApiError(
                f"{method} {path} at {self.url}: no answer ({type(cause).__name__})",
                "Airflow starts, or is stopped: `rempart up` starts it and waits until it answers.",
            )
            unanswered.silent = True
            raise unanswered from cause
        if answer.is_error:
            refused = AirflowApiError(
                f"{method} {path} at {self.url}: HTTP {answer.status_code}: {answer.text[:400]}",
                "Correct the request as the message says.",
            )
            refused.status, refused.silent = answer.status_code, answer.is_server_error
            raise refused
        return self._json(answer)

    def _with_token(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        if "Authorization" not in self._http.headers:
            answer = self._answer("POST", _LOGIN, json=self._login)
            token = self._json(answer).get("access_token") if answer.status_code == HTTPStatus.CREATED else None
            if not token:
                raise AirflowApiError(
                    f"log in to Airflow at {self.url}: HTTP {answer.status_code}; it says so, too, while its database "
                    "does not answer",
                    "If PostgreSQL answers: the password is that of `rempart stack password airflow`; for a server of "
                    "your own, correct the connection `airflow_api`.",
                )
            self._http.headers["Authorization"] = f"Bearer {token}"
        return self._answer(method, path, **kwargs)

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise AirflowApiError(
                f"{answer.request.url}: the answer is not one of Airflow's",
                "Another program may have this port: see `rempart status`, or correct the connection `airflow_api`.",
            )
        return content

    def _answer(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Return the answer. Repeat a read or a login that times out, because a busy server is not a broken one."""
        for _ in range(_ASKED_AGAIN if method == "GET" or path == _LOGIN else 0):
            try:
                return self._http.request(method, path, **kwargs)
            except httpx.ReadTimeout:
                continue
        return self._http.request(method, path, **kwargs)

    def _unless(self, status: HTTPStatus, otherwise: Any, ask: Callable[[], Any]) -> Any:
        """Return the answer, or `otherwise` if Airflow refuses the question with this status."""
        try:
            return ask()
        except AirflowApiError as error:
            if error.status != status:
                raise
            return otherwise

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a DAG run and return its id.

        The id is chosen here, so a repeated request to a busy server starts one run only.
        """
        run = f"manual__{datetime.now(UTC).isoformat()}_{secrets.token_hex(4)}"
        self._post_run(dag_id, run, conf)
        return run

    def trigger_once(self, dag_id: str, run_id: str, conf: Mapping[str, Any] | None = None) -> bool:
        """Start the DAG run with this id, unless it exists. Return whether it was started now.

        Raises AirflowApiError, also if the run exists with other parameters.
        """
        if self._post_run(dag_id, run_id, conf, known=True):
            return True
        before = self.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").get("conf") or {}
        if before != dict(conf or {}):
            raise AirflowApiError(
                f"start run {run_id} of {dag_id}: this id belongs to a run with other parameters: {before}",
                "Choose another key, or pass the same parameters.",
            )
        return False

    def _post_run(self, dag_id: str, run_id: str, conf: Mapping[str, Any] | None, *, known: bool = False) -> bool:
        """Post a run, again if a busy server does not answer. Return False if the run was there and may be `known`."""
        body, asked = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}, 1
        while True:
            try:
                self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
                return True
            except AirflowApiError as error:
                if error.status == HTTPStatus.CONFLICT and asked > 1:
                    return True  # it had taken the request that it did not answer
                if error.status == HTTPStatus.CONFLICT and known:
                    return False
                if asked >= _ASKED_AGAIN or not isinstance(error.__cause__, httpx.ReadTimeout):
                    raise
            asked += 1

    def put_connection(self, connection: Connection) -> None:
        """Store a connection in Airflow, in the place of one with this name. Raises AirflowApiError."""
        body: dict[str, Any] = {"connection_id": connection.name, "conn_type": connection.conn_type}
        body |= {"host": connection.host, "port": connection.port, "schema": connection.schema}
        body |= {"login": connection.login, "password": connection.password}
        try:
            try:
                self._call("POST", "/api/v2/connections", json=body)
            except AirflowApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
                self._call("PATCH", f"/api/v2/connections/{connection.name}", json=body)
        except AirflowApiError as error:
            if error.silent:
                raise
            raise AirflowApiError(  # Airflow's answer may repeat the request, and the secret in it
                f"store connection '{connection.name}' in Airflow at {self.url}: HTTP {error.status}",
                "Store it by hand under Admin > Connections.",
            ) from None

    def run(
        self,
        dag_id: str,
        task_id: str,
        conf: Mapping[str, Any] | None = None,
        tell: Callable[[str], object] = logger.debug,
    ) -> dict[str, Any]:
        """Start a DAG run, follow it to its end, and return the result of one of its tasks.

        If Airflow has not read the DAG's file yet, wait for it. A skipped run is started again, such as a replication
        while a backup has the pair's lease. Raises AirflowApiError.
        """
        self.await_dag(dag_id)
        until = time.monotonic() + _SKIPPED_SECONDS
        while True:
            run_id = self.trigger(dag_id, conf)
            self.follow(dag_id, run_id, tell)
            ended = self.every(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
            if "skipped" not in {task["state"] for task in ended if task["task_id"] == task_id}:
                return self.result(dag_id, run_id, task_id)
            if time.monotonic() > until:
                raise AirflowApiError(
                    f"run {dag_id}: it was skipped each time for {_SKIPPED_SECONDS:.0f} s, last in {run_id}",
                    f"Read the task's log at {self.url}/dags/{dag_id}/runs/{run_id}; it names the holder of the lease.",
                )
            tell("skipped, because another run has the lease; next try in 5 s")
            time.sleep(5)

    def await_dag(self, dag_id: str) -> None:
        """Wait until Airflow has read a DAG and finds its file, or has read its pipeline's file after a correction.

        Raises AirflowApiError: if the DAG is paused; at once if Airflow found its pipeline or its file at fault after
        the last change of the project's files, else after a minute.
        """
        until = time.monotonic() + _PARSED_SECONDS
        while True:
            dag = self._unless(HTTPStatus.NOT_FOUND, {"is_stale": True}, partial(self.get, f"/api/v2/dags/{dag_id}"))
            if dag.get("is_paused"):
                raise AirflowApiError(
                    f"run {dag_id}: the DAG is paused, so the run would wait for ever",
                    f"Unpause it at {self.url}/dags/{dag_id} (the switch beside its name), then run it again.",
                )
            read_at, fault = self._fault(dag_id, dag)
            if not dag.get("is_stale") and not fault:
                return
            left = until - time.monotonic()
            if fault and (left < _PARSED_SECONDS / 2 or read_at > pipelines.changed_at() + _STORED_WITHIN):
                raise fault
            if left < 0:
                raise AirflowApiError(
                    f"run {dag_id}: Airflow finds the DAG in no file",
                    "Check that its pipeline file is in include/pipelines, and that the DAG processor runs.",
                )
            time.sleep(1)

    def _fault(self, dag_id: str, dag: Mapping[str, Any]) -> tuple[datetime, AirflowApiError | None]:
        """Return what is wrong with a DAG's pipeline or file, if anything, and when Airflow read it."""
        tags = [tag["name"] for tag in dag.get("tags") or ()]
        if BROKEN in tags:
            name = max((tag for tag in tags if dag_id.endswith(f"_{tag}")), key=len, default="NAME")
            return _read_at(dag.get("last_parsed_time"), dag.get("last_parse_duration")), AirflowApiError(
                f"run {dag_id}: Airflow finds the pipeline '{name}' at fault",
                f"Correct it: `rempart pipeline check {name}` tells what is wrong, as {self.url}/dags/{dag_id} does.",
            )
        if not dag.get("is_stale"):
            return _NEVER, None
        for error in self._unless(HTTPStatus.FORBIDDEN, [], lambda: self.every(_IMPORT_ERRORS, "import_errors")):
            if f"{dag_id}_".startswith(f"{PurePosixPath(error['filename']).stem}_"):
                return _read_at(error.get("timestamp")), AirflowApiError(
                    f"run {dag_id}: Airflow cannot import {error['filename']}: {last_words(error['stack_trace'])}",
                    "Correct the file. Airflow reads it again within half a minute.",
                )
        return _NEVER, None

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Return the runs of a DAG that are queued or running, as texts; none if Airflow does not know the DAG."""
        return [f"{dag_id}, run {run['dag_run_id']} ({run['state']})" for run in self.unfinished(dag_id)]

    def unfinished(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG that are running, then those that are queued, with the fields of Airflow's list.

        None if Airflow does not know the DAG. Raises AirflowApiError.
        """
        path, state = f"/api/v2/dags/{dag_id}/dagRuns", ("running", "queued")
        found = self._unless(HTTPStatus.NOT_FOUND, [], lambda: self.every(path, "dag_runs", state=state))
        return sorted(found, key=lambda run: run["state"] == "queued")

    def newest_run(self, dag_id: str, since: datetime) -> str | None:
        """Return the id of the newest run that was created at or after a time, if any."""
        params = {"run_after_gte": since.isoformat(), "order_by": "-run_after", "limit": 1}
        runs = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params)["dag_runs"]
        return runs[0]["dag_run_id"] if runs else None

    def run_after(self, dag_id: str, since: datetime, source_run: str) -> str | None:
        """Return the id of the run that an asset update by another run started at or after a time, if any."""
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        params = {"run_after_gte": since.isoformat(), "order_by": "-run_after", "limit": PAGE}
        for run in self._call("GET", path, params=params)["dag_runs"]:
            events = self.get(f"{path}/{run['dag_run_id']}/upstreamAssetEvents")["asset_events"]
            if any(event["source_run_id"] == source_run for event in events):
                return str(run["dag_run_id"])
        return None

    def await_run(self, dag_id: str, since: datetime, timeout: float = 300, *, source_run: str | None = None) -> str:
        """Wait until an asset starts a run of this DAG; its id. With `source_run`, an asset that this run updated."""
        deadline = time.monotonic() + timeout
        while not (run := self.run_after(dag_id, since, source_run) if source_run else self.newest_run(dag_id, since)):
            if time.monotonic() > deadline:
                raise AirflowApiError(
                    f"wait for a run of {dag_id}: none started within {timeout:.0f} s of its asset's update",
                    f"Open {self.url}/dags/{dag_id}. Unpause the DAG if it is paused, and check that the "
                    "scheduler runs.",
                )
            time.sleep(_POLL_SECONDS)
        return run

    def follow(self, dag_id: str, run_id: str, tell: Callable[[str], object], timeout: float = 900) -> float:
        """Wait for a run to end, telling each change of state, and each minute without one; its duration in seconds.

        Raises AirflowApiError when it failed.
        """
        started, last = time.monotonic(), ""
        told_at = started
        while True:
            state = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"]
            tasks = self.every(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
            line = ", ".join(f"{t['task_id']} {t['state'] or 'waiting'}" for t in tasks)
            if line != last or time.monotonic() - told_at >= _TOLD_AGAIN_SECONDS:
                tell(line)
                last, told_at = line, time.monotonic()
            if state in TERMINAL:
                break
            if time.monotonic() - started > timeout:
                raise AirflowApiError(
                    f"wait for {dag_id} ({run_id}): it is still {state} after {timeout:.0f} s",
                    f"Open {self.url}/dags/{dag_id}/runs/{run_id} and the log of its running task.",
                )
            time.sleep(_POLL_SECONDS)
        if state == "failed":
            failed = [t["task_id"] for t in tasks if t["state"] in ("failed", "upstream_failed")]
            raise AirflowApiError(
                f"{dag_id} ({run_id}) failed in {', '.join(failed)}",
                f"Read the task's log at {self.url}/dags/{dag_id}/runs/{run_id}. It ends with cause and remedy.",
            )
        return time.monotonic() - started

    def result(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """Return the value that a task returned. Raises AirflowApiError."""
        value: dict[str, Any] = self._xcom(dag_id, run_id, task_id, "return_value")
        return value

    def failures(self, dag_id: str, run_id: str, key: str) -> dict[str, tuple[str, ...]]:
        """Return the failed tasks of a run, each with the texts that it stored under `key`; none for a killed task.

        Raises AirflowApiError.
        """
        tasks = self.every(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
        found: dict[str, tuple[str, ...]] = {}
        for task in tasks:
            if task["state"] == "failed":
                ask = partial(self._xcom, dag_id, run_id, task["task_id"], key)
                stored = self._unless(HTTPStatus.NOT_FOUND, None, ask)
                found[task["task_id"]] = tuple(str(text) for text in stored) if isinstance(stored, list) else ()
        return found

    def _xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        return self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}")[
            "value"
        ]

    def started_at(self, dag_id: str, run_id: str) -> datetime | None:
        """Return when a run started, by Airflow's clock; None if it waits. Raises AirflowApiError."""
        at = self.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["start_date"]
        return datetime.fromisoformat(at) if at else None

    def import_errors(self) -> list[str]:
        """Return files that Airflow could not import, with the reason."""
        errors = self.every(_IMPORT_ERRORS, "import_errors")
        return [f"{e['filename']}: {last_words(e['stack_trace'])}" for e in errors]

    def dag_ids(self) -> list[str]:
        """Return the ids of all DAGs that Airflow knows."""
        return [d["dag_id"] for d in self.dags()]

    def dags(self) -> list[dict[str, Any]]:
        """Return all DAGs that Airflow knows, each with the fields of Airflow's list."""
        return self.every("/api/v2/dags", "dags", order_by="dag_id")

    def every(
        self, path: str, entries: str, *, order_by: str = "id", **query: str | Sequence[str]
    ) -> list[dict[str, Any]]:
        """Read all pages of a list: `entries` is the name of the list in the answer. Raises AirflowApiError."""
        rows: list[dict[str, Any]] = []
        while True:
            params = {**query, "order_by": order_by, "limit": PAGE, "offset": len(rows)}
            answer = self._call("GET", path, params=params)
            rows += answer[entries]
            if not answer[entries] or len(rows) >= answer["total_entries"]:
                return rows

    def get(self, path: str) -> dict[str, Any]:
        """Return any other resource, by its path."""
        return dict(self._call("GET", path))

    def ask(self, path: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a question that is posted and changes nothing, such as a list of many DAGs' runs."""
        return dict(self._call("POST", path, json=question))
