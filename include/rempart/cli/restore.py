"""Restore the platform or a part of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, progress, rendering
from rempart.errors import ConfigError


def restore(
    site: Annotated[str, typer.Option(help="Site to restore from; default: backup.site.")] = "",
    point: Annotated[
        str | None, typer.Option(help="Id of the restore point; default: the newest complete one.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=("Part: database:NAME, bucket:lake, bucket:artifacts, model:NAME, dataset:NAME; may be repeated.")
        ),
    ] = None,
    aside: Annotated[
        str | None, typer.Option(help=("Restore next to the platform's own data, under names with this suffix."))
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="Escrow identity; default: the platform's own.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="Public key of the ledger, PEM; may be repeated.")] = None,
    active: Annotated[
        str | None, typer.Option(help="Site that becomes active afterwards, if the point's site is lost.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the restore points.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print one JSON document.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="List the parts of the restore point.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Allow an older point, other secrets, and databases with rows.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=0, help="In containers: seconds to wait for the start of MLflow and Airflow.")
    ] = 0,
) -> None:
    """Restore the platform, or a part of it, from a site and the escrowed keys; needs no Airflow.

    Start it again to continue an interrupted run.

    Example:
        rempart restore --list
        rempart restore --list --json
        rempart restore --explain
        rempart restore --only database:airflow --aside trial --yes
        rempart restore --site haven --identity escrow.txt --trust public.pem --yes
    """
    began = time.monotonic() - progress.since_start()
    from rempart.backup.points.restore_plan import check_suffix, parse_part
    from rempart.deployment.setup import paths
    from rempart.flows.restore import restore_command as flow
    from rempart.flows.restore.restore_source import Wish

    if as_json and not listed:
        raise ConfigError("restore: --json is for --list", "Pass --list --json, or leave out --json.")
    json_documents.begin(as_json)
    parts = tuple(parse_part(text) for text in only or ())
    wish = Wish(site, point, parts, check_suffix(aside) if aside else None, force, active)
    stack = paths.current()
    looked = flow.look(stack, wish, trust or (), wait)
    if as_json:
        json_documents.show(looked.document())
        return
    if listed:
        rendering.show(looked.listing())
        return
    prepared = flow.prepare(looked, identity)
    rendering.show(prepared.lines(yes=yes and not explain))
    if explain:
        return
    if not yes:
        rendering.tell("Nothing was changed. Pass --yes to restore.")
        return
    rendering.show(flow.carry_out(stack, prepared, wait, time.monotonic() - began))
