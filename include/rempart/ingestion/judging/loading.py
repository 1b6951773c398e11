"""Load Great Expectations without the libraries that it only draws and tests distributions with.

Its import takes 2.5 s of processor time and judges no row. Nearly half of that is scipy.stats, altair, and the garbage
collector, which looks through each of some 500,000 new objects again and again and finds nothing to free.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from threading import RLock
from types import ModuleType
from typing import Any

LATER = frozenset({"altair", "scipy.stats"})
"""Modules whose code runs when somebody first uses them, not when Great Expectations imports them."""
_NAME = "great_expectations"
_one_at_a_time = RLock()


class _Later(MetaPathFinder):
    """Finds the modules of `LATER`, and defers their code to the first use of an attribute."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in LATER else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def great_expectations() -> Any:
    """Return the package `great_expectations`, loaded with all its expectations."""
    with _one_at_a_time:
        if _NAME not in sys.modules:
            import pandas  # noqa: F401 - needed anyhow, and loaded as usual

            with _deferred():
                importlib.import_module(_NAME)
        return importlib.import_module(_NAME)


@contextmanager
def _deferred() -> Iterator[None]:
    finder, collects = _Later(), gc.isenabled()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        sys.meta_path.remove(finder)
