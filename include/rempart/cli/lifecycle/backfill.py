"""The command `rempart pipeline backfill`: the plan of a period first, and only with `--yes` its execution."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import DryRun, Name, Yes, check_one


def backfill(
    name: Name,
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day on which deliveries landed (UTC).")
    ],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Judge the quarantined rows of a period's deliveries again, by today's pipeline file.

    Rows in quarantine that are accepted now join a new snapshot; accepted rows stay, unless `on_conflict: newest`
    replaces one by a newer version. Airflow runs one delivery after the other. The same command goes on where it
    was interrupted, and starts no run twice. Exit code 1: a run failed.

    Example:
        rempart pipeline backfill hotel_bookings --from 2026-03-01 --to 2026-03-31
        rempart pipeline backfill hotel_bookings --from 2026-03-01 --to 2026-03-31 --yes
    """
    from rempart.airflow_api import AirflowApi
    from rempart.cli.views import names
    from rempart.flows.events import backfill as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import config, pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    spec = pipelines.named(names.pipeline(name, pipelines.names()))
    planned = flow.look(open_platform(), spec, first.date(), last.date())
    if not as_json:
        rendering.show(planned.lines())
    if not yes:
        if as_json:
            json_documents.show(planned)
        else:
            rendering.tell("Nothing was changed. To execute the plan, add --yes.")
        return
    told: list[str] = []
    tell = told.append if as_json else rendering.tell
    failed = flow.run(AirflowApi(config.environment_connections("airflow_api")), planned, tell)
    if as_json:
        json_documents.show({"plan": planned, "runs": told, "failed": list(failed)})
    elif len(failed) < len(planned.again):
        rendering.tell(f"What new rows started, and the result: rempart pipeline show {name}")
    raise typer.Exit(1 if failed else 0)
