"""S9: the environment of each running process, compared with the table of processes and secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rempart.deployment.setup import environment, launch, paths, process_secrets
from rempart.settings import config

pytestmark = pytest.mark.stack


def kinds_in(environ: bytes, stack: paths.Stack) -> set[str]:
    """The kinds of secrets whose value stands in an environment, whichever variable it is in."""
    found = set()
    for name, value in config.read_env_file(stack.secrets).items():
        secret = json.loads(value)["password"] if value.startswith("{") else value
        if secret.encode() in environ and (kind := process_secrets.kind(name, stack.config)):
            found.add(kind)
    return found


def processes(stack: paths.Stack) -> Iterator[tuple[str, int, bytes]]:
    """Service, number and environment of every process of the stack that this user may read."""
    for process in launch.marked(f"{stack.id}:"):
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or of tasks: Airflow forbids it
            continue
        if not environ:  # ended, and its parent has not taken note yet
            continue
        variables = dict(part.split(b"=", 1) for part in environ.split(b"\0") if b"=" in part)
        yield variables[environment.MARKER.encode()].decode().partition(":")[2], process.pid, environ


def test_s9_no_process_holds_a_secret_that_it_does_not_need(stack: paths.Stack) -> None:
    known = {process_secrets.kind(name, stack.config) for name in config.read_env_file(stack.secrets)}
    seen: dict[str, set[str]] = {}
    for service, pid, environ in processes(stack):
        found = kinds_in(environ, stack)
        allowed = process_secrets.held(service, stack.config)
        assert found <= allowed, f"{service} (process {pid}) holds {', '.join(sorted(found - allowed))}"
        seen.setdefault(service, set()).update(found)
    readable = paths.AIRFLOW_COMPONENTS if os.getuid() == 0 else ("airflow-api-server",)
    for service in readable:
        assert seen[service] == process_secrets.held(service, stack.config) & known, service
    for service in ("airflow-api-server", "airflow-triggerer", "airflow-dag-processor", "mlflow"):
        if service in seen:
            assert not seen[service] & {"signing key", "backup key", "backup databases", "checkpoint key"}, service
    assert {"site-primary", "site-haven", "mlflow"} <= set(seen)
