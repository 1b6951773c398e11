"""Run a stored model in a separate process with limits of memory and time.

A small ONNX file can request gigabytes, or hours. The allow list of operators prevents most of that; these limits cover
the rest. The process ends with the object.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rempart import child_processes
from rempart.errors import ModelRefused
from rempart.models import onnx_format
from rempart.process_environment import inherited
from rempart.settings.telemetry import TELEMETRY_OFF

if TYPE_CHECKING:
    import numpy as np

MEMORY = 1 << 30
"""Bytes that a model may take in addition to four times its own size."""
INLINE = 1 << 20
"""Bytes of a matrix that goes through the pipe; a larger one goes through a file."""
SECONDS = 300.0
"""Seconds for opening the model, and for each prediction."""
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "REMPART_HOME")
"""Environment variables of the process: none of them is a secret."""
_FIXED = TELEMETRY_OFF | {"OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2"}
_HINT = "Do not use this version. Validate another candidate, or roll back. Then find out where the model came from."


class IsolatedModel:
    """A model opened in a separate process. Raises ModelRefused, here and in `run`."""

    def __init__(self, body: bytes) -> None:
        onnx_format.parse(body)
        environment = inherited(_PASSED_ON) | _FIXED
        with _folder() as folder:
            file = folder / onnx_format.MODEL_FILE
            file.write_bytes(body)
            command = [sys.executable, "-P", "-m", "rempart.models.onnx_process", str(file)]
            self._process = subprocess.Popen(
                [*command, str(MEMORY + 4 * len(body))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
            self._end = weakref.finalize(self, child_processes.end, self._process)
            self._ready = select.poll()
            self._ready.register(self._stdout, select.POLLIN)
            self._answer("opening")

    def run(
        self, matrix: Any, task: str, classes: int, *, bounds: bool = False
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Predict like `onnx_format.run`."""
        import numpy as np

        order: dict[str, Any] = {"task": task, "classes": classes, "bounds": bounds}
        width = 1 + len(onnx_format.BOUNDS) if bounds else classes
        if matrix.nbytes <= INLINE:
            given = np.ascontiguousarray(matrix)
            answer = self._asked(order | {"shape": given.shape}, given.data.cast("B") if given.size else b"")
            body = self._stdout.read(answer["bytes"])
            if len(body) != answer["bytes"]:
                self._end()
                raise _gone("predicting")
            return np.frombuffer(body, np.float64).reshape((-1, width) if width else -1)
        with _folder() as folder:
            file, result = folder / "matrix.npy", folder / "out.npy"
            with file.open("wb") as out:
                np.save(out, matrix, allow_pickle=False)
            self._asked(order | {"matrix": str(file), "out": str(result)})
            made: np.ndarray[Any, np.dtype[np.float64]] = np.load(result, allow_pickle=False)
        return made

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe, as asked for
        return self._process.stdout

    def _asked(self, order: Mapping[str, Any], body: bytes | memoryview = b"") -> Mapping[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - as above
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.write(body)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _gone("predicting") from None
        return self._answer("predicting")

    def close(self) -> None:
        """End the process."""
        self._end()

    def _answer(self, doing: str) -> Mapping[str, Any]:
        if not self._ready.poll(SECONDS * 1000):
            self._end()
            raise ModelRefused(f"run the model: it was ended, because {doing} took longer than {SECONDS:.0f} s", _HINT)
        if not (line := self._stdout.readline()):
            self._end()
            raise _gone(doing)
        answer: Mapping[str, Any] = json.loads(line)
        if "what" in answer:
            raise ModelRefused(answer["what"], answer["hint"])
        return answer


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is gone at the end: a task of Airflow ends without a finalizer, and rows of people may be in it."""
    with tempfile.TemporaryDirectory(prefix="rempart-onnx-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _gone(doing: str) -> ModelRefused:
    return ModelRefused(
        f"run the model: its process ended while {doing}; the memory limit is {MEMORY >> 20} MiB", _HINT
    )
