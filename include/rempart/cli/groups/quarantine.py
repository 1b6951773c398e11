"""Accept held-back deliveries."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import panels

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.DATA, help="Held-back deliveries: accept a delivery as it is."
)


@group.callback()
def held_back() -> None:
    """Manage held-back deliveries."""


@group.command("accept")
def accept_delivery(
    pipeline: Annotated[str, typer.Argument(help="Pipeline of the delivery.")],
    delivery: Annotated[str, typer.Argument(help="SHA-256 of the delivery, from the cockpit's page of the pipeline.")],
    yes: Annotated[
        bool,
        typer.Option("--yes", help=("Accept the delivery. Without it the result is shown and nothing is changed.")),
    ] = False,
) -> None:
    """Publish the good rows of a delivery even if more rows are refused than max_quarantined allows.

    Airflow runs it: the DAG ingest_PIPELINE of the running platform, as the user of connection airflow_api.

    Example:
        rempart quarantine accept hotel_bookings 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --yes
    """
    from rempart.flows.ingestion import accept_delivery as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    planned = flow.plan(platform.ledger, pipeline, delivery)
    for line in planned.lines():
        typer.echo(line)
    if not yes:
        typer.echo("Nothing was changed. Check the rows first, then pass --yes to accept the delivery.")
        return
    flow.accept(platform.connections("airflow_api"), planned)
