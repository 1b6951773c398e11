"""A site in the memory of one process that other processes reach: executors are processes of their own."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from multiprocessing.managers import BaseManager
from typing import Any, BinaryIO

from tests.memory_site import MemorySite

_NOW = datetime(2026, 3, 1, 11, tzinfo=UTC)


class _Served:
    """Calls one of some sites; iterators become lists."""

    def __init__(self) -> None:
        self._sites: dict[str, MemorySite] = {}

    def call(self, site: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        made = self._sites.setdefault(site, MemorySite("primary"))
        made.clock = lambda: _NOW
        found = getattr(made, name)(*args, **kwargs)
        return list(found) if hasattr(found, "__next__") else found


_served = _Served()


class Manager(BaseManager):
    """Serves the sites in a process of its own."""


Manager.register("served", callable=lambda: _served)


@cache
def _reached(address: Any, key: bytes, process: int) -> Any:
    """Return the manager's sites as this process reaches them.

    One for all calls: a proxy that is collected while a thread sends closes the connection of that thread.
    """
    manager = Manager(address, key)
    manager.connect()
    return manager.served()  # type: ignore[attr-defined]


class SharedSite:
    """A site of a manager, as any process reaches it. Called, it returns itself: so it also opens itself."""

    name, endpoint = "primary", "memory:primary"

    def __init__(self, address: Any, key: bytes) -> None:
        self._address, self._key, self._site = address, key, secrets.token_hex(8)

    def __call__(self) -> SharedSite:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found = _reached(self._address, self._key, os.getpid()).call(self._site, name, args, kwargs)
            return iter(found) if name in ("list", "versions") else found

        return call

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.read(bucket, key, version_id=version_id))
