"""Look at the quarantine, accept held-back deliveries, and ingest them again."""

from __future__ import annotations

from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.counts import counted

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.DATA,
    help="Quarantine: rows by delivery and rule; accept a held-back delivery, or ingest it again.",
)


Delivery = Annotated[
    str, typer.Argument(help="SHA-256 of the delivery, or its first eight or more characters, from `quarantine show`.")
]


@group.command("again")
def ingest_again(
    pipeline: Annotated[str, typer.Argument(help="Pipeline of the delivery.")],
    delivery: Delivery,
) -> None:
    """Ingest a delivery once more, by the pipeline file as it is now: after you corrected the file.

    Airflow runs it: the DAG ingest_PIPELINE of the running platform, as the user of connection airflow_api. Its good
    rows join a new snapshot; rows that are still refused stay in quarantine.

    Example:
        rempart quarantine again hotel_bookings 9f86d081884c
    """
    from rempart.cli.views import delivery as delivery_view
    from rempart.flows.ingestion import accept_delivery as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.ingestion import acceptance
    from rempart.settings import pipelines

    platform = open_platform()
    found = flow.on_record(platform.ledger, pipeline, delivery)
    done = flow.again(platform.connections("airflow_api"), pipeline, str(found["sha256"]))
    rendering.tell(
        f"{counted(done['delivered'], 'row')}: {acceptance.good(done['accepted'], done['repeated'])}, "
        f"{done['quarantined']:,} refused in this run; "
        f"snapshot {done['snapshot']}"
    )
    if done["changed"]:
        rendering.show(delivery_view.after_snapshot(pipelines.named(pipeline)))
    else:
        rendering.tell("Nothing changed: each of these rows has the same verdict as before.")


@group.command("accept")
def accept_delivery(
    pipeline: Annotated[str, typer.Argument(help="Pipeline of the delivery.")],
    delivery: Delivery,
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
    from rempart.cli.views import delivery as delivery_view
    from rempart.flows.ingestion import accept_delivery as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    platform = open_platform()
    planned = flow.plan(platform.ledger, pipeline, delivery)
    rendering.show(planned.lines())
    if not yes:
        rendering.tell("Nothing was changed. Check the rows first, then pass --yes to accept the delivery.")
        return
    if flow.accept(platform.connections("airflow_api"), planned):
        rendering.show(delivery_view.after_snapshot(pipelines.named(pipeline)))


@group.command("show")
def show_quarantine(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    as_json: AsJson = False,
) -> None:
    """Count the rows that wait in quarantine now, by delivery and rule, without values, and say how to look at them.

    The first lines of each rule are those of the file as delivered (a CSV header is line 1). Exit code 1: a source of
    these facts did not answer.

    Example:

        rempart quarantine show hotel_bookings
    """
    from rempart.cli.views import facts, names, pipelines, quarantine, refused_lines, text
    from rempart.errors import PipelineError
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.pipelines import named
    from rempart.settings.pipelines import names as pipeline_names
    from rempart.sites.port import Site
    from rempart.web.read_models import quarantine as quarantines

    json_documents.begin(as_json)
    found = facts.gather()
    quality = quarantines.quality(found, names.pipeline(pipeline, pipeline_names()), found.at)
    places = refused_lines.RefusedLines()
    if quality is not None:
        try:
            classification = named(pipeline).classification

            def lake() -> tuple[Site, str]:
                platform = open_platform()
                return platform.active_site(classification), platform.config.buckets.lake

            places = refused_lines.look(lake, pipeline, quality.in_quarantine)
        except PipelineError as fault:
            places = refused_lines.RefusedLines(silent=fault.what)
    if as_json:
        json_documents.show(quarantine.as_json(quality, places) if quality else None)
    elif quality is not None:
        told = quarantine.lines(quality, facts.cockpit(pipeline), places)
        again = text.look_again(f"rempart quarantine show {pipeline}", places.silent)
        rendering.show((*told, *pipelines.unknown(quality.moment), *again))
    raise typer.Exit(0 if facts.complete(found) and not places.silent else 1)
