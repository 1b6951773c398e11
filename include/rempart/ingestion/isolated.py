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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.ingestion.reading import Rows
from rempart.ingestion.reading_process import BEYOND
from rempart.ingestion.refused import refused_when_read
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa

SECONDS = 300.0
"""Time limit in seconds for one delivery."""
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
"""Environment variables of the process: none of them is a secret."""
_FIXED = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


@dataclass
class _Reader:
    process: subprocess.Popen[str]
    owner: int


_reader: _Reader | None = None


def read(file: Path, name: str, source: Source, columns: Sequence[str]) -> Rows:
    """Return the rows of a delivery file; they stay on disk, mapped into memory."""
    with tempfile.TemporaryDirectory(prefix="rempart-rows-", ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "rows"
        order = {
            "file": str(file.absolute()),
            "name": name,
            "source": source.model_dump(mode="json", include=set(Source.model_fields)),
            "columns": list(columns),
            "out": str(out),
        }
        if fault := _ask(json.dumps(order)):
            return Rows(fault=fault)
        # a file that is mapped stays there until nobody uses it, though its name is gone
        refused = _mapped(Path(f"{out}.refused"))
        return Rows(_mapped(out), refused_when_read(refused) if refused.num_rows else ())


def _mapped(file: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _ask(order: str) -> str | None:
    """Return the reason if the file is refused as a whole."""
    reader = _running()
    process = reader.process
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes, as asked for
    try:
        process.stdin.write(order + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if not ready.select(SECONDS):
                end()
                return f"the time to read the file exceeds {SECONDS:.0f} s"
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:  # it was killed, or could not even tell that its memory was used up
        end()
        return BEYOND
    fault: str | None = json.loads(answer)["fault"]
    if fault == BEYOND:  # what is left of it may be short of memory for the next one
        end()
    return fault


def _running() -> _Reader:
    global _reader
    if _reader is not None and _reader.owner == os.getpid() and _reader.process.poll() is None:
        return _reader
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _FIXED
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rempart.ingestion.reading_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
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
        reader.process.kill()
        reader.process.wait()
        for stream in (reader.process.stdin, reader.process.stdout):
            if stream is not None:
                stream.close()


atexit.register(end)
