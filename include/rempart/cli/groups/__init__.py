"""Command groups: the file NAME.py holds the commands of `rempart NAME`, and its `group`. Nothing else lists them."""

from __future__ import annotations

import importlib
import pkgutil

import typer


def collect() -> dict[str, typer.Typer]:
    """Return the `group` of each module of this package by its name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").group for name in names}
