"""Root of the command line; the sibling modules add commands, and `rempart.cli` adds the groups."""

from __future__ import annotations

import sys

import typer

from rempart.cli import progress, rendering

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rempart: a sovereign MLOps distribution on Apache Airflow.",
)


@app.callback()
def log_to_terminal(context: typer.Context) -> None:
    context.with_resource(rendering.on_terminal())
    context.with_resource(progress.waiting(sys.argv[1:]))
