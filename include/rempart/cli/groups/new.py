"""Draft new parts of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, help="Draft new parts of the project.")


@group.command("pipeline")
def new_pipeline(
    csv: Annotated[Path, typer.Argument(help="A delivery, as .csv or .csv.gz.")],
    name: Annotated[str | None, typer.Option(help="The pipeline's name; by default the file's.")] = None,
) -> None:
    """Draft a pipeline file from one delivery (types, key, time, target, ranges) for you to correct."""
    from rempart.ingestion.draft import save_draft

    file = save_draft(csv, name)
    typer.echo(f"{file}: drafted. Decide every line marked CHECK, then run `rempart config check {file.stem}`.")
