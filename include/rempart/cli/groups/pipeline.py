"""Draft and check pipelines, and erase rows of their data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import panels
from rempart.errors import BackupError

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.DATA, help="Pipelines: draft a file, check it, erase rows of its data."
)


@group.command("new")
def pipeline_new(
    csv: Annotated[Path, typer.Argument(help="A delivery, as .csv or .csv.gz file.")],
    name: Annotated[str | None, typer.Option(help="Name of the pipeline; default: name of the file.")] = None,
) -> None:
    """Draft a pipeline file from one delivery (types, key, time, target, ranges) for you to correct.

    Example:
        rempart pipeline new sales.csv
        rempart pipeline new sales.csv.gz --name sales
    """
    from rempart.ingestion.draft import save_draft

    file = save_draft(csv, name)
    typer.echo(f"wrote the draft {file}. Check every line marked CHECK, then run `rempart pipeline check {file.stem}`.")


@group.command("check")
def pipeline_check(name: Annotated[str, typer.Argument(help="Name of the pipeline.")]) -> None:
    """Validate rempart.yaml and one pipeline file, and ask the policy about each place in it.

    Every fault names file, path and remedy.

    Example:
        rempart pipeline check hotel_bookings
    """
    from rempart.cli import configuration
    from rempart.flows.training import check_pipeline
    from rempart.settings import pipelines

    configuration.check()
    check_pipeline.check(pipelines.named(name))
    typer.echo(f"pipeline {name}: valid")


def _lines(file: Path) -> list[str]:
    if str(file) == "-":
        return sys.stdin.read().splitlines()
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise BackupError(f"read {file}: {type(cause).__name__}", "Pass a file of UTF-8 text.") from cause


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
        wanted = flow.read_keys(found, [*(keys or ()), *(_lines(file) if file else ())])
        done = [flow.erase(open_platform(), found, wanted, by=role, reason=reason, dry_run=not yes)]
    for erasure in done:
        for line in erase_report.lines(erasure):
            typer.echo(line)
    if any(erasure.pending and not erasure.dry_run for erasure in done):
        raise typer.Exit(1)
