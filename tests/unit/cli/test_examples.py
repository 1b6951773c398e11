"""Every command has an example, its help shows it, and the page of commands has it; each example is a valid command."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rempart.cli import app, examples
from rempart.docsgen.commands import commands, commands_page

COMMAND = get_command(app)
COMMANDS = dict(commands(command=COMMAND))
EXAMPLES = [line for command in COMMANDS.values() for line in examples.of(command.callback)]


def parse(line: str) -> str:
    """Parse a command line without running it. Return the full name of the command. Raises typer's UsageError."""
    words = shlex.split(line)
    command, name, context = COMMAND, words.pop(0), None
    path = [name]
    while True:
        context = command.make_context(name, words, parent=context)
        inner = vars(command).get("commands")
        words = [*context._protected_args, *context.args] if inner else []
        if not words:
            return " ".join(path)
        name, words = words[0], words[1:]
        path.append(name)
        command = inner[name]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 55 and {"rempart up", "rempart watch", "rempart backup drill-report"} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_an_example_of_itself_and_its_help_shows_it(path: str) -> None:
    lines = examples.of(COMMANDS[path].callback)
    assert lines, f"write a block `Example:` into the docstring of {path}"
    shown = CliRunner().invoke(app, [*path.split()[1:], "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    for line in lines:
        assert f"$ {line}" in shown.output
    assert "Example:" not in shown.output or len(lines) == 1


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_valid_command_line(line: str) -> None:
    path = parse(line)
    shortcut = {path.replace("rempart ", "rempart stack "), path.replace("rempart ", "rempart backup ")}
    homes = [name for name, command in COMMANDS.items() if line in examples.of(command.callback)]
    assert path in homes or shortcut & set(homes)


@pytest.mark.parametrize("line", ["rempart up --fast", "rempart pipeline erase --file", "rempart backup hold ID"])
def test_an_example_that_is_not_valid_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such option|requires an argument|[Mm]issing"):
        parse(line)


def test_the_page_has_every_command_every_option_and_every_example() -> None:
    page = commands_page()
    headings = set(re.findall(r"^#{2,3} (rempart .+)$", page, re.MULTILINE))
    assert set(COMMANDS) <= headings
    assert [line for line in EXAMPLES if f"\n{line}\n" not in page] == []
    shown = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    options = {param.opts[0] for command in COMMANDS.values() for param in command.params if param.opts[0][:2] == "--"}
    assert len(options) > 40
    assert {option for option in options if not any(option in name.split(", ") for name in shown)} == set()


def test_a_block_of_examples_is_cut_off_a_docstring() -> None:
    doc: Any = "Do it.\n\n    More.\n\n    Example:\n        rempart a\n\n        rempart b --c\n    "
    assert examples.split(doc) == ("Do it.\n\nMore.", ("rempart a", "rempart b --c"))
    assert examples.split("Do it.") == ("Do it.", ())
