"""Databases are restored in parallel; a person who stops the restore waits only for those that run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.flows.restore import restore_databases


def test_a_stopped_restore_begins_no_further_database(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, begun = threading.Event(), list[str]()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ending.set()
            super().shutdown(wait=wait)

    class Server:
        def in_place(self, dump: Any) -> list[Any]:
            return []

        def restore(self, repository: Any, dump: Any) -> list[Any]:
            begun.append(dump.name)
            if dump.name != "0":
                ending.wait()
            return []

    def stop(dump: Any, checks: list[Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restore_databases, "ThreadPoolExecutor", Pool)
    dumps: Any = [SimpleNamespace(name=str(number), bytes=1) for number in range(9)]
    server: Any = Server()
    with pytest.raises(KeyboardInterrupt):
        restore_databases.restore_all(server, dumps, lambda dump: None, stop)  # type: ignore[arg-type,return-value]
    assert len(begun) <= restore_databases.AT_ONCE + 1
