"""The page of all commands: each with its help, arguments, options, exit codes and examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from rempart.cli import app, examples, panels

_INTRODUCTION = """# Commands

<!-- other blocks: not run: tests/unit/cli/test_examples.py only parses them -->

**For** people who type commands. **Answers** which commands and options there are, what they do, and how they end.

`rempart --help`, `rempart GROUP --help` and
`rempart GROUP COMMAND --help` show the same texts. Without an activated environment, write `.venv/bin/rempart`; in
containers `docker compose run --rm cli rempart`.

## What do all commands have in common?

| flag | meaning |
|---|---|
| `--yes` | execute the plan; without it the plan is shown and nothing is changed |
| `--dry-run` | show what would be done, and change nothing: for commands that execute by default |
| `--json` | print one JSON document to standard output, and nothing else |
| `--help` | show the help and its examples |

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the operation failed, or a check is red; the message names the cause and the command that mends it |
| 2 | wrong usage: unknown command or option, missing or invalid argument; nothing was started |

A command with other exit codes names them. Messages of progress and results go to standard output, warnings and errors
to standard error. `NO_COLOR=1` turns colours off.

## How do I complete commands with the Tab key?

Run `rempart --install-completion` once, with the environment activated, and open a new terminal. It writes a file for
your shell (bash, zsh, fish or PowerShell) and a line into its start-up file. `rempart --show-completion` prints the
script instead. Completion reads only the command line's own code: it needs no running platform.
"""


def _text(text: str | None) -> str:
    """Return a help text in paragraphs of one line each."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _default(param: Any) -> str:
    """Return what a parameter is without a value, if that says something."""
    if param.required:
        return "required"
    if param.default in (None, False, "", (), []):
        return ""
    return f"`{getattr(param.default, 'value', param.default)}`"


def _parameters(command: Any) -> Iterator[str]:
    shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    shown = [param for param in shown if param.name not in ("install_completion", "show_completion")]
    if shown:
        yield "| argument or option | default | meaning |\n|---|---|---|"
    for param in shown:
        option = param.param_type_name == "option"
        name = ", ".join([*param.opts, *param.secondary_opts]) if option else str(param.name).upper()
        several = "..." if param.nargs == -1 else ""
        yield f"| `{name.removesuffix('...')}{several}` | {_default(param)} | {_cell(getattr(param, 'help', ''))} |"


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"\n### {path}\n\n{_text(examples.split(command.help or '')[0])}\n"
    if table := list(_parameters(command)):
        yield "\n".join(table) + "\n"
    lines = examples.of(command.callback)
    yield "```sh\n" + "\n".join(lines) + "\n```\n"


def commands(path: str = "rempart", command: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield each command with its full name, in the order of the help; first a group itself if it does something."""
    command = command or get_command(app)
    inner = vars(command).get("commands")
    if inner is None or command.invoke_without_command:
        yield path, command
    for name in command.list_commands(None) if inner else ():
        yield from commands(f"{path} {name}", inner[name])


def groups() -> Iterator[tuple[str, str, Any]]:
    """Yield panel, name and command of each entry of `rempart --help`."""
    root = get_command(app)
    for name in root.list_commands(None):  # type: ignore[attr-defined]  # a group, which needs no context
        command = vars(root)["commands"][name]
        yield command.rich_help_panel, name, command


def commands_page() -> str:
    """Return the page, in the order of the panels of `rempart --help`."""
    parts = [_INTRODUCTION, "\n## Which commands are there?\n"]
    for panel in panels.ORDER:
        entries = [(name, command) for of, name, command in groups() if of == panel]
        parts.append(f"\n**{panel}**\n\n| command | what it does |\n|---|---|")
        for name, command in entries:
            first = _text(examples.split(command.help or "")[0]).split("\n\n")[0]
            parts.append(f"| [`rempart {name}`](#rempart-{name}) | {_cell(first)} |")
        parts.append("")
    for _, name, command in groups():
        if "commands" in vars(command):
            parts.append(f"\n## rempart {name}\n\n{_text(examples.split(command.help or '')[0])}\n")
            for path, inner in commands(f"rempart {name}", command):
                if path == f"rempart {name}":
                    parts.append("".join(list(_command(path, inner))[1:]))
                else:
                    parts.extend(_command(path, inner))
        else:
            parts.extend(part.replace("\n###", "\n##", 1) for part in _command(f"rempart {name}", command))
    return "\n".join(parts).replace("\n\n\n", "\n\n")
