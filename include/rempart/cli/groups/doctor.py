"""Probe sites, pools and databases."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import rendering

group = typer.Typer(no_args_is_help=True, help="Check sites, pools and databases, and print the remedies.")


@group.command("pool")
def doctor_pool(
    name: Annotated[
        str | None, typer.Argument(help="Name of a pool, as under gpu_pools in rempart.yaml; default: all pools.")
    ] = None,
    probe: Annotated[
        bool, typer.Option(help="Also run a short pod that checks image, site and tracking server.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    wait: Annotated[
        int, typer.Option(min=1, help="Maximum seconds for the pod, including the pull of its image.")
    ] = 180,
) -> None:
    """Check a pool's live cluster. Exit code 0: no check failed; 1: a check failed; 2: a cluster did not answer."""
    from rempart.flows.doctor import doctor_pool as flow

    found = flow.diagnose([name] if name else [], probe=probe, seconds=wait)
    typer.echo(flow.as_json(found) if as_json else "\n".join(line for diagnosis in found for line in diagnosis.lines()))
    raise typer.Exit(flow.exit_code(found))


@group.command("site")
def doctor_site(
    name: Annotated[
        str | None, typer.Argument(help=("Name of a site, as under sites in rempart.yaml; default: all sites."))
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Probe a site in a separate bucket, and record the outcome as evidence.

    Exit code 0: usable for every purpose; 1: not usable for some; 2: a site did not answer.
    """
    from rempart.flows.doctor import doctor_site as flow
    from rempart.flows.shared.platform import open_platform

    if as_json:
        rendering.warnings_only()
    found = flow.probe_sites(open_platform(), [name] if name else [])
    typer.echo(flow.as_json(found) if as_json else "\n".join(flow.summary(found)))
    raise typer.Exit(flow.exit_code(found))


@group.command("database")
def doctor_database() -> None:
    """Check with PostgreSQL's own programs that backups can read each database.

    Exit code 1: a database cannot be read.
    """
    from rempart.flows.doctor import doctor_database as flow
    from rempart.flows.shared.platform import open_platform

    found = list(flow.look(open_platform().connections("pg_backup")))
    for check in found:
        typer.echo(check.line())
    raise typer.Exit(0 if all(check.ok for check in found) else 1)
