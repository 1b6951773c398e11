"""A fork never drops a store that it inherited: obstore would wait for threads that the fork lacks."""

from __future__ import annotations

import os

import pytest

from rempart.settings.config import Connection
from rempart.sites.s3 import bulk


class Store:
    """Writes to a pipe when it is dropped."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def __del__(self) -> None:
        os.write(self.pipe, b"dropped")


def test_a_store_of_the_parent_is_kept_in_a_fork_and_dropped_in_the_parent() -> None:
    reading, writing = os.pipe()
    fast = bulk.Bulk(Connection("site", "aws", extra={"endpoint_url": "http://site.example"}), "eu")
    fast.stores["lake", False] = Store(writing)
    child = os.fork()
    if not child:
        fast.stores.clear()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    fast.stores.clear()
    assert os.read(reading, 100) == b"dropped"
