"""Sum up what GPUs told while a job trained. Pure: readings go in, figures come out.

What a GPU does not tell is None and never 0: under MIG it tells no utilisation, and an old one no energy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field, ValidationError

from rempart.settings.schema import Strict

NOT_MEASURED = "not measured"
_JOULES = 1000
"""Energy counters are in millijoules."""


@dataclass(frozen=True)
class Device:
    """A GPU as its driver names it, and its memory in bytes. No serial number or UUID is kept."""

    name: str
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Reading:
    """A GPU at one moment: share of the last sampling period in which it computed (0 to 1), used memory in bytes by
    whichever process, and its energy counter in millijoules.
    """

    utilisation: float | None = None
    memory_bytes: int | None = None
    energy: int | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over the readings of one GPU: of bounded size, however long the job."""

    readings: int = 0
    known: int = 0
    busy: float = 0.0
    busiest: float | None = None
    memory_peak: int | None = None
    first_energy: int | None = None
    last_energy: int | None = None
    broken: bool = False
    """Whether the energy counter ran backwards (the driver was loaded again), or was once unknown."""

    def after(self, reading: Reading) -> Totals:
        """Return the sums with one more reading."""
        made = replace(self, readings=self.readings + 1)
        if (share := reading.utilisation) is not None and 0 <= share <= 1:  # a driver may tell nonsense
            busiest = share if self.busiest is None else max(self.busiest, share)
            made = replace(made, known=self.known + 1, busy=self.busy + share, busiest=busiest)
        if (memory := reading.memory_bytes) is not None:
            made = replace(made, memory_peak=max(self.memory_peak or 0, memory))
        if reading.energy is None:
            return replace(made, broken=True)
        first = reading.energy if self.first_energy is None else self.first_energy
        backwards = self.last_energy is not None and reading.energy < self.last_energy
        return replace(made, first_energy=first, last_energy=reading.energy, broken=self.broken or backwards)

    @property
    def joules(self) -> float | None:
        """Return the energy between the first reading and the last; None if the counter does not tell it."""
        if self.broken or self.first_energy is None or self.last_energy is None or self.readings < 2:
            return None
        return (self.last_energy - self.first_energy) / _JOULES


class GpuUse(Strict):
    """One GPU while a job trained. `process`: rank of the process that saw it. None: the GPU does not tell."""

    name: str = Field(max_length=200)
    process: int = Field(default=0, ge=0)
    memory_bytes: int | None = Field(default=None, ge=0)
    readings: int = Field(ge=0)
    utilisation_mean: float | None = Field(default=None, ge=0, le=1)
    utilisation_peak: float | None = Field(default=None, ge=0, le=1)
    memory_peak_bytes: int | None = Field(default=None, ge=0)
    energy_joules: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @classmethod
    def of(cls, device: Device, totals: Totals, process: int = 0) -> Self:
        return cls(
            name=device.name[:200],
            process=process,
            memory_bytes=device.memory_bytes,
            readings=totals.readings,
            utilisation_mean=totals.busy / totals.known if totals.known else None,
            utilisation_peak=totals.busiest,
            memory_peak_bytes=totals.memory_peak,
            energy_joules=totals.joules,
        )


class GpusUse(Strict):
    """The GPUs that the processes of a job saw during `seconds` of training. `why`: why there is none, or a fault.

    The figures are those of the attempt that made the model, and of each GPU as a whole.
    """

    devices: tuple[GpuUse, ...] = ()
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    why: str = Field(default=NOT_MEASURED, max_length=500)

    def told(self) -> str:
        """Return the use as one line of JSON, as a process tells it to the first."""
        return json.dumps(self.model_dump())


def together(first: GpusUse, others: Iterable[str]) -> GpusUse:
    """Return the use of all processes; `others`: what they told, by rank from 1. A word that is no use is a fault."""
    devices, whys = list(first.devices), [first.why]
    for rank, word in enumerate(others, start=1):
        try:
            use = GpusUse.model_validate_json(word)
        except ValidationError:
            whys.append(f"process {rank} told nothing usable")
            continue
        devices += [device.model_copy(update={"process": rank}) for device in use.devices]
        whys.append(use.why)
    why = "; ".join(dict.fromkeys(text for text in whys if text))[:500]
    return first.model_copy(update={"devices": tuple(devices), "why": why})


def figures(use: GpusUse) -> dict[str, float]:
    """Return the figures for MLflow by name; none that is unknown of one of the GPUs.

    `gpu_count`; `gpu_utilisation_mean` over all GPUs; `gpu_utilisation_peak` and `gpu_memory_peak_bytes`: the highest
    of a GPU; `gpu_energy_joules` of all together.
    """
    devices = use.devices
    if not devices:
        return {}
    found: dict[str, float] = {"gpu_count": float(len(devices))}
    means = [device.utilisation_mean for device in devices if device.utilisation_mean is not None]
    peaks = [device.utilisation_peak for device in devices if device.utilisation_peak is not None]
    memory = [device.memory_peak_bytes for device in devices if device.memory_peak_bytes is not None]
    if len(means) == len(peaks) == len(devices):
        found |= {"gpu_utilisation_mean": sum(means) / len(means), "gpu_utilisation_peak": max(peaks)}
    if len(memory) == len(devices):
        found["gpu_memory_peak_bytes"] = float(max(memory))
    if (joules := energy(use)) is not None:
        found["gpu_energy_joules"] = joules
    return found


def energy(use: GpusUse) -> float | None:
    """Return the joules of all GPUs together, or None if there is none, or one does not tell."""
    known = [device.energy_joules for device in use.devices if device.energy_joules is not None]
    return sum(known) if known and len(known) == len(use.devices) else None


def line(use: GpusUse) -> dict[str, str | int | float]:
    """Return the use as facts of a progress line."""
    if not use.devices:
        return {"seen": 0, "why": use.why}
    names = ", ".join(dict.fromkeys(device.name for device in use.devices))
    told = {name.removeprefix("gpu_"): round(value, 3) for name, value in figures(use).items() if name != "gpu_count"}
    return {"seen": len(use.devices), "names": names, **told, **({"fault": use.why} if use.why else {})}
