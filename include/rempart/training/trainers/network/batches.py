"""Give the network's training loop its batches, on its device and with as little waiting as possible.

A training set whose standardised matrix fits beside the network is put on the device once. A larger one stays in
memory as it was read, and a thread prepares the next batches: it picks their rows, standardises them, and copies them
to a GPU from pinned memory on a stream of its own. Both ways give the same numbers to the bit.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from rempart.training.trainers.network.conversion import Scaling, standardised

AHEAD = 3
"""Batches that the thread prepares in advance."""
ON_CPU = 256 << 20
"""Bytes of the largest matrix that is standardised as a whole on a CPU."""
OF_FREE = 0.5
"""Share of a GPU's free memory that the matrix may take."""
_CHUNK = 1 << 16


@dataclass(frozen=True)
class BatchShare:
    """One update. `share`: positions of the rows that this process computes; `rows`: of the whole batch."""

    number: int
    share: Any
    rows: int


def steps_of(rows: int, size: int, epochs: int) -> int:
    """Return the number of updates of a training."""
    return epochs * math.ceil(rows / size)


def steps(
    rows: int, size: int, epochs: int, seed: int, after: int = 0, rank: int = 0, of: int = 1
) -> Iterator[BatchShare]:
    """Yield the updates after the first `after`. The order of rows in an epoch follows from seed and epoch alone."""
    import numpy as np

    per_epoch = math.ceil(rows / size)
    order, ordered = np.arange(0), -1
    for number in range(after, epochs * per_epoch):
        epoch, place = divmod(number, per_epoch)
        if epoch != ordered:
            order, ordered = np.random.default_rng([seed & (2**64 - 1), epoch]).permutation(rows), epoch
        batch = order[place * size : (place + 1) * size]
        yield BatchShare(number, np.array_split(batch, of)[rank], len(batch))


def is_resident(matrix_bytes: int, free_bytes: int | None) -> bool:
    """Return whether the whole matrix goes to the device; `free_bytes`: of a GPU, None on a CPU."""
    return matrix_bytes <= (ON_CPU if free_bytes is None else free_bytes * OF_FREE)


class Batches:
    """Rows and targets of a training set on `device` (`cpu` or `cuda`), step by step.

    inputs: float32 [n, k], NaN for null; target: [n], as the network predicts it. `waited`: seconds in which the loop
    waited for rows. On a GPU whose matrix is resident, picking rows is work that is only ordered, and hardly counts.
    """

    def __init__(self, inputs: Any, target: Any, statistics: Scaling, device: str, whole: bool | None = None) -> None:
        import torch

        self.waited = 0.0
        self._inputs, self._statistics, self._device = inputs, statistics, device
        self._target = torch.as_tensor(target)
        if whole is None:
            free = torch.cuda.mem_get_info()[0] if device == "cuda" else None
            whole = is_resident(4 * len(inputs) * statistics.width, free)
        self.resident = whole
        if whole:
            self._rows = torch.empty((len(inputs), statistics.width), dtype=torch.float32, device=device)
            for at in range(0, len(inputs), _CHUNK):
                part = standardised(inputs[at : at + _CHUNK], statistics)
                self._rows[at : at + _CHUNK].copy_(torch.from_numpy(part))
            self._target = self._target.to(device)
        elif device == "cuda":
            self._copying = torch.cuda.Stream()

    def each(self, planned: Iterator[BatchShare]) -> Generator[tuple[BatchShare, Any, Any]]:
        """Yield each step with its rows, float32 [m, width], and targets [m]. Close the iterator to end its thread."""
        return self._picked(planned) if self.resident else self._prepared(planned)

    def _picked(self, planned: Iterator[BatchShare]) -> Generator[tuple[BatchShare, Any, Any]]:
        import torch

        for step in planned:
            began = time.monotonic()
            share = torch.from_numpy(step.share).to(self._device)
            rows, wanted = self._rows[share], self._target[share]
            self.waited += time.monotonic() - began
            yield step, rows, wanted

    def _prepared(self, planned: Iterator[BatchShare]) -> Generator[tuple[BatchShare, Any, Any]]:
        ready: queue.Queue[tuple[BatchShare, Any, Any, Any] | BaseException | None] = queue.Queue(AHEAD)
        over = threading.Event()

        def put(item: tuple[BatchShare, Any, Any, Any] | BaseException | None) -> bool:
            while not over.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False

        def prepare() -> None:
            try:
                for step in planned:
                    if not put(self._loaded(step)):
                        return
            except BaseException as fault:
                put(fault)
            else:
                put(None)

        thread = threading.Thread(target=prepare, name="batches", daemon=True)
        thread.start()
        try:
            while True:
                began = time.monotonic()
                item = ready.get()
                self.waited += time.monotonic() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                step, rows, wanted, copied = item
                yield step, *self._arrived(rows, wanted, copied)
        finally:
            over.set()
            thread.join()

    def _loaded(self, step: BatchShare) -> tuple[BatchShare, Any, Any, Any]:
        import torch

        rows = torch.from_numpy(standardised(self._inputs[step.share], self._statistics))
        wanted = self._target[torch.from_numpy(step.share)]
        if self._device != "cuda":
            return step, rows, wanted, None
        with torch.cuda.stream(self._copying):
            rows, wanted = (part.pin_memory().to("cuda", non_blocking=True) for part in (rows, wanted))
            return step, rows, wanted, self._copying.record_event()

    def _arrived(self, rows: Any, wanted: Any, copied: Any) -> tuple[Any, Any]:
        """Make the computing stream wait for a copy, and keep the copy's memory until that stream has used it."""
        if copied is not None:
            import torch

            computing = torch.cuda.current_stream()
            computing.wait_event(copied)
            for part in (rows, wanted):
                part.record_stream(computing)
        return rows, wanted
