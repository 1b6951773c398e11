"""Run a Spark job as a process on this machine, in its own environment `.venv-spark`.

The process gets the connection of its site and the secret of its executors in a file for its owner alone, which is
deleted at its end, and no setting or connection of Airflow. If this process ends, the job ends, too.
"""

from __future__ import annotations

import logging
import re
import secrets
import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rempart import child_processes
from rempart.errors import SparkError, SparkInterrupted
from rempart.flows.distributed.job import stored_result
from rempart.settings.config import Connections
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.spark import credentials, environment
from rempart.spark.order import ATTEMPTS, SparkOrder, SparkResult
from rempart.training.attempts.interruption import INTERRUPTED, TRY_AGAIN
from rempart.training.backends import LAST_LINES, bare_environment, readable

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"^((?:[\w.]+)(?:Error|Exception)): (No module named [\w'. ]+)?")


@dataclass(frozen=True)
class LocalSpark:
    """Runs jobs on this machine, each in a process with the executors that its order asks for."""

    site: Site
    connections: Connections
    timeout: timedelta
    command: tuple[str, ...] | None = None
    """By default the interpreter of `.venv-spark`."""

    def run(self, order: SparkOrder) -> SparkResult:
        """Run a job to its end and return its result; log its lines, readable. An existing result is reused.

        Raises SparkError with the last log lines, or SparkInterrupted if it was ended twice before its result.
        """
        command = self.command or (str(environment.python()),)
        for attempt in range(1, ATTEMPTS + 1):
            status, last = self._attempt(order, command)
            if status == 0:
                if (result := stored_result(self.site, order)) is None:
                    raise SparkError(
                        f"run job {order.order_id}: it succeeded but stored no result at site '{self.site.name}'",
                        "Run it again. If it fails again, look for what deletes objects of the bucket.",
                    )
                return result
            again = status < 0 or status in (TRY_AGAIN, INTERRUPTED)
            if again and attempt < ATTEMPTS:
                logger.warning("the driver of job %s was lost (status %d): it runs once more", order.order_id, status)
                continue
            log = "\n".join(f"  {line}" for line in last)
            if again:
                raise SparkInterrupted(
                    f"run job {order.order_id}: it was ended twice before its result, at last with status {status}. "
                    f"Its last lines:\n{log}",
                    "Run again: objects that it stored are used again. Check the machine's memory first.",
                )
            raise SparkError(
                f"run job {order.order_id}: it failed with status {status}. Its last lines:\n{log}",
                "Correct the cause in the last lines, and run again.",
            )
        raise AssertionError  # the loop ends before

    def _attempt(self, order: SparkOrder, command: tuple[str, ...]) -> tuple[int, list[str]]:
        """Run the job once. Return its exit status and last lines. Raises SparkError if it takes too long."""
        late = threading.Event()
        with spool_folder() as folder:
            file, errors = folder / "credentials.json", folder / "errors"
            credentials.write(
                file, secrets.token_hex(32), {order.site.connection: self.connections(order.site.connection)}
            )
            with errors.open("wb") as complaints:
                process = subprocess.Popen(
                    [*command, "-m", "rempart.flows.distributed.job", "--order", "-", "--attached"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,  # Java's and Python's words may quote values
                    env=variables(folder, file),
                    start_new_session=True,
                )

            def stop() -> None:
                late.set()
                child_processes.kill_group(process)

            timer = threading.Timer(self.timeout.total_seconds(), stop)
            timer.start()
            last: deque[str] = deque(maxlen=LAST_LINES)
            try:
                assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they are pipes
                with suppress(BrokenPipeError):  # it ended before it read; its exit status says why
                    process.stdin.write(order.to_json() + b"\n")
                    process.stdin.flush()
                for line in process.stdout:
                    last.append(readable(line.decode("utf-8", "replace").rstrip()))
                    logger.info("%s", last[-1])
                status = process.wait()
            finally:
                timer.cancel()
                child_processes.end_group(process)  # executors of a driver that is gone, too
            if status and not any(line.startswith("failed") for line in last):
                last.extend(named(errors.read_text(encoding="utf-8", errors="replace")))
        if late.is_set():
            raise SparkError(
                f"run job {order.order_id}: it was ended because it ran longer than {self.timeout}. Its last lines:\n"
                + "\n".join(f"  {line}" for line in last),
                "Raise `spark.timeout` in the pipeline file, or give it more executors.",
            )
        return status, list(last)


def variables(folder: Path, file: Path) -> dict[str, str]:
    """Return the environment of a job: nothing of Airflow, its temporary files in `folder`, and its credentials."""
    own = {credentials.VARIABLE: str(file), "TMPDIR": str(folder)}
    return {**bare_environment(), **own}


def named(text: str) -> list[str]:
    """Return the classes of the errors of a process that could not say itself why it ended: no message, no value."""
    found = [matched for line in text.splitlines() if (matched := _NAMED.match(line))]
    return [": ".join(filter(None, matched.groups())) for matched in found[-2:]]
