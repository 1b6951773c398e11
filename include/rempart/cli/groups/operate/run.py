"""Run a service in the foreground."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import panels
from rempart.signals import stop_event

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.OPERATE, help="Run a service in the foreground, as a supervisor does."
)


@group.command("mlflow")
def run_mlflow(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; default: that of the stack, or of connection mlflow.")] = None,
    allowed_hosts: Annotated[
        str, typer.Option(help="Other hosts by which clients reach it: host:port,host:port.")
    ] = "",
) -> None:
    """Run the MLflow server at the active site; it stops while the site is fenced, and restarts at the next one.

    Example:
        rempart run mlflow --port 5000
    """
    from rempart.deployment.servers import mlflow_supervisor
    from rempart.deployment.setup import paths

    raise typer.Exit(mlflow_supervisor.run_mlflow(paths.current(), host=host, port=port, allowed=allowed_hosts))


@group.command("airflow")
def run_airflow(
    component: Annotated[str, typer.Argument(help="api-server, scheduler, dag-processor, triggerer or worker")],
) -> None:
    """Run one of Airflow's components with the platform's settings and connections.

    Example:
        rempart run airflow scheduler
    """
    from rempart.deployment.kubernetes import cluster
    from rempart.deployment.setup import launch, paths

    stack = paths.current()
    if stack.cluster:
        cluster.write_users(stack, component)
    launch.run(stack, f"airflow-{component}")


@group.command("workload", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run_workload(
    command: Annotated[list[str], typer.Argument(help="Program and its arguments.")],
    component: Annotated[
        str, typer.Option(help="Run in the container of this component, which has fewer secrets than a task's.")
    ] = "",
) -> None:
    """Run any program with Airflow's settings and connections: an executor starts this in its own pod.

    Example:
        rempart run workload airflow version
    """
    from rempart.deployment.setup import launch, paths

    launch.run_workload(paths.current(), command, component)


@group.command("wal-archive")
def run_wal_archive(
    folder: Annotated[
        Path | None, typer.Option(help=("Folder in which WAL waits for its upload; default: wal in var."))
    ] = None,
) -> None:
    """Archive PostgreSQL's WAL and base backups at the backup site, until the process is ended.

    Example:
        rempart run wal-archive
    """
    from rempart.deployment.setup.environment import MARKER
    from rempart.flows.pitr.wal_archive import Archiver
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.config import var_dir

    marks = {name: os.environ[name] for name in (MARKER, "PATH") if name in os.environ}
    Archiver(open_platform(), (folder or var_dir() / "wal").absolute(), stop_event(), marks=marks).run()


@group.command("landing-watch")
def run_landing_watch() -> None:
    """Start the ingestion of pipelines with `schedules.on_delivery` when files land, until the process is ended.

    `rempart up` starts it if a pipeline declares that; docker-compose.yml and deploy/kubernetes have it, too. A second
    one starts no run twice.

    Example:
        rempart run landing-watch
    """
    from rempart.flows.events import landing_watch
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.config import var_dir

    landing_watch.open_watch(open_platform(), stop_event(), beat=var_dir() / landing_watch.BEAT).run()


@group.command("scorer")
def run_scorer(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; default: that of the stack.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="File of a TLS certificate (PEM), with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="File of the certificate's key (PEM).")] = None,
) -> None:
    """Answer requests for predictions by the champion of each pipeline, until the process is ended.

    `rempart up` starts it; docker-compose.yml (profile `serving`) and deploy/kubernetes/serving have it, too. Programs
    ask with a key (`rempart users client`). Promotions and rollbacks take effect within seconds, without a lost
    request. Neither Airflow nor MLflow is needed.

    Example:
        rempart run scorer --port 18090
    """
    from rempart.deployment.setup import paths
    from rempart.errors import ConfigError
    from rempart.flows.serving import identity, service
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.config import environment_connections, var_dir

    if (certificate is None) != (key is None):
        raise ConfigError("serve the scorer with TLS: --certificate and --key belong together", "Pass both.")
    tls = (certificate, key) if certificate and key else None
    stack = paths.current()
    platform = open_platform(identity.reading(environment_connections, stack.config))
    service.run(platform, var_dir() / "scorer", host, port or stack.scorer_port, tls)
