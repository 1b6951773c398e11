"""Restore the platform or a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rempart.cli.root import app


@app.command("restore")
def restore_cli(
    site: Annotated[str, typer.Option(help="The site to restore from; by default backup.site.")] = "",
    point: Annotated[str | None, typer.Option(help="Its id; by default the newest that lacks nothing.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="database:NAME, bucket:lake, bucket:artifacts, model:NAME, dataset:NAME; may be repeated."),
    ] = None,
    aside: Annotated[str | None, typer.Option(help="Beside the platform's own, under names that end in this.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Escrow identity; by default the platform's own.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="The ledger's public key, PEM; may be repeated.")] = None,
    active: Annotated[
        str | None, typer.Option(help="The site that serves afterwards, where that of the point is lost.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the points that can be restored.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what the point holds, part by part.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also an older point, over other secrets, into databases that hold rows.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=0, help="In containers: seconds to wait until somebody has started MLflow and Airflow.")
    ] = 0,
) -> None:
    """Restore the platform, or a part of it, from a site and the escrowed keys; needs no Airflow.

    Start it again to continue an interrupted run.
    """
    from rempart.backup.points.restore_plan import check_suffix, parse_part
    from rempart.deployment.setup import paths
    from rempart.flows.restore import restore_command as flow
    from rempart.flows.restore.restore_source import Wish

    parts = tuple(parse_part(text) for text in only or ())
    wish = Wish(site, point, parts, check_suffix(aside) if aside else None, force, active)
    stack = paths.current()
    looked = flow.look(stack, wish, trust or (), wait)
    if listed:
        for line in looked.listing():
            typer.echo(line)
        return
    prepared = flow.prepare(looked, identity)
    for line in prepared.lines(yes=yes):
        typer.echo(line)
    if explain:
        return
    if not yes:
        typer.echo("Nothing was changed. Pass --yes to restore.")
        return
    for line in flow.carry_out(stack, prepared, wait):
        typer.echo(line)
