"""Draft new parts of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Draft new parts of the project.")


@group.command("pipeline")
def new_pipeline(
    csv: Annotated[Path, typer.Argument(help="A delivery, as .csv or .csv.gz file.")],
    name: Annotated[str | None, typer.Option(help="Name of the pipeline; default: name of the file.")] = None,
) -> None:
    """Draft a pipeline file from one delivery (types, key, time, target, ranges) for you to correct."""
    from rempart.ingestion.draft import save_draft

    file = save_draft(csv, name)
    typer.echo(f"wrote the draft {file}. Check every line marked CHECK, then run `rempart config check {file.stem}`.")
