"""A real MLflow server of a test's own, on the servers of `own_servers`, started as the platform does."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rempart.deployment.servers import mlflow_server, mlflow_supervisor
from rempart.deployment.setup import environment
from rempart.settings import config
from rempart.settings.config import Connection
from tests.integration.own_servers import Servers


@contextmanager
def tracking_server(servers: Servers, active: str = "primary") -> Iterator[Connection]:
    """Start MLflow at a site; the connection of the platform's user."""
    stack = servers.stack
    found = servers.connections("mlflow")
    mlflow_server.write_authentication(stack, servers.connections("pg_mlflow"))
    port = stack.ports["mlflow"]
    with (stack.logs / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            mlflow_supervisor.command(stack, "127.0.0.1", port, f"127.0.0.1:{port}"),
            env=environment.mlflow(stack, config.read_env_file(stack.secrets), os.environ, active),
            cwd=stack.var,
            stdout=log,
            stderr=log,
        )
    try:
        _until_it_answers(process, port)
        yield replace(found, host="127.0.0.1", port=port)
    finally:
        mlflow_supervisor._end(process)


def _until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"MLflow ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("MLflow does not answer")


def ask(
    user: Connection | None,
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request, its path sent as it is. `body`: bytes as they are, anything else as JSON."""
    sent_headers = dict(headers or {})
    if user is not None:
        sent_headers.setdefault(
            "Authorization", "Basic " + base64.b64encode(f"{user.login}:{user.password}".encode()).decode()
        )
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    if data is not None:
        sent_headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in sent_headers.items():
            connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
