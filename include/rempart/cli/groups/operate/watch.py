"""Watch heartbeats from outside the platform."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import panels, rendering

group = typer.Typer(invoke_without_command=True, rich_help_panel=panels.OPERATE)


@group.callback()
def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Check once, for use in a timer.")] = False,
    every: Annotated[str, typer.Option(help="Time between two checks: 30s, 5m.")] = "5m",
    file: Annotated[Path, typer.Option(help="Configuration file, as written by `rempart watch init`.")] = Path(
        "watch.yaml"
    ),
    state: Annotated[
        Path | None,
        typer.Option(help=("File with the notifications already sent, instead of `state` in the configuration.")),
    ] = None,
) -> None:
    """Alert when heartbeats of backup, replication or drill are missing.

    Run it outside Airflow, if possible at another operator.

    Exit code of --once: 0: all is green; 1: something is red; 2: the check or an alert failed.

    Example:
        rempart watch --every 5m
        rempart watch --once --file watch.yaml
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
        rendering.show(found.lines())
        if found.fault:
            rendering.show(f"error: {found.fault}".split("\n"), err=True)
        if once:
            raise typer.Exit(found.exit_code)
    raise typer.Exit(flow.UNKNOWN)


@group.command("init")
def watch_init(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("watch.yaml"),
) -> None:
    """Write the watch's file from this platform's configuration: site, public key, and how long each may be silent.

    Example:
        rempart watch init --out watch.yaml
    """
    from rempart.flows.monitoring import watch_init as flow
    from rempart.flows.shared.platform import open_platform

    rendering.tell(f"wrote {flow.write(open_platform(), out)}. Add the recipients under `alerts`: docs/how-to/watch.md")
