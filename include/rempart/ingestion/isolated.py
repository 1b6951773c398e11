"""Read deliveries in a separate process with limits of memory and time, so that a hostile file harms only that process.

One such process reads one delivery after the other. If it dies or takes too long, that delivery is refused as a whole,
and the next one gets a new process.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rempart import child_processes
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.reading_process import BEYOND
from rempart.ingestion.refused import mapped
from rempart.process_environment import inherited
from rempart.settings.pipeline import Pipeline, Source
from rempart.settings.telemetry import TELEMETRY_OFF

SECONDS = 300.0
"""Time limit in seconds for one delivery, beside the time for its size."""
BYTES_PER_SECOND = 1 << 20
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
_FIXED = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class _Reader:
    process: subprocess.Popen[str]
    owner: int


_reader: _Reader | None = None
_one_at_a_time = threading.RLock()
"""Threads take turns: the process has one order at a time."""


def stage(file: Path, name: str, pipeline: Pipeline, limits: Limits, out: Path) -> StagedDelivery:
    """Read and type the rows of a delivery. `out` takes the good ones; `name` is that of the file as received."""
    order = {
        "do": "stage",
        "file": str(file.absolute()),
        "name": name,
        "pipeline": _facts(pipeline),
        "limits": asdict(limits),
        "out": str(out.absolute()),
    }
    answer = _ask(order, file)
    if answer["fault"]:
        return StagedDelivery(out, fault=answer["fault"])
    return StagedDelivery(out, answer["good"], answer["good"], mapped(Path(f"{out}.refused")))


def keys(file: Path, key: Mapping[str, str], out: Path) -> str | None:
    """Write the key columns of a Parquet delivery to `out`, as ingestion judges them, with their lines; a fault.

    `key`: each column's name in the delivery.
    """
    order = {"do": "keys", "file": str(file.absolute()), "key": dict(key), "out": str(out.absolute())}
    fault: str | None = _ask(order, file)["fault"]
    return fault


def cut(file: Path, lines: Collection[int], out: Path) -> str | None:
    """Write a Parquet delivery without the rows on these lines to `out`; a fault."""
    order = {"do": "cut", "file": str(file.absolute()), "lines": sorted(lines), "out": str(out.absolute())}
    fault: str | None = _ask(order, file)["fault"]
    return fault


def _facts(pipeline: Pipeline) -> dict[str, Any]:
    """Return what the process needs to know to read and type rows."""
    return {
        "columns": {name: column.model_dump(mode="json") for name, column in pipeline.columns.items()},
        "key": list(pipeline.key),
        "partition_by": pipeline.partition_by,
        "moments": {name: moment.model_dump(mode="json") for name, moment in pipeline.moments.items()},
        "source": pipeline.source.model_dump(mode="json", include=set(Source.model_fields)),
    }


def _ask(order: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the answer of the process: facts, or the fault for which the file is refused as a whole."""
    with _one_at_a_time:
        return _answer(order, file)


def _answer(order: Mapping[str, Any], file: Path) -> dict[str, Any]:
    reader = _running()
    process = reader.process
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes, as asked for
    seconds = SECONDS + file.stat().st_size / BYTES_PER_SECOND if SECONDS else 0.0
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                end()
                return {"fault": f"the time to read the file exceeds {seconds:.0f} s"}
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:  # it was killed, or could not even tell that its memory was used up
        end()
        return {"fault": BEYOND}
    found: dict[str, Any] = json.loads(answer)
    if found["fault"] == BEYOND:  # what is left of it may be short of memory for the next one
        end()
    return found


def environment() -> dict[str, str]:
    """Return the environment of a process that reads foreign rows: nothing of it is a secret, and telemetry is off."""
    return inherited(_PASSED_ON) | TELEMETRY_OFF | _FIXED


def _running() -> _Reader:
    global _reader
    if _reader is not None and _reader.owner == os.getpid() and _reader.process.poll() is None:
        return _reader
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rempart.ingestion.reading_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # an error may quote a value
        text=True,
        env=environment(),
        cwd=tempfile.gettempdir(),
    )
    _reader = _Reader(process, os.getpid())
    return _reader


def idle() -> int:
    """Start the process if it does not run; its id."""
    return _running().process.pid


def end() -> None:
    """End the process. The next delivery starts a new one. A process of another parent is left alone."""
    global _reader
    reader, _reader = _reader, None
    if reader is not None and reader.owner == os.getpid():
        child_processes.end(reader.process)


atexit.register(end)
