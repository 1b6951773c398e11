"""What GPUs told is summed up: what is unknown stays unknown, and no fault of a driver ends a training."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.training.gpus import nvml, usage
from rempart.training.gpus.usage import Device, GpusUse, GpuUse, Reading, Totals
from rempart.training.gpus.watch import GpuWatch, Unseen

SHARE = st.none() | st.floats(0, 1)
MEMORY = st.none() | st.integers(0, 2**40)


@given(readings=st.lists(st.tuples(SHARE, MEMORY), max_size=30))
def test_mean_and_peak_are_those_of_the_readings_that_told_them(
    readings: list[tuple[float | None, int | None]],
) -> None:
    totals = Totals()
    for share, memory in readings:
        totals = totals.after(Reading(share, memory))
    use = GpuUse.of(Device("gpu"), totals)
    shares = [share for share, _ in readings if share is not None]
    memories = [memory for _, memory in readings if memory is not None]
    assert use.readings == len(readings) and use.memory_peak_bytes == max(memories, default=None)
    assert use.utilisation_peak == max(shares, default=None)
    if shares:
        assert use.utilisation_mean == pytest.approx(sum(shares) / len(shares))
    else:
        assert use.utilisation_mean is None


@pytest.mark.parametrize(
    ("counter", "joules"),
    [
        ([5_000, 7_000, 9_500], 4.5),
        ([5_000], None),
        ([5_000, 100], None),  # the driver was loaded again
        ([5_000, None, 9_000], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_energy_is_the_difference_of_a_counter_that_never_failed(
    counter: list[int | None], joules: float | None
) -> None:
    totals = Totals()
    for value in counter:
        totals = totals.after(Reading(energy=value))
    assert totals.joules == joules


def use(**told: float | None) -> GpuUse:
    return GpuUse.model_validate({"name": "gpu", "readings": 3, **told})


def test_figures_leave_out_what_one_gpu_does_not_tell() -> None:
    full = use(utilisation_mean=0.5, utilisation_peak=0.9, memory_peak_bytes=100, energy_joules=7.0)
    other = use(utilisation_mean=0.7, utilisation_peak=0.8, memory_peak_bytes=300, energy_joules=3.0)
    assert usage.figures(GpusUse(devices=(full, other), why="")) == {
        "gpu_count": 2.0,
        "gpu_utilisation_mean": pytest.approx(0.6),
        "gpu_utilisation_peak": 0.9,
        "gpu_memory_peak_bytes": 300.0,
        "gpu_energy_joules": 10.0,
    }
    partly = GpusUse(devices=(full, use(memory_peak_bytes=1)), why="")
    assert usage.figures(partly) == {"gpu_count": 2.0, "gpu_memory_peak_bytes": 100.0}
    assert usage.energy(partly) is None and usage.figures(GpusUse()) == {}


def test_what_every_process_saw_is_told_by_rank_and_a_word_that_is_none_is_a_fault() -> None:
    first = GpusUse(devices=(use(),), seconds=4.0, why="")
    made = usage.together(first, [GpusUse(devices=(use(),), why="").told(), "{", GpusUse(why="none seen").told()])
    assert [device.process for device in made.devices] == [0, 1] and made.seconds == 4.0
    assert made.why == "process 2 told nothing usable; none seen"


@pytest.mark.parametrize("told", [{"utilisation_mean": 1.5}, {"energy_joules": -1.0}, {"energy_joules": float("inf")}])
def test_figures_that_cannot_be_are_refused(told: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        use(**told)


class Fake:
    """GPUs that compute half of the time and draw a joule a reading."""

    devices = (Device("Fake A", 1 << 30), Device("Fake B", 1 << 30))

    def __init__(self, fails: bool = False) -> None:
        self.count, self.closed, self.fails, self.thrice = 0, False, fails, threading.Event()

    def read(self, number: int) -> Reading:
        self.count += 1
        if self.count >= 6:
            self.thrice.set()
        if self.fails and number == 1:
            raise OSError("driver")
        return Reading(0.5, 1000 + number, 1000 * self.count)

    def close(self) -> None:
        self.closed = True


def test_a_watch_reads_all_gpus_until_its_block_ends() -> None:
    fake = Fake()
    with GpuWatch(lambda: fake, every=0.001) as watch:
        assert fake.thrice.wait(30)
    made = watch.use()
    assert [device.name for device in made.devices] == ["Fake A", "Fake B"] and fake.closed and made.why == ""
    assert made.devices[1].memory_peak_bytes == 1001 and made.devices[0].utilisation_mean == 0.5
    assert min(device.energy_joules or 0 for device in made.devices) > 0 and made.seconds > 0
    told = usage.line(made)
    assert told["seen"] == 2 and told["names"] == "Fake A, Fake B" and "fault" not in told


def test_a_gpu_that_stops_telling_ends_no_training_and_has_no_energy() -> None:
    with GpuWatch(lambda: Fake(fails=True)) as watch:
        pass
    made = watch.use()
    assert made.devices[0].energy_joules is not None and made.devices[1].energy_joules is None
    assert made.why == "a reading failed: OSError" and "gpu_energy_joules" not in usage.figures(made)


@pytest.mark.parametrize(("fault", "why"), [(Unseen("none seen: x"), "none seen: x"), (OSError("path"), "OSError")])
def test_without_gpus_a_job_says_why(fault: Exception, why: str) -> None:
    def opened() -> Fake:
        raise fault

    with GpuWatch(opened) as watch:
        pass
    made = watch.use()
    assert made.devices == () and why in made.why and usage.line(made) == {"seen": 0, "why": made.why}


def test_a_training_that_fails_still_closes_the_gpus() -> None:
    fake = Fake()
    with pytest.raises(ValueError, match="training"), GpuWatch(lambda: fake):
        raise ValueError("training")
    assert fake.closed


UUIDS = ["GPU-aa1", "GPU-ab2", "GPU-b33"]


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("2,0", (2, 0)),
        ("GPU-ab,GPU-b", (1, 2)),
        ("GPU-a", ()),  # two begin like this
        ("0,7,1", (0,)),
        ("1,1", (1,)),
        ("-1", ()),
        ("MIG-1", ()),
    ],
)
def test_a_process_sees_the_gpus_that_cuda_leaves_to_it(chosen: str | None, positions: tuple[int, ...]) -> None:
    assert nvml.visible(chosen, UUIDS) == positions


class NotSupported(Exception):
    pass


def library(count: int = 2, energy: bool = True, answers: bool = True) -> SimpleNamespace:
    """NVML as nvidia-ml-py offers it."""

    def joules(handle: int) -> int:
        if not energy:
            raise NotSupported
        return 1000 * handle

    def init() -> None:
        if not answers:
            raise NotSupported("Driver Not Loaded")

    return SimpleNamespace(
        NVMLError=NotSupported,
        NVMLError_NotSupported=NotSupported,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}".encode(),
        nvmlDeviceGetName=lambda handle: f"NVIDIA T{handle}",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=1 << 30, used=1 << 20),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=40),
        nvmlDeviceGetTotalEnergyConsumption=joules,
    )


def test_nvidias_library_is_read_and_what_it_does_not_support_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(energy=False))
    monkeypatch.setenv(nvml.VISIBLE, "1")
    gpus = nvml.opened()
    assert gpus.devices == (Device("NVIDIA T1", 1 << 30),)
    assert gpus.read(0) == Reading(0.4, 1 << 20, None)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (None, "nvidia-ml-py is not installed here"),
        (library(answers=False), "driver does not answer"),
        (library(count=0), "the driver knows none"),
    ],
)
def test_where_none_is_seen_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None, why: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv(nvml.VISIBLE, raising=False)
    with pytest.raises(Unseen, match=why):
        nvml.opened()


@pytest.mark.parametrize("nonsense", [1.01, 2.55, -0.01, float("nan")])
def test_a_utilisation_that_cannot_be_is_unknown_and_ends_no_training(nonsense: float) -> None:
    assert GpuUse.of(Device("x"), Totals().after(Reading(nonsense))).utilisation_mean is None
    some = Totals().after(Reading(nonsense)).after(Reading(0.5))
    assert GpuUse.of(Device("x"), some).utilisation_mean == 0.5
