"""Watch the GPUs of this process's machine in a thread, from the begin of a training to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from rempart.training.gpus.usage import Device, GpusUse, GpuUse, Reading, Totals

EVERY_SECONDS = 1.0


class Unseen(Exception):
    """Raised where no GPU can be seen; its text says why, for the record."""


class Gpus(Protocol):
    """GPUs that this process may use. `read` may raise any error: a reading that fails is an unknown one."""

    @property
    def devices(self) -> Sequence[Device]: ...

    def read(self, number: int) -> Reading:
        """Return a reading of `devices[number]`."""

    def close(self) -> None: ...


class GpuWatch:
    """Reads the GPUs at the begin and the end of a `with` block and every `every` seconds between.

    A fault of the driver's library never ends a training: `use` then says what is unknown.
    """

    def __init__(self, opened: Callable[[], Gpus], every: float = EVERY_SECONDS) -> None:
        self._opened, self._every = opened, every
        self._gpus: Gpus | None = None
        self._totals: list[Totals] = []
        self._why = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._began, self._seconds = 0.0, 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        try:
            self._gpus = self._opened()
            self._totals = [Totals() for _ in self._gpus.devices]
        except Unseen as answer:
            self._why = str(answer)
        except Exception as fault:
            self._why = f"GPUs cannot be read: {type(fault).__name__}"
        if self._gpus is not None:
            self._read()
            self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.monotonic() - self._began
        self._over.set()
        if self._thread is None or self._gpus is None:
            return
        self._thread.join(10 * EVERY_SECONDS)
        if self._thread.is_alive():  # the driver does not answer, and would not answer another reading
            self._why = "the driver stopped answering"
            return
        self._read()
        try:
            self._gpus.close()
        except Exception as fault:
            self._why = self._why or f"GPUs cannot be closed: {type(fault).__name__}"

    def use(self) -> GpusUse:
        """Return what was seen, up to now or to the end of the block."""
        gpus, seconds = self._gpus, self._seconds or time.monotonic() - self._began
        devices = gpus.devices if gpus is not None else ()
        uses = [GpuUse.of(device, totals) for device, totals in zip(devices, self._totals, strict=True)]
        return GpusUse(devices=tuple(uses), seconds=round(seconds, 3), why=self._why[:500])

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self._read()

    def _read(self) -> None:
        gpus = self._gpus
        assert gpus is not None  # noqa: S101 - only called with GPUs
        for number, totals in enumerate(self._totals):
            try:
                reading = gpus.read(number)
            except Exception as fault:
                self._why, reading = f"a reading failed: {type(fault).__name__}", Reading()
            self._totals[number] = totals.after(reading)
