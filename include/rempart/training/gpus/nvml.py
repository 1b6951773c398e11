"""Read NVIDIA's GPUs by NVML, which the driver brings and `nvidia-ml-py` calls. It is loaded when a job asks.

NVML knows every GPU of a machine (in a container: those that it was given). CUDA_VISIBLE_DEVICES says which of them a
process uses, by number or UUID. The numbers are NVML's where CUDA_DEVICE_ORDER is PCI_BUS_ID; the entry point sets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from rempart.training.gpus.usage import Device, Reading
from rempart.training.gpus.watch import Unseen

T = TypeVar("T")
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


def visible(chosen: str | None, uuids: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the GPUs that CUDA_VISIBLE_DEVICES leaves to a process, in its order.

    As CUDA reads it: a list of numbers or beginnings of UUIDs, which ends before the first that names no GPU or one
    twice. Source: CUDA C++ Programming Guide, environment variables.
    """
    if chosen is None:
        return tuple(range(len(uuids)))
    found: list[int] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.isascii() and word.isdigit():
            matched = [int(word)] if int(word) < len(uuids) else []
        else:
            matched = [number for number, uuid in enumerate(uuids) if word and uuid.startswith(word)]
        if len(matched) != 1 or matched[0] in found:
            break
        found += matched
    return tuple(found)


def opened() -> Nvml:
    """Return the GPUs that this process may use. Raises Unseen with the reason if there are none."""
    try:
        import pynvml
    except ImportError:
        raise Unseen("none seen: nvidia-ml-py is not installed here") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as fault:
        raise Unseen(f"none seen: NVIDIA's driver does not answer ({_told(fault)})") from None
    return Nvml(pynvml, os.environ.get(VISIBLE))


def _told(fault: Exception) -> str:
    return str(fault)[:100] or type(fault).__name__


class Nvml:
    """The visible GPUs of this machine. Raises Unseen if none is visible."""

    def __init__(self, library: Any, chosen: str | None) -> None:
        self._library = library
        every = [library.nvmlDeviceGetHandleByIndex(number) for number in range(library.nvmlDeviceGetCount())]
        numbers = visible(chosen, [_text(library.nvmlDeviceGetUUID(handle)) for handle in every])
        self._handles = [every[number] for number in numbers]
        if not self._handles:
            library.nvmlShutdown()
            raise Unseen("none seen: " + (f"{VISIBLE} leaves none" if every else "the driver knows none"))
        self.devices = tuple(
            Device(
                _text(library.nvmlDeviceGetName(handle)),
                self._asked(partial(_memory, library, handle)),
            )
            for handle in self._handles
        )

    def driver(self) -> str:
        """Return the driver's version."""
        return _text(self._library.nvmlSystemGetDriverVersion())

    def read(self, number: int) -> Reading:
        library, handle = self._library, self._handles[number]
        return Reading(
            self._asked(lambda: float(library.nvmlDeviceGetUtilizationRates(handle).gpu) / 100),
            self._asked(lambda: int(library.nvmlDeviceGetMemoryInfo(handle).used)),
            self._asked(lambda: int(library.nvmlDeviceGetTotalEnergyConsumption(handle))),
        )

    def close(self) -> None:
        self._library.nvmlShutdown()

    def _asked(self, question: Callable[[], T]) -> T | None:
        """Return an answer, or None if this GPU does not tell it."""
        try:
            return question()
        except self._library.NVMLError_NotSupported:
            return None


def _memory(library: Any, handle: Any) -> int:
    return int(library.nvmlDeviceGetMemoryInfo(handle).total)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
