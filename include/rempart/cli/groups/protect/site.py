"""Probe sites, copy between them, and move the platform from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.views.site_list import list_sites

if TYPE_CHECKING:
    from rempart.flows.failover.fail_over import SwitchoverResult

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.PROTECT,
    help="Sites: list and probe them, copy between them, move the platform.",
)

group.command("list")(list_sites)


@group.command("doctor")
def site_doctor(
    name: Annotated[
        str | None, typer.Argument(help=("Name of a site, as under sites in rempart.yaml; default: all sites."))
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Probe a site in a separate bucket, and record the outcome as evidence.

    Exit code 0: usable for every purpose; 1: not usable for some; 2: a site did not answer.

    Example:
        rempart site doctor
        rempart site doctor haven --json
    """
    from rempart.flows.doctor import doctor_site as flow
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = flow.probe_sites(open_platform(), [name] if name else [])
    rendering.show(flow.as_json(found).split("\n") if as_json else flow.summary(found))
    raise typer.Exit(flow.exit_code(found))


def _tell_switchover(result: SwitchoverResult) -> None:
    from rempart.flows.failover import fail_over as flow

    rendering.show(flow.lines(result))
    if result.dry_run and not result.done:
        rendering.tell("Nothing was changed. Pass --yes to execute the plan.")


@group.command("env")
def site_env(
    name: Annotated[str, typer.Argument(help="Name of a site, as under sites in rempart.yaml.")],
    reads: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="Only read this pipeline's snapshots and rows to learn from."),
    ] = None,
    hours: Annotated[int, typer.Option(min=1, help="With --reads: hours after which the key ends.")] = 8,
) -> None:
    """Print a site's address and key as environment variables, for boto3, Polars, DuckDB and other S3 clients.

    A shell takes them by `eval "$(...)"`. The key may read and write all buckets of the platform there. With `--reads`
    it is a session that ends by itself, writes nothing, and reads no held-out row.

    Example:
        rempart site env primary
        rempart site env primary --reads hotel_bookings
    """
    from datetime import timedelta

    from rempart.cli import site_variables
    from rempart.cli.views import names
    from rempart.flows.governance import reader_session
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    platform = open_platform()
    site = site_variables.chosen(platform.config, name)
    if reads is None:
        rendering.show(site_variables.lines(platform.connections(site.connection), site.region))
        return
    spec = pipelines.named(names.pipeline(reads, pipelines.names()))
    session, until = reader_session.open_session(platform, name, spec, timedelta(hours=hours))
    rendering.show([*site_variables.lines(session, site.region), f"# until {until.isoformat(timespec='minutes')}"])


@group.command("replicate")
def site_replicate(
    source: Annotated[str, typer.Argument(help="Site to copy from, as under replication in rempart.yaml.")],
    target: Annotated[str, typer.Argument(help="Site to copy to.")],
    accept_deletes: Annotated[
        int,
        typer.Option(min=0, help=("Hide this number of keys that are gone at the source, after a run asked for it.")),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Copy new and changed objects from one site to another.

    Exit code 1: a key failed, or the lag exceeds its objective.

    Example:
        rempart site replicate primary haven
    """
    from rempart.flows.replication import replicate as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    json_documents.begin(as_json)
    result = flow.replicate(platform, source, target, accept_deletes=accept_deletes)
    json_documents.show(result) if as_json else rendering.show(flow.lines(result))
    flow.check_objective(platform.config, source, target, result)


@group.command("verify-replica")
def site_verify_replica(
    source: Annotated[str, typer.Argument(help="Site from which the replicas were copied.")],
    target: Annotated[str, typer.Argument(help="Site whose replicas are read back.")],
    whole: Annotated[bool, typer.Option("--all", help="Read all replicas instead of the part of one day.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read replicas back and repair damaged ones. Exit code 1: a replica could not be repaired.

    Example:
        rempart site verify-replica primary haven --all
    """
    from rempart.flows.replication import verify_replicas as flow
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    result = flow.verify(open_platform(), source, target, whole=whole)
    json_documents.show(result) if as_json else rendering.show(flow.lines(result))


@group.command("active")
def site_active(as_json: AsJson = False) -> None:
    """Show the active site, the progress of a switchover, and every earlier generation.

    Example:
        rempart site active
    """
    from rempart.flows.failover import published_state
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    platform = open_platform()
    if as_json:
        configured = platform.config.active_site
        sites = platform.continuity.active_sites(configured)
        json_documents.show(published_state.facts(sites, configured, lambda: published_state.read(platform)))
        return
    rendering.show(published_state.lines(platform))


@group.command("failover")
def site_failover(
    to: Annotated[str | None, typer.Option(help="Site that becomes the active one.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help=("Continue although the source does not answer; lost changes are listed.")),
    ] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Stay at the current site and remove the fence.")] = False,
) -> None:
    """Move the platform to another site: fence, drain, verify, switch, resume. An interrupted run is resumed.

    Example:
        rempart site failover --to haven
        rempart site failover --to haven --yes
        rempart site failover --abandon --yes
    """
    from rempart.errors import ConfigError
    from rempart.flows.failover import fail_over as flow
    from rempart.flows.shared.platform import open_platform

    if to and abandon:
        raise ConfigError("fail over: a target site was given, and --abandon stays at the source", "Pass only one.")
    if to is None and not abandon:
        raise ConfigError("fail over: no target site was given", "Pass --to SITE, or --abandon.")
    platform = open_platform()
    if to is None:
        result = flow.abandon(platform, dry_run=not yes)
    else:
        result = flow.fail_over(platform, to, dry_run=not yes, accept_loss=accept_loss)
    _tell_switchover(result)


@group.command("failback")
def site_failback(
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Return to the site that rempart.yaml names: update it while pipelines continue, then switch as in a failover.

    Example:
        rempart site failback
        rempart site failback --yes
    """
    from rempart.flows.failover import fail_over as flow
    from rempart.flows.shared.platform import open_platform

    _tell_switchover(flow.fail_back(open_platform(), dry_run=not yes))
