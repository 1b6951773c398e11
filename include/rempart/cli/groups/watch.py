"""Watch heartbeats from outside the platform."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(invoke_without_command=True)


@group.callback()
def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once, as a timer does.")] = False,
    every: Annotated[str, typer.Option(help="Between two looks: 30s, 5m.")] = "5m",
    file: Annotated[Path, typer.Option(help="As `rempart watch init` writes it.")] = Path("watch.yaml"),
    state: Annotated[Path | None, typer.Option(help="Who was told what, instead of `state` in the file.")] = None,
) -> None:
    """Alert when backup, replication or drill heartbeats are missing; runs outside Airflow, best at another operator.

    Exit code of --once: 0: all is green; 1: something is red; 2: the check or an alert failed.
    """
    if context.invoked_subcommand:
        return
    from rempart.flows.monitoring import watch as flow
    from rempart.settings.schema import parse_duration

    try:
        seconds = max(parse_duration(every).total_seconds(), 1.0)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--every") from fault
    for found in flow.rounds(file, state, os.environ, lambda: datetime.now(UTC), lambda: time.sleep(seconds)):
        for line in found.lines():
            typer.echo(line)
        if found.fault:
            typer.echo(f"error: {found.fault}", err=True)
        if once:
            raise typer.Exit(found.exit_code)
    raise typer.Exit(flow.UNKNOWN)


@group.command("init")
def watch_init(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("watch.yaml"),
) -> None:
    """Write the watch's file from this platform's configuration: site, public key, and how long each may be silent."""
    from rempart.flows.monitoring import watch_init as flow
    from rempart.flows.shared.platform import open_platform

    typer.echo(f"{flow.write(open_platform(), out)}: written. Name whom to tell under `alerts`; docs/how-to/watch.md")
