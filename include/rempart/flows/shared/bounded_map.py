"""Run many small tasks in threads, with a limit on how many run at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    work: Iterable[T], act: Callable[[T], R], workers: int, *, go_on: Callable[[], bool] = lambda: True
) -> Iterator[R]:
    """Yield the results in the order of the work.

    Start nothing new once `go_on` returns False; running pieces finish. The threads are daemons: a command that no
    longer waits for a silent site can end.
    """
    waiting: deque[Future[R]] = deque()
    pool = _Pool(act, workers)
    try:
        for item in work:
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
            if not go_on():
                break
            waiting.append(pool.submit(item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.finish()


class _Pool(Generic[T, R]):
    """At most `workers` daemon threads. A ThreadPoolExecutor's threads would hold up the end of the process."""

    def __init__(self, act: Callable[[T], R], workers: int) -> None:
        self.act, self.workers = act, workers
        self.pieces: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self.threads: list[Thread] = []

    def submit(self, item: T) -> Future[R]:
        future: Future[R] = Future()
        self.pieces.put((item, future))
        if len(self.threads) < self.workers:
            name = f"{getattr(self.act, '__name__', 'act')}_{len(self.threads)}"
            self.threads.append(Thread(target=self._run, name=name, daemon=True))
            self.threads[-1].start()
        return future

    def finish(self) -> None:
        """Wait for all submitted pieces."""
        for _ in self.threads:
            self.pieces.put(None)
        for thread in self.threads:
            thread.join()

    def _run(self) -> None:
        while (piece := self.pieces.get()) is not None:
            item, future = piece
            try:
                future.set_result(self.act(item))
            except BaseException as error:
                future.set_exception(error)
