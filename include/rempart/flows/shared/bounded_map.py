"""Run many small tasks in threads, with a limit on how many run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    work: Iterable[T], act: Callable[[T], R], workers: int, *, go_on: Callable[[], bool] = lambda: True
) -> Iterator[R]:
    """Yield the results in the order of the work.

    Start nothing new once `go_on` returns False; running pieces finish.
    """
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
