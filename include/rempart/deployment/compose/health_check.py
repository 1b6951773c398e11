"""Check whether a container's service works: `python -m rempart.deployment.compose.health_check SERVICE`, exit code 0
or 1.

Standard library only, because it runs every few seconds, and importing the platform would take a second each time.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

from rempart.deployment.setup.preflight import CONTAINERS, DEFAULT_PORTS, OPTIONAL_PORTS

_BEATS = "/0.celeryev/worker.heartbeat"
"""The broker's channel in which Celery's workers say every two seconds that they work."""
LANDING_WATCH, BEAT = "landing-watch", "landing-watch.beat"
LOOKS_WITHIN = 120.0
"""Seconds within which the landing watch looks again, unless a server keeps it waiting."""
_PASSWORD = "REMPART_AIRFLOW_BROKER_PASSWORD="  # noqa: S105 # a name


def _answer(host: str, port: int, path: str) -> bytes:
    """Return the server's answer, without a proxy. Raises OSError, also for a refusal."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


def beats(broker: tuple[str, int], password: str, worker: str, patience: float = 6.0) -> bool:
    """Return whether a worker's heartbeat comes through the broker.

    Raises OSError if the broker refuses or does not answer.
    """
    deadline, known = time.monotonic() + patience, f"celery@{worker}"
    with socket.create_connection(broker, timeout=patience) as connection:
        connection.sendall(f"AUTH airflow {password}\r\nSUBSCRIBE {_BEATS}\r\n".encode())
        with connection.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"-"):
                    raise PermissionError(f"the broker answered {line.decode(errors='replace').strip()}")
                if line.startswith(b"{") and known in _body(line):
                    return True
                if time.monotonic() > deadline:
                    break
    return False


def _body(message: bytes) -> str:
    """Return the body of a kombu message."""
    return base64.b64decode(json.loads(message)["body"]).decode(errors="replace")


def _password() -> str:
    text = (Path(os.environ["REMPART_VAR"]) / "secrets.env").read_text(encoding="utf-8")
    return next((line.removeprefix(_PASSWORD) for line in text.splitlines() if line.startswith(_PASSWORD)), "")


def is_healthy(service: str) -> bool:
    """Check MLflow and the scorer by their own answer, a worker by its heartbeat, the landing watch by the time of its
    last look, other components of Airflow by the API server's report.
    """
    if service == LANDING_WATCH:
        return time.time() - (Path(os.environ["REMPART_VAR"]) / BEAT).stat().st_mtime < LOOKS_WITHIN
    if service == "worker":
        return beats(("broker", OPTIONAL_PORTS["broker"]), _password(), socket.gethostname())
    if service == "mlflow":
        return bool(_answer("127.0.0.1", DEFAULT_PORTS["mlflow"], "/health"))
    if service == "scorer":
        return bool(_answer("127.0.0.1", DEFAULT_PORTS["scorer"], "/v2/health/ready"))
    host = "127.0.0.1" if service == CONTAINERS["airflow"] else CONTAINERS["airflow"]
    health = json.loads(_answer(host, DEFAULT_PORTS["airflow"], "/api/v2/monitor/health"))
    part = "metadatabase" if service == CONTAINERS["airflow"] else service.replace("-", "_")
    return bool(health[part]["status"] == "healthy")


def main(service: str) -> int:
    try:
        return 0 if is_healthy(service) else 1
    except (OSError, ValueError, KeyError) as fault:
        sys.stdout.write(f"{service}: {fault}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
