"""Watch how much DuckDB writes to disk because its memory does not suffice, and say so where it is much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rempart.repeating import repeating

MUCH = 4
"""Work that spills more than this many times its memory is told: a larger memory, or Spark, may be faster."""
_PAUSE = 0.5
_MORE = "docs/how-to/outgrow-the-machine.md"


@dataclass
class Spill:
    """The most bytes that stood in a folder for spilled rows, seen twice a second."""

    bytes: int = 0


@contextmanager
def watched(folder: Path) -> Iterator[Spill]:
    """Watch a folder while work is done that may spill to it. The folder may come later, and go."""
    seen = Spill()

    def watch() -> None:
        seen.bytes = max(seen.bytes, size(folder))

    with repeating(watch, _PAUSE, "spill"):
        yield seen


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 if there is none."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # it may be gone by now
                total += entry.stat(follow_symlinks=False).st_size
    return total


def hint(spilled: int, memory: int, setting: str) -> str:
    """Return what to do about spilled bytes, of work with so many bytes of memory; empty if they are few. Pure.

    `setting`: what raises the memory.
    """
    if memory <= 0 or spilled <= MUCH * memory:
        return ""
    return (
        f"DuckDB wrote {spilled / 1e9:,.1f} GB to disk, {spilled / memory:.0f} times its memory: raise `{setting}` in "
        f"rempart.yaml, or set `engine: spark` ({_MORE})."
    )
