"""Whether a container's service works: `python -m rempart.stack.healthy SERVICE`, exit code 0 or 1.

Standard library only: it runs every few seconds, and importing the platform would cost a second each time.
"""

from __future__ import annotations

import json
import sys
import urllib.request

from rempart.stack.preflight import CONTAINERS, DEFAULT_PORTS


def _answer(host: str, port: int, path: str) -> bytes:
    """Straight from the server, past any proxy. Raises OSError when it refuses, too."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


def healthy(service: str) -> bool:
    """MLflow by its own word, Airflow's components by the heartbeats that its API server tells of."""
    if service == "mlflow":
        return bool(_answer("127.0.0.1", DEFAULT_PORTS["mlflow"], "/health"))
    host = "127.0.0.1" if service == CONTAINERS["airflow"] else CONTAINERS["airflow"]
    told = json.loads(_answer(host, DEFAULT_PORTS["airflow"], "/api/v2/monitor/health"))
    part = "metadatabase" if service == CONTAINERS["airflow"] else service.replace("-", "_")
    return bool(told[part]["status"] == "healthy")


def main(service: str) -> int:
    try:
        return 0 if healthy(service) else 1
    except (OSError, ValueError, KeyError) as fault:
        sys.stdout.write(f"{service}: {fault}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
