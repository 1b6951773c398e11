"""Run the MLflow server at the active site: a child process that ends when the site is fenced, and restarts at the
next.

`rempart run mlflow` starts MLflow. While its server runs, this process is a writer like any other: a fence is complete
only after the server of the earlier generation has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from rempart.coordination.active import Active, ActiveSites
from rempart.deployment.servers import mlflow_server
from rempart.deployment.setup import environment, launch
from rempart.deployment.setup.credentials import connections
from rempart.deployment.setup.paths import Stack
from rempart.errors import ConnectionMissing, DatabaseUnavailable, RempartError, SiteFenced
from rempart.replication.continuity import PostgresqlContinuity
from rempart.settings import config as configuration

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two reads of the generation, and so the maximum delay of a fence."""
Start = Callable[[str], "subprocess.Popen[bytes]"]


def supervise(sites: ActiveSites, start: Start, poll: float = POLL_SECONDS) -> int:
    """Run a server at the active site, whichever it is. Return its exit status when it ends by itself.

    While the database does not answer, a running server continues.
    """
    while True:
        began, child = _open(sites, poll), None
        try:
            while True:
                try:
                    with sites.committing(began, lasting=True) as unchanged:
                        if child is None:
                            logger.info("starting at site '%s' (generation %d)", began.site, began.generation)
                            child = start(began.site)
                        while unchanged():
                            if (code := _wait(child, poll)) is not None:
                                return code
                    break
                except SiteFenced:
                    break
                except DatabaseUnavailable as error:
                    logger.warning("%s", error.what)
                    if child and (code := _wait(child, poll)) is not None:
                        return code
        finally:
            _end(child)
        logger.info("generation %d has ended: the server has stopped", began.generation)


def _open(sites: ActiveSites, poll: float) -> Active:
    """Return the generation as soon as it is active."""
    logged = ""
    while True:
        try:
            now = sites.active()
            if now.state == "active":
                return now
            reason = f"site '{now.site}' is fenced (generation {now.generation}): waiting for the end of the switch"
            level = logging.INFO
        except RempartError as error:
            level, reason = logging.WARNING, error.what
        if reason != logged:
            logger.log(level, "%s", reason)
            logged = reason
        time.sleep(poll)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen[bytes] | None) -> None:
    """End the server and all that it started."""
    if child is None:
        return
    try:
        parent = psutil.Process(child.pid)
        launch.end([parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        pass
    child.wait()


def command(stack: Stack, host: str = "127.0.0.1", port: int = 5000, allowed: str = "") -> tuple[str, ...]:
    """Return the server's command line, which holds no secret."""
    bucket = stack.config.buckets.artifacts
    return (
        *(stack.python, "-m", mlflow_server.MODULE, "--host", host, "--port", str(port)),
        *("--allowed-hosts", allowed, "--artifacts", f"s3://{bucket}/{mlflow_server.PREFIX}"),
    )


def run_mlflow(stack: Stack, *, host: str = "127.0.0.1", port: int | None = None, allowed: str = "") -> int:
    """Run MLflow as this platform's tracking server until it ends or this process is asked to end.

    `allowed` names the hosts by which clients reach it, as `host:port`. Raises ConnectionMissing.
    """
    secrets = configuration.environment() | configuration.read_env_file(stack.secrets)
    resolve = connections(stack, secrets)
    port = port or stack.ports.get("mlflow") or resolve("mlflow").port or 5000
    known = ",".join(filter(None, (f"127.0.0.1:{port},localhost:{port}", allowed)))
    mlflow_server.write_authentication(stack, resolve("pg_mlflow"))
    sites = PostgresqlContinuity(resolve("pg_continuity")).active_sites(stack.config.active_site)
    marker = {environment.MARKER: f"{stack.id}:mlflow"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}

    def start(active: str) -> subprocess.Popen[bytes]:
        try:
            variables = environment.mlflow(stack, secrets, inherited, active) | marker
        except KeyError as cause:
            raise ConnectionMissing(
                f"{cause} is not defined", "Run `rempart up`, or set the variable (docs/how-to/external-services.md)."
            ) from cause
        if checksums := mlflow_server.upload_checksums(variables, stack.config.buckets.artifacts):
            variables |= checksums
        else:
            logger.warning(
                "site '%s' did not store a checksum: uploads have none, so their content is not attested", active
            )
        return subprocess.Popen(command(stack, host, port, known), env=variables, cwd=_folder(stack))

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    return supervise(sites, start)


def _folder(stack: Stack) -> Path:
    stack.var.mkdir(parents=True, exist_ok=True)
    return stack.var
