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
    groups,
)
from rempart.cli import rendering
from rempart.cli.root import app
from rempart.errors import RempartError

for name, group in groups.collect().items():
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line. An error of ours is printed in two lines, without a traceback."""
    from rempart.deployment.embedded import lifecycle

    lifecycle.adopt_environment()
    try:
        app()
    except RempartError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as fault:
        if not (told := rendering.of_the_machine(fault)):
            raise
        typer.echo(told, err=True)
        sys.exit(1)
