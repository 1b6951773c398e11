"""The command that accepts a delivery which is held back."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli.root import quarantine_app


@quarantine_app.callback()
def group() -> None:
    """Manage held-back deliveries."""


@quarantine_app.command("accept")
def accept_delivery(
    pipeline: Annotated[str, typer.Argument(help="The pipeline whose delivery it is.")],
    delivery: Annotated[str, typer.Argument(help="SHA-256 of the delivery, from the cockpit's page of the pipeline.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it you see what would be published, and nothing is changed.")
    ] = False,
) -> None:
    """Publish the good rows of a delivery although more of it is refused than max_quarantined allows.

    Airflow runs it: the DAG ingest_PIPELINE of the running platform, as the user of connection airflow_api.
    """
    from rempart.flows.ingestion import accept_delivery as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    planned = flow.plan(platform, pipeline, delivery)
    for line in planned.lines():
        typer.echo(line)
    if not yes:
        typer.echo("Nothing was changed. Look at the rows first; --yes accepts the delivery.")
        return
    flow.accept(platform, planned)
