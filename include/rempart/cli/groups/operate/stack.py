"""Set up, start, check, upgrade and stop the stack."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, panels, rendering, upgrade
from rempart.cli.json_documents import AsJson
from rempart.counts import counted
from rempart.errors import PreflightFailed, RempartError
from rempart.settings import telemetry

if TYPE_CHECKING:
    from rempart.deployment.embedded.status import ServiceStatus

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.OPERATE,
    help="The stack: set it up, start it, check it, upgrade it, stop it.",
)


@group.command("up")
def up(
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Migrate databases of an earlier release, without a restore point.")
    ] = False,
    stores: Annotated[
        bool, typer.Option("--stores", help="Start only PostgreSQL and the sites, for a restore.")
    ] = False,
) -> None:
    """Start the stopped services of the embedded stack, and check that each works.

    Example:
        rempart up
        rempart up --stores
    """
    from rempart.cli import progress
    from rempart.deployment.embedded import lifecycle
    from rempart.deployment.setup import paths

    stack = paths.current()
    with progress.shown():
        if stores:
            lifecycle.start_stores(stack)
        else:
            lifecycle.up(stack, migrate=migrate)


@group.command("init")
def init(
    settings: Annotated[Path | None, typer.Option(help="File to write instead of .env.")] = None,
    from_point: Annotated[
        bool,
        typer.Option(
            "--from-point", help="With the secrets of a restore point, to restore it in containers or in a cluster."
        ),
    ] = False,
    site: Annotated[str, typer.Option(help="Site of the restore point; default: backup.site.")] = "",
    point: Annotated[
        str | None, typer.Option(help="Id of the restore point; default: the newest complete one.")
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="Escrow identity that opens its keys.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="Public key of the ledger, PEM; may be repeated.")] = None,
    profiles: Annotated[
        str | None,
        typer.Option(help="Optional services of compose: celery,monitoring, or '' for none. Unchanged if omitted."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help=("Serve the pages by TLS with this certificate and its chain, in PEM. It is stored.")),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the certificate, in PEM, without a passphrase.")] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Write the files of a cluster's Secrets instead, for kubectl.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help=("Write the settings of an image build instead; they contain no secret."))
    ] = False,
) -> None:
    """Write the files that docker-compose.yml reads: `.env`, and each container's secrets and settings.

    Existing secrets stay.

    Example:
        rempart stack init
        rempart stack init --profiles celery,monitoring
        rempart stack init --certificate chain.pem --key key.pem
        rempart stack init --kubernetes --from-point --site haven --identity escrow.txt --trust public.pem
    """
    from rempart.deployment.compose import containers, ingress
    from rempart.deployment.kubernetes import cluster
    from rempart.deployment.setup import paths
    from rempart.errors import StackError

    for option, given in (("--kubernetes", kubernetes), ("--from-point", from_point)):
        if images and given:
            raise StackError(
                f"init: --images and {option} cannot be combined", "Run `rempart stack init` once with each option."
            )
    if (certificate is None) != (key is None):
        raise StackError(
            "init: a certificate was given without its key, or a key without its certificate",
            "Pass both: --certificate FILE --key FILE.",
        )
    pair = ingress.CertificatePair(certificate, key) if certificate and key else None
    restored = None
    if from_point:
        from rempart.flows.restore.restore_command import secrets_of
        from rempart.flows.restore.restore_source import Wish

        restored = secrets_of(Wish(site, point), identity, trust or ())
    stack = paths.current()
    if images:
        containers.initialise_build(stack, settings or stack.root / ".env", os.environ)
        return
    if kubernetes:
        folder = cluster.initialise(stack, os.environ, restored=restored)
        rendering.tell(f"kubectl apply --server-side -k {folder}")
        return
    chosen = None if profiles is None else profiles.replace(" ", "").split(",")
    file = settings or stack.root / ".env"
    containers.initialise(stack, file, os.environ, chosen, pair, restored=restored)


@group.command("prepare")
def prepare() -> None:
    """Create databases, roles, buckets and Airflow's schema on the other containers' servers; runs in a container.

    Example:
        rempart stack prepare
    """
    from rempart.deployment.compose import containers
    from rempart.deployment.kubernetes import cluster
    from rempart.deployment.setup import paths

    stack = paths.current()
    if stack.cluster:
        cluster.prepare(stack)
    else:
        containers.prepare(stack)


@group.command("down")
def down() -> None:
    """Stop the embedded stack and check that no process is running.

    Example:
        rempart down
    """
    from rempart.cli import progress
    from rempart.deployment.embedded import lifecycle
    from rempart.deployment.setup import paths

    stack = paths.current()
    with progress.shown():
        lifecycle.down(stack)


@group.command("status")
def status(as_json: AsJson = False) -> None:
    """Show services, copies, and each pipeline with its champion; of a stopped stack only that, and how to start it.

    Of each champion, the objects at the active site are counted and their checksums compared, and those of each current
    snapshot are counted; none is read.
    Exit code 1 if a service is stopped, a site does not answer, the scorer is not ready, backups have no site, restore
    points do not cover a store that a champion needs, objects of a champion or of a snapshot are not there or nobody
    knows, or a model's champion alias was moved in MLflow.

    Example:
        rempart status
    """
    from rempart.cli.monitoring import pipeline_health
    from rempart.cli.views import site_list
    from rempart.deployment.embedded.status import all_run, none_runs, services
    from rempart.deployment.servers import scorer_server
    from rempart.deployment.setup import paths
    from rempart.flows.backup import stores_not_held
    from rempart.flows.monitoring import rpo
    from rempart.flows.restore import restore_active
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training import champions

    json_documents.begin(as_json)
    platform = open_platform()
    lines = services(stack := paths.current(), time.time())
    if none_runs(stack, lines) and not as_json:
        rendering.tell("The stack is stopped. `rempart up` starts its services, and ends what an earlier run left.")
        raise typer.Exit(1)
    silent = site_list.ask(platform.config, platform.connections, platform.clock().date())
    rpo_line, replicas = rpo.line(platform), list(rpo.grades(platform))
    absent, moved = stores_not_held.lines(platform), list(restore_active.lines(platform))
    aliases, scorer = champions.lines(platform), scorer_server.line(stack)
    pipelines, unknown = pipeline_health.look(platform)
    scorer = pipeline_health.of_scorer(scorer, pipelines)
    red = scorer.startswith(scorer_server.NOT_READY) or bool(unknown) or any(found.is_red for found in pipelines)
    red = red or any(line.startswith(stores_not_held.RED) for line in absent)
    red = red or any(alias.startswith(champions.MOVED) for alias in aliases)
    red = (
        red
        or not all_run(lines)
        or any(silent.values())
        or any(move.startswith(restore_active.NO_BACKUP) for move in moved)
    )
    if as_json:
        shown = {"ok": not red, "services": lines, "silent_sites": silent, "rpo": rpo_line, "replicas": replicas}
        shown |= {"restore_points": absent, "active_site": moved, "champions": aliases, "scorer": scorer}
        json_documents.show({**shown, "pipelines": pipeline_health.as_json(pipelines), "unknown": unknown})
    else:
        _show_services(lines)
        about = (rpo_line, *replicas, *absent, *moved, *aliases, *([scorer] if scorer else []))
        rendering.show(("", *pipeline_health.lines(pipelines, unknown), "", *about))
        if not all_run(lines):
            rendering.tell("Some services are stopped: `rempart up` starts them, and ends what an earlier run left.")
        active = platform.config.active_site
        with suppress(RempartError):  # the database knows better, if it answers
            active = platform.active().site
        rendering.show(site_list.silent_lines(silent, active))
        rendering.show(pipeline_health.ending(pipelines))
    if red:
        raise typer.Exit(1)


def _show_services(lines: Sequence[ServiceStatus]) -> None:
    rendering.tell(f"{'service':<24}{'state':<14}{'pid':>8}{'up':>9}{'port':>8}{'processes':>11}{'RSS MiB':>9}")
    for line in lines:
        age = f"{int(line.seconds)} s" if line.pid else "-"
        port = line.ports[0] if line.ports else "-"
        rendering.tell(
            f"{line.name:<24}{line.state:<14}{line.pid or '-':>8}{age:>9}{port:>8}{line.processes:>11}{line.rss_mib:>9}"
        )
    rendering.tell(f"{'together':<63}{sum(x.processes for x in lines):>11}{sum(x.rss_mib for x in lines):>9}")


@group.command("logs")
def logs(
    services: Annotated[
        list[str] | None, typer.Argument(help="Services, as in `rempart status`; default: all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the logs.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of last lines of each log.")] = 20,
) -> None:
    """Show the services' logs.

    Example:
        rempart stack logs
        rempart stack logs mlflow --lines 100 --follow
    """
    from rempart.deployment.embedded.logs import logs_of
    from rempart.deployment.setup import paths

    files = logs_of(paths.current(), services or [])
    if not files:
        rendering.tell("There are no logs yet: run `rempart up`.")
        return
    options = ["-F"] if follow else []
    raise typer.Exit(subprocess.run(["tail", "-n", str(lines), *options, "--", *files], check=False).returncode)


@group.command("preflight")
def check_machine(as_json: AsJson = False) -> None:
    """Check that this machine has everything that the stack needs, and print the remedies.

    Example:
        rempart stack preflight
    """
    from rempart.deployment.setup import paths, preflight

    stack = paths.current()
    findings = preflight.inspect(stack.root, stack.var, stack.ports, os.environ)
    if as_json:
        json_documents.show({"findings": findings})
    for finding in () if as_json else findings:
        rendering.tell(finding.line())
    if failed := preflight.failures(findings):
        raise PreflightFailed(
            f"{counted(len(failed), 'check')} failed: {', '.join(finding.what for finding in failed)}",
            "Follow the arrows above, then run `rempart stack preflight` again.",
        )


@group.command("demo")
def demo(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also flights from a database, joined with weather, and a model of late ones."),
    ] = False,
) -> None:
    """Run the whole chain on the sample data through Airflow's REST API, and write var/demo-report.json.

    With --all, the files of data/flights are copied to include/pipelines and include/sql first, and rempart.yaml gets
    the connection of the airport's database.

    Example:
        rempart demo
        rempart demo --all
    """
    from rempart.cli.demo import demo_run as main_job
    from rempart.deployment.embedded import lifecycle
    from rempart.deployment.setup import paths

    def start_stack() -> None:
        if not (stack := paths.current()).containers:  # those run already
            lifecycle.up(stack)
        telemetry.adopt_environment()

    if not main_job.run(start_stack, flights=everything):
        raise typer.Exit(1)


@group.command("password")
def password(service: Annotated[str, typer.Argument(help="airflow, mlflow or monitoring")]) -> None:
    """Print the generated password of the web user, to log in with.

    Example:
        rempart stack password airflow
    """
    from rempart.errors import ConfigError
    from rempart.settings import config

    connections = {"airflow": "airflow_api", "mlflow": "mlflow", "monitoring": "monitoring"}
    if service not in connections:
        raise ConfigError(
            f"show the password of '{service}': the service has no web user", f"Pass one of: {', '.join(connections)}."
        )
    rendering.tell(config.environment_connections(connections[service]).password)


group.command("upgrade")(upgrade.upgrade)
