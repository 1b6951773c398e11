"""Check the databases that backups read."""

from __future__ import annotations

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.OPERATE, help="The databases: check that backups can read them."
)


@group.command("doctor")
def database_doctor(as_json: AsJson = False) -> None:
    """Check with PostgreSQL's own programs that backups can read each database.

    Exit code 1: a database cannot be read.

    Example:
        rempart database doctor
    """
    from rempart.flows.doctor import doctor_database as flow
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    found = list(flow.look(open_platform().connections("pg_backup")))
    if as_json:
        json_documents.show({"databases": found})
    for check in () if as_json else found:
        rendering.tell(check.line())
    raise typer.Exit(0 if all(check.ok for check in found) else 1)
