"""Run an MLflow server on restored data for one step of a drill: on loopback only, with a generated password."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rempart import child_processes
from rempart.backup.drill import ends_with_parent
from rempart.errors import BackupError
from rempart.settings.config import Connection
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.spool import spool_folder

MARK = "REMPART_DRILL"
"""Environment variable that marks the processes of a drill with its id."""
START_SECONDS = 120.0
_INHERITED = ("PATH", "LANG", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(
    drill_id: str, folder: Path, database: Connection, storage: Connection, region: str, password: str
) -> dict[str, str]:
    auth = folder / "auth.ini"
    auth.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = drill\nauth_cache_ttl_seconds = 300\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        encoding="utf-8",
    )
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        MARK: drill_id,
        "HOME": str(folder),
        "MLFLOW_BACKEND_STORE_URI": database.postgresql_url("postgresql+psycopg"),
        "MLFLOW_S3_ENDPOINT_URL": str(storage.extra.get("endpoint_url", "")),
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": str(storage.extra.get("addressing_style", "path")),
        "AWS_ACCESS_KEY_ID": storage.login,
        "AWS_SECRET_ACCESS_KEY": storage.password,
        "AWS_DEFAULT_REGION": str(storage.extra.get("region_name", region)),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_AUTH_CONFIG_PATH": str(auth),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **TELEMETRY_OFF,
    }


@dataclass(frozen=True)
class ScratchServer:
    """A started MLflow server, and the connection to it."""

    connection: Connection
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    def wait(self) -> Connection:
        """Return the connection once the server answers. Raises BackupError."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise BackupError(
                    f"The scratch MLflow server ended with {self.process.returncode}: {_last_error(self.log)}",
                    "Check that the installed MLflow version created the restored database.",
                )
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.connection.port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return self.connection
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)  # not listening yet
        raise BackupError(
            f"The scratch MLflow server did not answer within {START_SECONDS:.0f} s",
            "Run the drill when the machine is less busy.",
        )


@contextmanager
def scratch_server(
    drill_id: str, live: Connection, database: Connection, storage: Connection, region: str, bucket: str
) -> Iterator[ScratchServer]:
    """Start MLflow on a restored database and the bucket's `mlflow/` prefix. Stop it when the context ends.

    The result has the form of `live`, the connection to the real server.
    """
    port, password = _free_port(), secrets.token_urlsafe(24)
    with spool_folder() as folder:
        command = [sys.executable, "-m", "rempart.tracking_access.serve", "--port", str(port)]
        command += ["--artifacts", f"s3://{bucket}/mlflow"]
        with (folder / "log").open("wb") as log:
            environment = _environment(drill_id, folder, database, storage, region, password)
            process = ends_with_parent.start(command, environment, folder, log)
        connection = Connection(f"{live.name}_drill", live.conn_type, "127.0.0.1", port, "drill", password, "http")
        try:
            yield ScratchServer(connection, process, folder / "log")
        finally:
            child_processes.end_group(process)  # it holds no data that needs a clean shutdown


def _last_error(log: Path) -> str:
    """Return the type of the last error in the log. The error's text may hold the database's URL, so it is left out."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    kinds = [line.split(":", 1)[0] for line in lines if line[:1].isalpha() and "Error" in line.split(":", 1)[0]]
    return kinds[-1][:80] if kinds else "no error in its log"


def marked_processes(drill_id: str, environments: Mapping[int, bytes]) -> list[int]:
    """Return the processes that belong to a drill, by their environments as the kernel shows them."""
    mark = f"{MARK}={drill_id}".encode()
    return [pid for pid, block in environments.items() if mark in block.split(b"\0")]


def end_marked(drill_id: str) -> None:
    """End every process that a drill left on this machine (Linux only; on other systems they end with their
    session).
    """
    environments = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environments[int(folder.name)] = (folder / "environ").read_bytes()
        except OSError:
            continue  # another user's process, or one that has just ended
    for pid in marked_processes(drill_id, environments):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
