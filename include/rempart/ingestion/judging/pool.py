"""Apply expectations in processes of their own, one slice of the rows in each.

A process has no secrets and limited memory. It gets rows as Arrow on its standard input and answers with places; it
ends with its input, so none outlives the process that started it.
"""

from __future__ import annotations

import io
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rempart import child_processes
from rempart.errors import IngestError, PipelineError
from rempart.ingestion import expectations, isolated
from rempart.ingestion.judging.distinct import DistinctValues
from rempart.settings.pipeline import Expectation

if TYPE_CHECKING:
    import pyarrow as pa

SECONDS = 600.0
"""Time limit in seconds for one slice."""
MANY = 20_000
"""Rows from which on processes are started: each loads Great Expectations, some 3 s of processor time and 0.3 GB."""
_COMMAND = (sys.executable, "-P", "-m", "rempart.ingestion.judging.process")


@dataclass
class JudgePool:
    """`places` does what `expectations.places` does. `memory`: bytes for the rows in one process.

    The processes start with the first table of `MANY` rows, and end with the `with` block. Fewer rows are judged here.
    """

    processes: int
    memory: int = 512 << 20
    many: int = MANY
    command: Sequence[str] = _COMMAND
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
    _owner: int = field(default=0, init=False)

    def __enter__(self) -> JudgePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def places(self, declared: Sequence[Expectation], table: pa.Table) -> Mapping[int, Sequence[int]]:
        """Return which rows break which expectation. Raises PipelineError, and IngestError if a process fails."""
        if not declared or not table.num_rows:
            return {}
        if self.processes < 1 or (not self._running and table.num_rows < self.many):
            return expectations.places(declared, table)
        try:
            return self._asked(declared, table)
        except BaseException:  # also Ctrl-C: a process may be in the middle of its work
            self.close()
            raise

    def close(self) -> None:
        """End the processes. The next table starts new ones."""
        running, self._running = self._running, []
        if self._owner != os.getpid():
            return
        for process in running:
            child_processes.end(process)

    def _asked(self, declared: Sequence[Expectation], table: pa.Table) -> dict[int, list[int]]:
        import yaml

        if not self._running or self._owner != os.getpid():
            self._start()
        # dates stay dates in YAML
        rules = yaml.safe_dump([expectation.model_dump() for expectation in declared])
        used = sorted({column for expectation in declared for column in expectations.columns(expectation)})
        rows = table.select(used)
        size = -(-table.num_rows // len(self._running))
        starts = list(range(0, table.num_rows, size))
        for process, start in zip(self._running, starts, strict=False):
            _send(process, rules, rows.slice(start, size))
        found: dict[int, list[int]] = {}
        for process, start in zip(self._running, starts, strict=False):
            for index, places in _answer(process).items():
                found.setdefault(int(index), []).extend(start + place for place in places)
        return found

    def _start(self) -> None:
        self._owner, self._running = os.getpid(), []
        for _ in range(self.processes):
            self._running.append(
                subprocess.Popen(
                    [*self.command, str(self.memory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # texts of errors may quote values
                    env=isolated.environment(),
                    cwd=tempfile.gettempdir(),
                    start_new_session=True,  # Ctrl-C is for the process that started it
                )
            )


@contextmanager
def judging(declared: Sequence[Expectation], processes: int) -> Iterator[DistinctValues]:
    """Yield the judge of an ingestion run: distinct values only, in processes if there are many of them."""
    with JudgePool(processes) as pool:
        yield DistinctValues(declared, pool.places)


def _send(process: subprocess.Popen[bytes], rules: str, rows: pa.Table) -> None:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    body = sink.getbuffer()
    try:
        _write(process, json.dumps({"expectations": rules, "bytes": len(body)}).encode() + b"\n")
        _write(process, body)
    except BrokenPipeError:
        raise _ended(process) from None


def _write(process: subprocess.Popen[bytes], body: bytes | memoryview) -> None:
    """Write to the process. Raises IngestError if it reads nothing for `SECONDS`, BrokenPipeError if it ended."""
    assert process.stdin is not None  # noqa: S101 - a pipe, as asked for
    pipe, left = process.stdin.fileno(), memoryview(body)
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_WRITE)
        while left:
            if not ready.select(SECONDS):
                raise IngestError(
                    f"judge rows: the process that applies the expectations read nothing for {SECONDS:.0f} s",
                    "Run the ingestion again. If this repeats, this machine has too little free memory.",
                )
            with suppress(BlockingIOError):  # less room than the pipe said
                left = left[os.write(pipe, left) :]


def _answer(process: subprocess.Popen[bytes]) -> Mapping[str, Sequence[int]]:
    assert process.stdout is not None  # noqa: S101 - a pipe, as asked for
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        if not ready.select(SECONDS):
            raise IngestError(
                f"judge rows: Great Expectations took more than {SECONDS:.0f} s for one part of a delivery",
                "Simplify the pipeline's expectations, such as those with a JSON schema.",
            )
    try:
        answer: Any = json.loads(process.stdout.readline())
    except ValueError:
        raise _ended(process) from None
    if error := answer.get("error"):
        raise PipelineError(*error)
    if failed := answer.get("failed"):
        raise IngestError(
            f"judge rows: Great Expectations failed with {failed}",
            "Compare the expectations' arguments with the documentation of Great Expectations.",
        )
    places: Mapping[str, Sequence[int]] = answer["places"]
    return places


def _ended(process: subprocess.Popen[bytes]) -> IngestError:
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        return IngestError("judge rows: a process answered with no result", "Report this as a bug.")
    return IngestError(
        f"judge rows: the process that applies the expectations ended with {code}",
        "Run the ingestion again. If this repeats, this machine has too little free memory.",
    )
