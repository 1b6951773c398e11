"""`rempart`: the command line. It works with Airflow down."""

from __future__ import annotations

import sys

import typer

from rempart.cli import (
    stack,
    upgrade,
    continuity,
    restore,
    audit,
    erase,
)
from rempart.cli.groups import (
    config,
    classification,
    policy,
    ledger,
    keys,
    doctor,
    quarantine,
    run,
    new,
    points,
    bundle,
    drill,
    pitr,
    watch,
    users,
)
from rempart.cli.root import app
from rempart.errors import RempartError


GROUPS = (
    config,
    classification,
    policy,
    ledger,
    keys,
    doctor,
    quarantine,
    run,
    new,
    points,
    bundle,
    drill,
    pitr,
    watch,
    users,
)
"""In the order of --help. A group has the name of its file."""

for module in GROUPS:
    app.add_typer(module.group, name=module.__name__.rpartition(".")[2])


def main() -> None:
    """Run the command line. An error of ours is printed in two lines, without a traceback."""
    from rempart.deployment.embedded import lifecycle

    lifecycle.adopt_environment()
    try:
        app()
    except RempartError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
