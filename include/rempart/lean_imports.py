"""Import large packages in less processor time, without the parts that this project does not use.

Every job, task and command pays for these imports, so they run without the garbage collector: it would look through
new objects again and again, and find nothing to free. This alone is a quarter of the time.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock, get_ident
from types import ModuleType
from typing import Any

LATER = frozenset({"altair", "mlflow.gateway", "mlflow.genai", "scipy.stats"})
"""Modules whose code runs when somebody first uses them, not when Great Expectations or MLflow imports them."""
LEFT_OUT = frozenset({"mlflow.data.polars_dataset", "mlflow.genai.datasets"})
"""Optional modules, without which MLflow's import goes on: Polars, and sources that it cannot import at that moment
anyway. An import of one later works, and so does `mlflow.data.from_polars`."""
_LOADER = "_rempart_loader"
_loading = RLock()


def load(name: str) -> ModuleType:
    """Return a package, which is imported without the parts above unless it is there. Raises ImportError."""
    if name not in sys.modules:
        with _loading:
            if name not in sys.modules:
                with _lean():
                    package = importlib.import_module(name)
                _offer_polars()
                return package
    return importlib.import_module(name)  # waits until another thread has imported it, which may need our lock


def _offer_polars() -> None:
    """Let `mlflow.data` have `from_polars`, which registers itself when somebody first asks for it."""
    data = sys.modules.get("mlflow.data")
    if data is None or "from_polars" in vars(data):
        return

    def registered(name: str) -> Any:
        if name == "from_polars":
            try:
                made = importlib.import_module("mlflow.data.polars_dataset").from_polars
            except ImportError as cause:
                raise AttributeError("mlflow.data.from_polars needs the package polars: install it") from cause
            importlib.import_module("mlflow.data.dataset_registry").register_constructor(made)
            return made
        raise AttributeError(f"module 'mlflow.data' has no attribute {name!r}")

    vars(data)["__getattr__"] = registered


class _Unread(ModuleType):
    """A module whose code runs when an attribute is first asked for that it does not have yet.

    That of the standard library (LazyLoader) runs for `__path__`, too, which an import of each submodule asks for.
    While its package is loaded such an import is passed over; afterwards the module has no `__path__`, so that its own
    code runs before that of any submodule.
    """

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if loader := self.__dict__.pop(_LOADER, None):
                places = self.__spec__.submodule_search_locations if self.__spec__ else None
                if places is not None:
                    self.__path__ = places
                try:
                    loader.exec_module(self)
                except BaseException:
                    self.__dict__[_LOADER] = loader
                    raise
                object.__setattr__(self, "__class__", ModuleType)
        if type(self) is ModuleType:  # its code has run, and may tell attributes by a `__getattr__` of its own
            return getattr(self, name)
        return object.__getattribute__(self, name)


class _Later(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unread(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[_LOADER] = module.__loader__ = self._loader
        if module.__spec__:
            module.__spec__.loader = self._loader


class _Finder(MetaPathFinder):
    """Finds modules for the thread that made it. Another one has every part, and never waits for a module's code."""

    def __init__(self) -> None:
        self._thread = get_ident()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if get_ident() != self._thread:
            return None
        if name in LEFT_OUT:
            raise ModuleNotFoundError(f"{name} is left out", name=name)
        spec = PathFinder.find_spec(name, path) if name in LATER else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


@contextmanager
def _lean() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        with uncollected():
            yield
    finally:
        sys.meta_path.remove(finder)
        for module in [sys.modules[name] for name in LATER & sys.modules.keys()]:
            if _LOADER in vars(module):
                vars(module).pop("__path__", None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from running meanwhile."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
