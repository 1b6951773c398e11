"""Root of the command line; `rempart.cli` adds the groups and the shortcuts."""

from __future__ import annotations

import sys

import typer

from rempart.cli import panels, progress, rendering
from rempart.cli.suggestions import Group


class _Root(Group):
    """Lists its commands in the order of the panels."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer has a click of its own
        """Return the names of the commands, panel by panel."""
        return sorted(self.commands, key=self._place)

    def _place(self, name: str) -> int:
        panel = getattr(self.commands[name], "rich_help_panel", None)
        return panels.ORDER.index(panel) if panel in panels.ORDER else len(panels.ORDER)


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rempart: a sovereign MLOps distribution on Apache Airflow.",
)


@app.callback()
def log_to_terminal(context: typer.Context) -> None:
    context.with_resource(rendering.on_terminal())
    context.with_resource(progress.waiting(sys.argv[1:]))
