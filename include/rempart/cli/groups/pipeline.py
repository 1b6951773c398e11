"""Draft, check, deliver to, run and look at pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Pipelines: draft, check, deliver, run, and look at their state.")

PipelineName = Annotated[str, typer.Argument(help="Name of the pipeline, as in include/pipelines/NAME.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@group.command("list")
def list_pipelines(as_json: AsJson = False) -> None:
    """Show every pipeline: source, newest delivery, snapshot, champion, quarantine, schedule. Airflow may be down.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart pipeline list
        rempart pipeline list --json
    """
    from rempart.cli.views import facts, pipelines, text
    from rempart.settings import config
    from rempart.web.read_models.messages import moment
    from rempart.web.read_models.pipeline_states import pipeline_states

    found = facts.gather()
    states, landing = pipeline_states(found, found.at), config.load().buckets.landing
    if as_json:
        document = {
            "at": found.at,
            "unknown": found.unknown(),
            "pipelines": [pipelines.as_json(state, landing) for state in states],
        }
        typer.echo(text.document(document))
    else:
        for line in (*pipelines.listing(states, landing), *pipelines.unknown(moment(found, found.at))):
            typer.echo(line)
    raise typer.Exit(0 if facts.complete(found) else 1)


@group.command("show")
def show_pipeline(name: PipelineName, as_json: AsJson = False) -> None:
    """Show the state of a pipeline: deliveries, snapshot, quarantine by rule, champion, and what to do next.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart pipeline show hotel_bookings
        rempart pipeline show hotel_bookings --json
    """
    from rempart.cli.views import facts, names, pipelines, text
    from rempart.settings import config
    from rempart.web.read_models.messages import moment
    from rempart.web.read_models.pipeline_states import pipeline_states

    found = facts.gather()
    states = {state.name: state for state in pipeline_states(found, found.at)}
    state, landing = states[names.pipeline(name, states)], config.load().buckets.landing
    if as_json:
        typer.echo(text.document({"at": found.at, "unknown": found.unknown(), **pipelines.as_json(state, landing)}))
    else:
        for line in (*pipelines.state_lines(state, landing), *pipelines.unknown(moment(found, found.at))):
            typer.echo(line)
    raise typer.Exit(0 if facts.complete(found) else 1)


@group.command("deliver")
def deliver_files(
    name: PipelineName,
    files: Annotated[list[Path], typer.Argument(help="Deliveries: .csv or .csv.gz files with the pipeline's header.")],
) -> None:
    """Check the header of files, upload them to the landing bucket, read them back, and show what happens next.

    Nothing is uploaded if the header of a file is wrong. A file never replaces another delivery that waits under its
    name.

    Example:

        rempart pipeline deliver energy_use energy_use.csv
        rempart pipeline deliver energy_use 2026-01.csv.gz 2026-02.csv.gz
    """
    from rempart.cli.views import delivery, names
    from rempart.flows.ingestion import deliver
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines

    spec = pipelines.named(names.pipeline(name, pipelines.names()))
    deliver.check(spec, files)
    platform = open_platform()
    planned = deliver.plan(platform, spec, files)
    with delivery.progress(planned, terminal=sys.stdout.isatty(), out=typer.echo) as told:
        done = deliver.send(platform, spec, planned, told)
    waiting = sum(file.state != "ingested" for file in planned)
    scheduled = deliver.next_ingestion(spec, platform.clock())
    for line in (*delivery.lines(done), *delivery.following(name, waiting, scheduled)):
        typer.echo(line)


@group.command("run")
def run_pipeline(
    name: PipelineName,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show each stage until the gate has decided. Ctrl-C leaves the run going."),
    ] = False,
) -> None:
    """Start a pipeline in Airflow: ingest, materialize, train, validate.

    Without new rows, --follow runs the later stages all the same; a job with the same data, parameters and code is not
    trained twice. Exit code 1: a stage failed. A refused candidate is no failure.

    Example:

        rempart pipeline run hotel_bookings --follow
    """
    from rempart.airflow_api import AirflowApi
    from rempart.cli import run_follow, run_view
    from rempart.cli.views import names
    from rempart.settings import config, pipelines

    pipelines.named(names.pipeline(name, pipelines.names()))
    api = AirflowApi(config.environment_connections("airflow_api"))
    run = run_follow.start(api, name)
    page = f"{api.url}/dags/ingest_{name}/runs/{run}"
    if not follow:
        typer.echo(f"started ingest_{name}: {page}")
        typer.echo("New rows start features, training and gate by their assets.")
        typer.echo(f"The result, when they are done: rempart pipeline show {name}")
        return
    terminal = sys.stdout.isatty() and run_view.draws()
    try:
        with run_view.renderer(terminal=terminal, out=typer.echo) as shown:
            _, results = run_follow.follow(api, name, run, shown.show)
    except KeyboardInterrupt:
        typer.echo(f"The run goes on in Airflow: {page}\nIts result, when it is done: rempart pipeline show {name}")
        raise typer.Exit(130) from None
    for line in run_follow.conclusion(name, results):
        typer.echo(line)
