"""Run a job on a backend. Every backend starts the same entry point with the same spec, and reads the same result."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO, Protocol

from rempart import child_processes
from rempart.errors import ObjectMissing, PoolUnavailable, TrackingUnavailable, TrainingError
from rempart.process_environment import inherited
from rempart.settings.config import Connections, connection_text, project_root, var_dir
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.port import Site
from rempart.training.attempts.interruption import INTERRUPTED, TRY_AGAIN
from rempart.training.attempts.process_group import LISTENING, loopback
from rempart.training.job import JobResult, JobSpec, parse_result
from rempart.training.trainers import openmp, trainers

logger = logging.getLogger(__name__)

LAST_LINES = 20
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PASSED_ON = {
    *("HOME", "JAVA_HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME"),
    *("LANG", "LANGUAGE", "REMPART_HOME", "REMPART_VAR"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONUTF8", "PYTHONWARNINGS"),
    *("AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
} | {name for proxy in _PROXIES for name in (proxy, proxy.lower())}
"""Variables that a job's process inherits: where programs, files, certificates and proxies are."""
PASSED_ON_BEGINNINGS = (
    *("LC_", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ORT_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NCCL_", "GLOO_", "NVIDIA_", "TORCH_", "TORCHINDUCTOR_", "TRITON_", "PYTORCH_"),
)
"""Beginnings of further such names: threads, memory and GPUs."""


class TrainingBackend(Protocol):
    """Runs jobs."""

    def run(self, spec: JobSpec) -> JobResult:
        """Run a job to its end and return its result; log its lines, readable.

        An existing result is reused. Raises TrainingError with the last log lines, or TrackingUnavailable if everything
        is trained and only MLflow did not answer: run again.
        """


def stored_result(site: Site, spec: JobSpec) -> JobResult:
    """Return the job's stored result. Raises TrainingError if it is missing or unusable."""
    try:
        body = site.read(spec.output.bucket, spec.key("result.json"))
    except ObjectMissing as cause:
        raise TrainingError(
            f"run job {spec.job_id}: it succeeded but stored no result at site '{site.name}'",
            "Read the job's log: a trainer must not end the process itself. If objects of the bucket were deleted "
            "meanwhile, run it again.",
        ) from cause
    return parse_result(body, spec.job_id)


@dataclass(frozen=True)
class LocalBackend:
    """Run a job as a process on this machine, or one process for each node.

    The processes get only the connections that the spec names.
    """

    site: Site
    connections: Connections
    timeout: timedelta
    command: tuple[str, ...] | None = None
    """By default this Python; for a PyTorch trainer that of the trainer's own environment."""

    def run(self, spec: JobSpec) -> JobResult:
        """Run a job as `TrainingBackend.run` says. Raises PoolUnavailable, too, if it was asked to end: run again."""
        processes, lines = self._started(spec)
        late = threading.Event()

        def stop() -> None:
            late.set()
            for process in processes:
                child_processes.kill_group(process)

        timer = threading.Timer(self.timeout.total_seconds(), stop)
        timer.start()
        last: deque[str] = deque(maxlen=LAST_LINES)
        try:
            for process in processes:
                assert process.stdin is not None  # noqa: S101 - it is a pipe
                with suppress(BrokenPipeError):  # it ended before it read; its exit status says why
                    process.stdin.write(spec.to_json())
                    process.stdin.close()
            for line in lines:
                text = readable(line.decode("utf-8", "replace").rstrip())
                last.append(text)
                logger.info("%s", text)
            status = processes[0].wait()  # of several nodes the first counts, because it writes the result
        finally:
            timer.cancel()
            lines.close()
            for process in processes:
                if process.poll() is None:
                    child_processes.kill_group(process)
                    process.wait()
        log = "\n".join(f"  {line}" for line in last)
        if late.is_set():
            raise TrainingError(
                f"run job {spec.job_id}: it was ended because it ran longer than {self.timeout}. Its last "
                f"lines:\n{log}",
                "Raise trainer.timeout in the pipeline, or reduce the training.",
            )
        if status == TRY_AGAIN:
            raise TrackingUnavailable(
                f"run job {spec.job_id}: a service did not answer. Its last lines:\n{log}",
                "Run again: finished steps are stored at the site and are reused.",
            )
        if status == INTERRUPTED:
            raise PoolUnavailable(
                f"run job {spec.job_id}: it was asked to end. Its last lines:\n{log}",
                "Run again: the job continues from its last checkpoint.",
            )
        if status:
            raise TrainingError(
                f"run job {spec.job_id}: it failed with status {status}. Its last lines:\n{log}",
                "Correct the cause in the last lines, and run again.",
            )
        return stored_result(self.site, spec)

    def _started(self, spec: JobSpec) -> tuple[list[subprocess.Popen[bytes]], BinaryIO]:
        """Start a process for each node. Return them, and the stream of their lines: each line is written at once, so
        lines do not mix.
        """
        reading, writing = os.pipe()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            with places(spec.nodes) as each:
                for place in each:
                    processes.append(
                        subprocess.Popen(
                            [*(self.command or _entry_point(spec)), "--spec", "-"],
                            stdin=subprocess.PIPE,
                            stdout=writing,
                            stderr=subprocess.STDOUT,
                            env={**self._environment(spec), **place.variables},
                            pass_fds=place.sockets,
                            start_new_session=True,
                        )
                    )
        except OSError:
            os.close(reading)
            for process in processes:
                child_processes.end_group(process)
            raise
        finally:
            os.close(writing)
        return processes, os.fdopen(reading, "rb")

    def _environment(self, spec: JobSpec) -> dict[str, str]:
        """Return the environment of a trainer's process, with the job's connections."""
        names = {spec.dataset.site.connection, spec.output.site.connection, spec.tracking.connection}
        given = {f"AIRFLOW_CONN_{name.upper()}": connection_text(self.connections(name)) for name in names}
        return {**bare_environment(), **given}


def bare_environment() -> dict[str, str]:
    """Return the environment of a job's process: `PASSED_ON` and nothing else of this process's.

    No secret is among them, except what a proxy's address may contain.
    """
    kept = inherited(PASSED_ON, PASSED_ON_BEGINNINGS)
    fixed = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
    return {**kept, **openmp.variables(kept, var_dir().absolute() / "lib"), **TELEMETRY_OFF, **fixed}


@dataclass(frozen=True)
class Place:
    """What tells a process its place among the nodes: variables, and the sockets that it inherits."""

    variables: dict[str, str]
    sockets: tuple[int, ...] = ()


@contextmanager
def places(nodes: int) -> Iterator[list[Place]]:
    """Yield a place for each node on this machine, with the variables that Kubeflow's torch runtime sets.

    The first node inherits the socket on which the others find it: between a port that was free and the node that
    listens on it, another program could take it. The socket stays open here until the context ends.
    """
    if nodes == 1:
        yield [Place({})]
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        shared = {
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(listening.getsockname()[1]),
            "GLOO_SOCKET_IFNAME": loopback(),
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // nodes)),
        }
        first = Place({**shared, "PET_NODE_RANK": "0", LISTENING: str(listening.fileno())}, (listening.fileno(),))
        yield [first, *(Place({**shared, "PET_NODE_RANK": str(rank)}) for rank in range(1, nodes))]


def _entry_point(spec: JobSpec) -> tuple[str, ...]:
    return python_of(spec.trainer.use, spec.size), "-m", "rempart.training.entrypoint"


def python_of(use: str, processes: int = 1) -> str:
    """Return this Python; for a PyTorch trainer that of the trainer's own environment, if there is one."""
    built_in = trainers.BUILT_IN.get(use)
    needs_torch = processes > 1 or (built_in is not None and built_in.needs_torch)
    own = project_root() / ".venv-trainer" / "bin" / "python"
    return str(own) if needs_torch and own.is_file() else sys.executable


def readable(line: str) -> str:
    """Return a progress line of the job as text; any other line unchanged, cut to 300 characters."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return line[:300]
    if not isinstance(data, Mapping) or "stage" not in data:
        return line[:300]
    facts = ", ".join(f"{key} {value}" for key, value in data.items() if key not in ("at", "stage"))
    return f"{data['stage']}: {facts}" if facts else str(data["stage"])
