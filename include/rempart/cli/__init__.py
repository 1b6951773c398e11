"""`rempart`: the command line. It works with Airflow down."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from rempart.cli import examples, groups, panels, rendering, restore, suggestions
from rempart.cli.groups.operate import stack
from rempart.cli.root import app
from rempart.deployment.setup.terminal import printable
from rempart.errors import RempartError
from rempart.settings import telemetry

__all__ = ["app", "main"]

for shortcut in (stack.up, stack.status, stack.demo, stack.down):
    app.command(rich_help_panel=panels.START)(shortcut)
app.command(rich_help_panel=panels.PROTECT)(restore.restore)
for name, group in groups.collect().items():
    examples.show(group)
    app.add_typer(group, cls=suggestions.Group, name=name, rich_help_panel=group.rich_help_panel)


examples.show(app)


def main() -> None:
    """Run the command line. An error of ours is printed in two lines, without a traceback."""
    telemetry.adopt_environment()
    try:
        _run()
    except SystemExit as ended:
        _end(ended.code)
    except BaseException:
        if not _has_open_question():
            raise
        sys.excepthook(*sys.exc_info())
        _end(1)


def _run() -> None:
    try:
        app()
    except RempartError as error:
        rendering.show(f"error: {error}".split("\n"), err=True)
        sys.exit(1)
    except OSError as fault:
        if not (told := rendering.of_the_machine(fault)):
            raise
        rendering.show(told.split("\n"), err=True)
        sys.exit(1)


def _has_open_question() -> bool:
    """Return whether a server has not answered a question that was given up: Python would wait for its threads."""
    from rempart.flows.shared import time_limit

    return time_limit.goes_on()


def _end(code: int | str | None) -> NoReturn:
    """End the process, also while a server has not answered a question that was given up."""
    if _has_open_question() and not isinstance(code, str):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:  # closed by the caller
                    stream.flush()
        os._exit(code or 0)
    sys.exit(code)
