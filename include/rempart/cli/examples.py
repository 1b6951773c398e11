"""Examples of commands: the block `Example:` at the end of a docstring, one command line a line. Help shows it last."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer

_BLOCK = re.compile(r"\n\s*Examples?:\s*\n(?P<lines>(?:[ \t]+\S[^\n]*\n?|[ \t]*\n)+)")


def split(doc: str) -> tuple[str, tuple[str, ...]]:
    """Split a docstring into its text and its examples."""
    plain = inspect.cleandoc(doc) + "\n"
    block = _BLOCK.search(plain)
    if block is None:
        return plain.strip(), ()
    lines = tuple(line.strip() for line in block["lines"].splitlines() if line.strip())
    return (plain[: block.start()] + plain[block.end() :]).strip(), lines


def of(command: Callable[..., Any]) -> tuple[str, ...]:
    """Return the examples of a command's function."""
    return split(command.__doc__ or "")[1]


def epilog(examples: tuple[str, ...]) -> str | None:
    """Return examples as the last lines of a help text, one a line."""
    if not examples:
        return None
    head = "Example" if len(examples) == 1 else "Examples"
    return "\n".join([f"{head}:", *(f"  $ {line}" for line in examples)])


def show(app: typer.Typer) -> None:
    """Make the help of each command of an app or a group show its examples."""
    for info in (*app.registered_commands, app.registered_callback):
        if info and info.callback and info.callback.__doc__:
            text, lines = split(info.callback.__doc__)
            if lines:
                info.help, info.epilog = text, epilog(lines)
