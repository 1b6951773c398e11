"""Run MLflow's server behind the list of calls, in one process: `python -m rempart.tracking_access.serve`.

`mlflow server` imports all of MLflow in a process that only starts another one, which imports it again and answers.
Here the process that answers is started at once, with the settings that the command would hand to it. This saves a
third of the processor time of a start, and the memory of one process. The database's address comes from the environment
(MLFLOW_BACKEND_STORE_URI), because every user can read command lines.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

APP = "rempart.tracking_access.app:create_app"


def settings(database: str, artifacts: str, allowed: str) -> dict[str, str]:
    """Return the variables that `mlflow server` would hand to the process that answers.

    `database` is the address of both stores, `artifacts` the place of the artifacts, and `allowed` the hosts by which
    clients reach the server; without any, only this machine may.
    """
    return {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "SAMEORIGIN",
        "MLFLOW_SERVER_SECRETS_CACHE_TTL": "60",
        "MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE": "1000",
        **({"MLFLOW_SERVER_ALLOWED_HOSTS": allowed} if allowed else {}),
    }


def log_configuration() -> str:
    """Return the path of MLflow's log configuration for uvicorn. Raises RuntimeError without MLflow."""
    installed = find_spec("mlflow")  # finds the package without importing it: its modules read the settings
    folders = [Path(folder) for folder in (installed and installed.submodule_search_locations) or ()]
    for file in (folder / "server" / "uvicorn_log_config.yaml" for folder in folders):
        if file.is_file():
            return str(file)
    raise RuntimeError("MLflow's server is not installed: install the locked packages again (`make setup`).")


def main(arguments: Sequence[str]) -> None:
    """Serve until this process is asked to end. Raises the error of MLflow if its stores cannot be opened."""
    parser = argparse.ArgumentParser(prog="rempart.tracking_access.serve")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--artifacts", required=True, help="where artifacts are stored, such as s3://bucket/mlflow")
    parser.add_argument("--allowed-hosts", default="", help="hosts by which clients reach this server, as host:port")
    asked = parser.parse_args(arguments)
    if not (database := os.environ.get("MLFLOW_BACKEND_STORE_URI")):
        parser.error("MLFLOW_BACKEND_STORE_URI is not set")
    os.environ |= settings(database, asked.artifacts, asked.allowed_hosts)
    import uvicorn

    # one worker, also where WEB_CONCURRENCY asks for more
    uvicorn.run(APP, factory=True, host=asked.host, port=asked.port, workers=1, log_config=log_configuration())


if __name__ == "__main__":
    main(sys.argv[1:])
