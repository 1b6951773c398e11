"""Set variables of this process for a while, and choose those that a process of ours inherits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of this process during the block (None: unset), and put all of them back at its end."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def inherited(names: Collection[str], beginnings: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the variables of this process with one of these names, or whose name begins so."""
    return {name: value for name, value in os.environ.items() if name in names or name.startswith(beginnings)}


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
