"""Many small pieces of work at a time, a bounded number of them under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def abreast(
    work: Iterable[T], act: Callable[[T], R], workers: int, *, go_on: Callable[[], bool] = lambda: True
) -> Iterator[R]:
    """Outcomes in the order of the work. Once `go_on` says no, nothing is begun any more; what is under way ends."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix=act.__name__) as pool:
        for item in work:
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
            if not go_on():
                break
            waiting.append(pool.submit(act, item))
        while waiting:
            yield waiting.popleft().result()
