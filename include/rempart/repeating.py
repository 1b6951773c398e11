"""Do something again and again beside a block of code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(act: Callable[[], bool | None], seconds: float, name: str) -> Iterator[None]:
    """Call `act` in a thread of this name while the block runs: `seconds` after its beginning, and after each call.

    The calls end early if one returns True. The block's end waits for a call that runs.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            if act():
                return

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
