"""A command group of `rempart` is one file with its name."""

from __future__ import annotations

from pathlib import Path

from typer.main import get_command

from rempart.cli import app, groups

FOLDER = Path(groups.__file__).parent


def test_the_commands_of_a_group_are_in_the_file_with_its_name() -> None:
    commands = vars(get_command(app))["commands"]
    found = {name: command.commands for name, command in commands.items() if hasattr(command, "commands")}
    assert set(found) == {file.stem for file in FOLDER.glob("*.py")} - {"__init__"}
    modules = {name: {command.callback.__module__ for command in inner.values()} for name, inner in found.items()}
    assert modules == {name: {f"{groups.__name__}.{name}"} for name in found}
