"""Command groups: the file NAME.py holds the commands of `rempart NAME`, and its `group`. Nothing else lists them.

The file lies in the room of the panel in which `rempart --help` shows the group.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer


def collect() -> dict[str, typer.Typer]:
    """Return the `group` of each module of these rooms by its name, in alphabetical order."""
    found = {}
    for room in pkgutil.iter_modules(__path__, f"{__name__}."):
        for module in pkgutil.iter_modules(importlib.import_module(room.name).__path__, f"{room.name}."):
            found[module.name.rpartition(".")[2]] = importlib.import_module(module.name).group
    return dict(sorted(found.items()))
