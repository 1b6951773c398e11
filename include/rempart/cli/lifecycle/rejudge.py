"""The command `rempart pipeline rejudge`: the plan first, and only with `--yes` its execution."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import rendering
from rempart.cli.lifecycle.remove import Name


def rejudge(
    name: Name,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it, or with --dry-run, the plan is shown and nothing changes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
) -> None:
    """Judge all stored deliveries again, by the pipeline file as it is now: after a rule changed.

    The plan counts rows that were accepted and would be refused, and the other way round. Airflow carries it out: the
    DAG ingest_PIPELINE of the running platform, as the user of connection airflow_api.

    Example:
        rempart pipeline rejudge hotel_bookings
        rempart pipeline rejudge hotel_bookings --yes
    """
    from rempart.flows.ingestion import accept_delivery
    from rempart.flows.ingestion import rejudge as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    platform = open_platform()
    rendering.show(flow.plan(platform, pipelines.named(name)).lines())
    if dry_run or not yes:
        typer.echo("Nothing was changed. Pass --yes to carry it out.")
        return
    done = accept_delivery.again(platform.connections("airflow_api"), name, flow.ALL)
    typer.echo(
        f"{done['accepted']:,} rows accepted, {done['quarantined']:,} in quarantine; snapshot {done['snapshot']}"
    )
