"""Answers to a wrong command: the names that it may mean, with their full path."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

MEANT = {
    "points": "backup list",
    "drills": "backup drill",
    "classification": "policy lower-classification",
    "start": "up",
    "stop": "down",
    "ps": "status",
    "evidence": "ledger show",
    "help": "--help",
}
"""Words that people try, and what they look for."""
IN_GROUPS = {"pipeline": {"draft": "new"}}
"""Words that people try in a group, and the command of that group that they look for."""


class Group(TyperGroup):
    """A group that names the commands which an unknown word may mean, in any group."""

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]  # typer's click
        """Return the command that the first word names. A wrong word is refused with what it may mean."""
        if args and args[0] not in self.commands:
            ctx.fail(self._answer(ctx, args))
        return super().resolve_command(ctx, args)

    def _answer(self, ctx: typer.Context, args: list[str]) -> str:
        root = ctx.find_root()
        found = list(dict.fromkeys(_meant(root.command, self, ctx.command_path, args)))
        head = f"No such command '{args[0]}'."
        if found:
            return f"{head} Did you mean {' or '.join(f'`{path}`' for path in found[:3])}?"
        return f"{head} `{ctx.command_path} --help` lists the commands: {', '.join(self.commands)}."


def _meant(root: Any, group: TyperGroup, path: str, args: list[str]) -> Iterator[str]:
    """Yield the full commands that a word may mean, the likeliest first."""
    word, top = args[0], path.split()[0]
    if group is root and word in MEANT:
        yield f"{top} {MEANT[word]}"
    if meant := IN_GROUPS.get(path.split()[-1], {}).get(word):
        yield f"{path} {meant}"
    inner = {name: vars(command).get("commands", {}) for name, command in root.commands.items()}
    if group is root and len(args) > 1 and word in inner.get(args[1], {}):  # verb before noun
        yield f"{top} {args[1]} {word}"
    if group is root:
        yield from (f"{top} {name} {word}" for name, commands in inner.items() if word in commands)
    yield from (f"{path} {name}" for name in get_close_matches(word, group.commands))
    if group is not root:
        yield from (f"{top} {name} {word}" for name, commands in inner.items() if word in commands)
    else:
        for name, commands in inner.items():
            yield from (f"{top} {name} {close}" for close in get_close_matches(word, commands, cutoff=0.8))
