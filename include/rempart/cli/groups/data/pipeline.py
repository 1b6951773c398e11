"""Draft, check, deliver to, run and look at pipelines, and erase rows of their data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle import backfill, rejudge, remove, show
from rempart.errors import BackupError

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.DATA,
    help="Pipelines: draft, check, try, deliver, run, look at their state, erase rows, reset, remove.",
)

PipelineName = Annotated[str, typer.Argument(help="Name of the pipeline, as in include/pipelines/NAME.yaml.")]


@group.command("list")
def list_pipelines(as_json: AsJson = False) -> None:
    """Show every pipeline: source, newest delivery, snapshot, champion, quarantine, schedule. Airflow may be down.

    Exit code 1: a source of these facts did not answer.

    Example:

        rempart pipeline list
        rempart pipeline list --json
    """
    from rempart.cli.views import facts, pipelines
    from rempart.settings import config
    from rempart.web.facts import Unknown
    from rempart.web.read_models.messages import moment
    from rempart.web.read_models.pipeline_states import pipeline_states

    json_documents.begin(as_json)
    found = facts.gather()
    states, landing = pipeline_states(found, found.at), config.load().buckets.landing
    if as_json:
        document = {
            "at": found.at,
            "unknown": found.unknown(),
            "pipelines": [pipelines.as_json(state, landing) for state in states],
        }
        json_documents.show(document)
    else:
        listed = () if isinstance(found.pipelines, Unknown) else pipelines.listing(states, landing)
        rendering.show((*listed, *pipelines.unknown(moment(found, found.at))))
    raise typer.Exit(0 if facts.complete(found) else 1)


group.command("show")(show.show)


@group.command("deliver")
def deliver_files(
    name: PipelineName,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Deliveries: files with the ending of the pipeline's format, such as .csv, .tsv or .csv.gz."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files and show what would be uploaded. Nothing is changed.")
    ] = False,
) -> None:
    """Check the header of files, upload them to the landing bucket, read them back, and show what happens next.

    Nothing is uploaded if the header of a file is wrong. The first 1,000 rows are checked by their types: rows that
    would go to quarantine are shown as a warning, and the upload goes on. A file never replaces another delivery that
    waits under its name.

    Example:

        rempart pipeline deliver energy_use energy_use.csv
        rempart pipeline deliver energy_use energy_use.csv --dry-run
        rempart pipeline deliver energy_use 2026-01.csv.gz 2026-02.csv.gz
    """
    from rempart.cli.views import delivery, names
    from rempart.deployment.setup.terminal import is_live
    from rempart.flows.ingestion import deliver, first_rows, ingest_run
    from rempart.flows.shared.platform import open_platform
    from rempart.ingestion.draft import reminder
    from rempart.settings import config, pipelines

    spec = pipelines.named(names.pipeline(name, pipelines.names()))
    draft, limits = reminder(pipelines.text_of(name)), ingest_run.limits(config.load())
    deliver.check(spec, files, limits.bytes)
    rendering.show(delivery.warnings(first_rows.judge(spec, files, limits), spec))
    platform = open_platform()
    planned = deliver.plan(platform, spec, files)
    if dry_run:
        rendering.show((*delivery.plan_lines(planned), *([draft] if draft else [])))
        return
    with delivery.progress(planned, terminal=is_live(sys.stdout, os.environ), out=rendering.tell) as told:
        done = deliver.send(platform, spec, planned, told)
    scheduled = deliver.next_ingestion(spec, platform.clock())
    rendering.show(
        (*delivery.lines(done), *delivery.following(spec, done.waiting, scheduled), *([draft] if draft else []))
    )


@group.command("run")
def run_pipeline(
    name: PipelineName,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show each stage until the gate has decided. Ctrl-C leaves the run going."),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="Idempotency key: the same key names the same run, so a repeated command starts no other."),
    ] = None,
) -> None:
    """Start a pipeline in Airflow: ingest, materialize, train, validate.

    Without new rows, --follow runs the later stages all the same; a job with the same data, parameters and code is not
    trained twice. A refused candidate is no failure: the last lines name the reason, and the champion that stays. Exit
    code 1: a stage failed; 130: you left with Ctrl-C.

    Example:

        rempart pipeline run hotel_bookings --follow
        rempart pipeline run hotel_bookings --key nightly-2026-03-01
    """
    from rempart.airflow_api import AirflowApi
    from rempart.cli import progress, run_follow, run_view
    from rempart.cli.views import facts, names
    from rempart.ingestion.draft import reminder
    from rempart.settings import config, pipelines

    spec = pipelines.named(names.pipeline(name, pipelines.names()))
    stages = run_follow.stages_of(spec)
    api = AirflowApi(config.environment_connections("airflow_api"))
    page = ""
    try:
        with progress.repeated(rendering.tell) as plain:
            plain.tell(
                f"Starting ingest_{name} in Airflow. A new pipeline file is read first: up to half a minute.",
                lambda seconds: f"waits until Airflow has read the DAGs of {name}, {seconds:.0f} s so far",
            )
            sys.stdout.flush()
            run = run_follow.start(api, name, key, stages)
        page = f"{api.url}/dags/ingest_{name}/runs/{run}"
        if draft := reminder(pipelines.text_of(name)):  # now, not when the gate refused what took minutes
            rendering.tell(draft)
        if not follow:
            rendering.tell(f"started ingest_{name}: {page}")
            if len(stages) > 1:
                rendering.tell("New rows start features, training and gate by their assets.")
            rendering.tell(f"The result, when they are done: rempart pipeline show {name}")
            return
        with run_view.shown(stages, lambda told: rendering.show(told.split("\n"))) as show:
            _, results = run_follow.follow(api, name, run, show, stages=stages, by_hand=run_follow.by_hand(spec))
    except KeyboardInterrupt:
        rendering.tell(run_follow.left(name, page, api.url))
        raise typer.Exit(130) from None
    rendering.show(run_follow.conclusion(name, results, facts.waiting_rows(name)))


@group.command("new")
def pipeline_new(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="A delivery: .csv, .tsv, .txt, .jsonl or .ndjson (plain, .gz or .zst), or .parquet."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the pipeline; default: name of the file or table.")] = None,
    target: Annotated[str | None, typer.Option(help="Column that the model shall predict; default: a guess.")] = None,
    table: Annotated[str | None, typer.Option(help="Table of PostgreSQL instead of a file, as schema.name.")] = None,
    connection: Annotated[str | None, typer.Option(help="Airflow connection of the table's database.")] = None,
    sql: Annotated[
        str | None, typer.Option(help="SQL file of a derived pipeline, as include/sql/NAME.sql; with --input.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Pipeline whose rows the SQL file reads; may be repeated.")
    ] = None,
) -> None:
    """Draft a pipeline file from one delivery or one table (types, key, time, target, ranges) for you to correct.

    A large file is sampled, and the first line of the draft says so. Of a table, types and the key are those of the
    database's catalogue; a role that can only read is enough. A derived pipeline is drafted from a SQL file and one
    file for each of its inputs, named after it.

    Example:
        rempart pipeline new sales.csv
        rempart pipeline new sales.jsonl.gz --name sales
        rempart pipeline new visits.csv --target no_show
        rempart pipeline new --table sales.orders --connection shop
        rempart pipeline new --sql include/sql/wet_trips.sql --input trips --input weather trips.csv weather.csv
    """
    from rempart.ingestion.draft import save_draft
    from rempart.ingestion.sampling.tables import of_table
    from rempart.settings import config

    one_file = files is not None and len(files) == 1 and sql is None
    if [one_file, table is not None, sql is not None].count(True) != 1 or (sql is None) != (not inputs):
        raise typer.BadParameter(
            "pass either a FILE, or --table schema.name with --connection NAME, or --sql FILE with --input PIPELINE"
        )
    if (table is None) != (connection is None):
        raise typer.BadParameter("--table and --connection belong together")
    if sql is not None:
        from rempart.flows.training.draft_derived import save_derived_draft

        draft = save_derived_draft(sql, inputs or [], files or [], name, target=target)
    elif table is not None and connection is not None:
        draft = save_draft(of_table(table, connection, config.environment_connections(connection)), name, target=target)
    else:
        draft = save_draft((files or [])[0], name, target=target)
    rendering.tell(
        f"wrote the draft {draft}. Answer every comment marked CHECK, then run `rempart pipeline check {draft.stem}`."
    )


@group.command("check")
def pipeline_check(name: Annotated[str, typer.Argument(help="Name of the pipeline.")]) -> None:
    """Validate one pipeline file and rempart.yaml, and ask the policy about each place in it.

    Every fault names file, path and remedy.

    Example:
        rempart pipeline check hotel_bookings
    """
    from datetime import UTC, datetime

    from rempart.cli import configuration
    from rempart.cli.views import derivations
    from rempart.flows.training import check_pipeline
    from rempart.ingestion.draft import reminder
    from rempart.settings import config, pipelines

    pipeline = check_pipeline.load(name)
    check_pipeline.check(pipeline)
    check_pipeline.check_origin(config.load(), pipeline, on=datetime.now(UTC).date())
    check_pipeline.check_places(config.load(), pipeline, on=datetime.now(UTC).date())
    check_pipeline.check_approval(config.load(), pipeline)
    configuration.check()
    draft = reminder(pipelines.text_of(name))
    rendering.tell(f"pipeline {name}: valid" + (f", but {draft}" if draft else ""))
    if (trainer := check_pipeline.trainer_of(pipeline)) is not None:
        rendering.tell(f"trainer: {trainer}")
    for line in check_pipeline.warnings(pipeline):
        rendering.tell(f"warning: {line}", err=True)
    rendering.show([*derivations.all_lines(pipeline)])


@group.command("try")
def try_pipeline(
    name: PipelineName,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Deliveries; default: the project's own file of this name below data/. Labels of another pipeline "
            "are in a file of its name."
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Write a data profile of the accepted rows to this file (HTML).")
    ] = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Also train the model on these rows, and show its scores. No gate judges it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Judge rows of files, build their training set and score the baseline, in seconds. Nothing is stored.

    Needs no running stack and no Airflow. Large files are sampled. Of personal data, keys and texts are hidden, and
    refused rows are named by their line only. A derived pipeline is tried on files of its inputs, each named after its
    input. Exit code 1: the pipeline is wrong, or a file would not be accepted.

    Example:
        rempart pipeline try hotel_bookings
        rempart pipeline try energy_use energy_use.csv
        rempart pipeline try energy_use energy_use.csv --profile energy_use.html
        rempart pipeline try energy_use energy_use.csv --train
        rempart pipeline try energy_use 2026-01.csv.gz 2026-02.csv.gz --json
    """
    from datetime import UTC, datetime

    from rempart.cli import progress
    from rempart.cli.views import names, trying
    from rempart.flows.training import check_pipeline, try_derived
    from rempart.flows.training import try_pipeline as flow
    from rempart.ingestion.draft import reminder
    from rempart.settings import config, pipelines

    json_documents.begin(as_json)
    spec = check_pipeline.load(names.pipeline(name, pipelines.names()))
    check_pipeline.check_places(config.load(), spec, on=datetime.now(UTC).date())
    check_pipeline.check_approval(config.load(), spec)
    with try_derived.files_of(spec, files or ()) as chosen:
        if as_json:
            tried = flow.try_pipeline(spec, chosen, lambda _stage, _text: None, page=profile, train=train)
            json_documents.show(tried)
        else:
            steps = [progress.Step(stage) for stage in flow.stages(spec, train=train)]
            with progress.shown(f"try {name}", steps) as shown:
                tried = flow.try_pipeline(spec, chosen, shown.stage, page=profile, train=train)
            rendering.show(trying.lines(tried, spec, reminder(pipelines.text_of(name))))
    raise typer.Exit(0 if tried.good else 1)


@group.command("erase")
def pipeline_erase(
    pipeline: Annotated[str | None, typer.Argument(help="Pipeline of the rows.")] = None,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            help=(
                "Key of each row, with | between several columns. Other users of "
                "this machine can see it in the process list."
            )
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="File with one key on each line; - is the standard input.")] = None,
    role: Annotated[str, typer.Option(help="Role of the person who decided: data-protection-officer.")] = "",
    reason: Annotated[
        str,
        typer.Option(help="Reason: consent-withdrawn, legal-obligation, no-longer-needed, objection or unlawful."),
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Apply all recorded erasures again, such as after a lock has ended.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help=("Execute the erasure. Without it the places of the rows are shown and nothing is changed.")
        ),
    ] = False,
) -> None:
    """Erase rows for good: at every site, in every version, and in later restores.

    The same command completes an interrupted run. Exit code 1: something is pending.

    Example:
        rempart pipeline erase hotel_bookings B0001 --role data-protection-officer --reason consent-withdrawn
        rempart pipeline erase hotel_bookings --file keys.txt --role data-protection-officer --reason objection --yes
        rempart pipeline erase --again
    """
    from rempart.cli.views import text
    from rempart.flows.erasure import erase as flow
    from rempart.flows.erasure import erase_report
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.pipelines import named

    if again:
        if pipeline or keys or file:
            raise BackupError(
                "erase: --again applies all recorded erasures of every pipeline", "Pass neither a pipeline nor a key."
            )
        done = flow.again(open_platform())
    else:
        if pipeline is None:
            raise BackupError(
                "erase: no pipeline was given",
                "Run `rempart pipeline erase PIPELINE KEY`, or `rempart pipeline erase --again`.",
            )
        found = named(pipeline)
        wanted = flow.read_keys(found, [*(keys or ()), *(text.lines_of(file) if file else ())])
        done = [flow.erase(open_platform(), found, wanted, by=role, reason=reason, dry_run=not yes)]
    for erasure in done:
        rendering.show(erase_report.lines(erasure))
    if any(erasure.pending and not erasure.dry_run for erasure in done):
        raise typer.Exit(1)


group.command("rejudge")(rejudge.rejudge)
group.command("backfill")(backfill.backfill)
group.command("reset")(remove.reset)
group.command("rename")(remove.rename)
group.command("remove")(remove.remove)
