"""Give LightGBM the library of OpenMP on a machine without one: scikit-learn's wheel has a copy by another name."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

LIBRARY = "libgomp.so.1"
"""The library that LightGBM's wheel shares with the system, and does not bring."""
_PATH = "LD_LIBRARY_PATH"


def variables(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables with which a process finds the library: none if the system has it, or nobody a copy.

    `folder`: gets a link to the copy under the library's name. The linker reads the variable when a process starts.
    """
    if on_system() or (copy := copied()) is None:
        return {}
    link = folder / LIBRARY
    folder.mkdir(parents=True, exist_ok=True)
    if not link.exists() or link.resolve() != copy:
        made = folder / f"{LIBRARY}.{os.getpid()}"
        with suppress(FileNotFoundError):
            made.unlink()
        made.symlink_to(copy)
        made.replace(link)
    others = environment.get(_PATH)
    return {_PATH: f"{folder}{os.pathsep}{others}" if others else str(folder)}


@cache
def on_system() -> bool:
    """Return whether the system has the library."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def copied() -> Path | None:
    """Return scikit-learn's copy, or None where its wheel brings none."""
    found = importlib.util.find_spec("sklearn")
    places = (found.submodule_search_locations or ()) if found is not None else ()
    copies = [copy for place in places for copy in Path(place).parent.glob("scikit_learn.libs/libgomp*.so*")]
    return min(copies).resolve() if copies else None
