"""A command group of `rempart` is one file with its name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.main import get_command

from rempart.cli import app, groups, panels
from rempart.cli.groups import govern

FILES = {file.stem: file for file in Path(groups.__file__).parent.glob("*/*.py") if file.stem != "__init__"}


def test_the_commands_of_a_group_are_in_the_file_with_its_name() -> None:
    commands = vars(get_command(app))["commands"]
    found = {name: command.commands for name, command in commands.items() if hasattr(command, "commands")}
    assert set(found) == set(FILES)
    place = {name: f"{groups.__name__}.{file.parent.name}.{name}" for name, file in FILES.items()}
    modules = {name: {command.callback.__module__ for command in inner.values()} for name, inner in found.items()}
    elsewhere = {name: of - {place[name]} for name, of in modules.items()}
    assert not [of for of in elsewhere.values() if any(module.startswith(groups.__name__) for module in of)]
    assert all(len(modules[name]) > len(of) for name, of in elsewhere.items())


def test_a_shortcut_is_the_command_of_its_group() -> None:
    commands = vars(get_command(app))["commands"]
    short = {name: command.callback for name, command in commands.items() if not hasattr(command, "commands")}
    assert set(short) == {"up", "down", "status", "demo", "restore"}
    for name, called in short.items():
        group = commands["backup" if name == "restore" else "stack"]
        assert group.commands[name].callback.__wrapped__ is called.__wrapped__


def test_every_group_is_in_a_panel_of_the_help() -> None:
    listed = get_command(app).list_commands(None)  # type: ignore[attr-defined]
    seen = [vars(get_command(app))["commands"][name].rich_help_panel for name in listed]
    assert list(dict.fromkeys(seen)) == list(panels.ORDER)
    shown = dict(zip(listed, seen, strict=True))
    assert all(shown[name].split()[0].lower() == file.parent.name for name, file in FILES.items())


def test_a_new_file_is_a_new_group_and_nothing_else_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "costs.py").write_text("import typer\n\ngroup = typer.Typer()\n", encoding="utf-8")
    monkeypatch.setattr(govern, "__path__", [*govern.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{govern.__name__}.costs", raising=False)
    found = groups.collect()
    assert "costs" in found and list(found) == sorted(found)
