"""The Spark job: `python -m rempart.flows.distributed.job --order FILE` (or `-` for standard input, or `env:NAME`).

It runs the same in a process beside Airflow and in a driver's pod, and needs one site and its file of credentials; no
database, no MLflow. It writes objects named by their content below the order's prefix, then result.json, which tells
which of them count: whatever ends it in between, the same order again makes the same, and an order with a result is
done. Progress is one JSON object a line on standard output. Exit status: 0 done, 75 a service or an executor did not
answer (run again), 77 its session at the site is over (run again with a new one), 143 asked to end (run again), 1
anything else.

`--order env:NAME`: the variable says where at the site the order is, and its SHA-256. A driver's pod starts so, and its
executors are pods, too (`rempart.spark.kubernetes`). `--attached`: end when standard input ends, which whoever started
this process keeps open. `--probe CODE URL...`, instead of an order: say whether Spark is here and the code is the
expected one, and whether each address and Kubernetes' API answers (`rempart pool doctor --probe`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import ObjectMissing, SessionExpired, SparkError
from rempart.flows.distributed.world import Progress, World
from rempart.settings.telemetry import TELEMETRY_OFF
from rempart.sites.port import Site
from rempart.spark import credentials, failures, session, watch
from rempart.spark.kubernetes import settings
from rempart.spark.order import (
    VERSION,
    Made,
    SparkOrder,
    SparkResult,
    code_version,
    parse_order,
    parse_place,
    parse_result,
)
from rempart.training.addresses import reach
from rempart.training.attempts.interruption import INTERRUPTED, SESSION_OVER, TRY_AGAIN, Interrupted, Interruption
from rempart.training.attempts.progress_lines import tell
from rempart.training.kubernetes.facts import KUBERNETES_API

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RESULT = "result.json"
Work = Callable[[SparkOrder, "SparkSession", World], Made]
WORK: Mapping[str, str] = {
    "derive": "rempart.flows.distributed.derive",
    "ingest": "rempart.flows.distributed.ingest",
    "training_set": "rempart.flows.distributed.training_set",
}
"""The module of each kind of work. Its `run` does the work of an order, and returns the objects that it made."""


def main(arguments: list[str] | None = None) -> int:
    """Run one job. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rempart.flows.distributed.job", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--order", help="file of the order (JSON), - for standard input, env:NAME")
    what.add_argument("--probe", nargs="+", metavar="CODE URL", help="expected code, and addresses to try; no order")
    parser.add_argument("--attached", action="store_true", help="end when standard input ends")
    given = parser.parse_args(arguments)
    os.environ.update(TELEMETRY_OFF)  # before a library is loaded that looks
    if given.probe:
        return _probed(*given.probe)
    interruption = Interruption()
    try:
        with interruption.listening(lambda: tell("interrupted", in_time=False)):
            return _run(given.order, attached=given.attached)
    except Interrupted:
        tell("interrupted", in_time=True)
        return INTERRUPTED


def _probed(code: str, *targets: str) -> int:
    """Do what a driver does before it reads its order, and try the addresses. Return the exit status."""
    try:
        if (own := code_version()) != code:
            raise SparkError(f"the image has code {own}, and the platform {code}", "Build the image again.")
        session.spark_home()
        session.java_home()
        import_module("pyspark.sql")
    except Exception as error:
        return _failed(error)
    tell("ready", version=VERSION, code=own)
    named = {target: target for target in targets}
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        address = f"[{host}]" if ":" in host else host
        api = f"{address}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
        named[f"{KUBERNETES_API} at {api}"] = f"tcp://{api}"
    answers = {name: reach(target) for name, target in named.items()}
    for name, (ok, detail) in answers.items():
        tell("reached", target=name, ok=ok, detail=detail)
    return 0 if all(ok for ok, _ in answers.values()) else 1


def _run(file: str, *, attached: bool) -> int:
    work = Path(tempfile.mkdtemp(prefix="rempart-spark-"))
    try:
        order = _ordered(file)
        if attached:
            threading.Thread(target=_end_with_standard_input, daemon=True).start()
        run_job(order, credentials.site_of(order), work)
    except Exception as error:
        return _failed(error)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def run_job(
    order: SparkOrder, site: Site, folder: Path, progress: Progress | None = None, *, master: str | None = None
) -> SparkResult:
    """Run a job, unless its site has its result, and return the result. `folder`: an empty one of its own.

    Raises SparkError, SparkInterrupted, and the errors of the site and of the work.
    """
    progress = progress or tell
    decision = credentials.permission_of(order).decision
    if (code := code_version()) != order.code_version:
        raise SparkError(
            f"run job {order.order_id}: it was ordered for code {order.code_version}, but this is {code}",
            "Run `make setup-spark` where the job runs: both must be of the same version of Rempart.",
        )
    if (stored := stored_result(site, order)) is not None:
        progress("adopted", job_id=order.order_id)
        return stored
    began = time.monotonic()
    progress("starting", job_id=order.order_id, do=order.do, executors=order.resources.executors)
    with _session(order, folder / "spark", master) as spark:
        started = time.monotonic()
        progress("started", seconds=round(started - began, 1))
        (folder / "files").mkdir()
        with watch.watching(spark, progress) as seen:
            made = work_of(order)(order, spark, World(site, folder / "files", progress))
        ended = time.monotonic()
    result = SparkResult(
        order_id=order.order_id,
        status="succeeded",
        made=made.made,
        facts=made.facts,
        seconds={"start": round(started - began, 3), "work": round(ended - started, 3)},
        usage=seen.usage(order.resources),
        decision=decision,
    )
    site.write(order.output.bucket, order.key(RESULT), result.to_json(), content_type="application/json")
    progress("done", job_id=order.order_id, objects=len(made.made), **seen.told())
    return result


@contextmanager
def _session(order: SparkOrder, work: Path, master: str | None) -> Iterator[SparkSession]:
    """Open the session of an order, with executors on this machine, or in pods if this process is a driver in one."""
    if (pod := settings.driver_pod()) is None:
        secret = credentials.secret() or None
        with session.opened(order.resources, work, secret=secret, master=master, name=order.order_id) as spark:
            yield spark
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a pod's log is read: Java's and Python's words may quote values
    settings.write_template(work, pod)
    with session.started(settings.configuration(order.resources, work, pod, name=order.order_id), work) as spark:
        yield spark


def stored_result(site: Site, order: SparkOrder) -> SparkResult | None:
    """Return the result of an order that is at its site, or None. Raises SparkError if it cannot be used."""
    try:
        body = site.read(order.output.bucket, order.key(RESULT))
    except ObjectMissing:
        return None
    return parse_result(body, order.order_id)


def work_of(order: SparkOrder) -> Work:
    """Return the function that does the work of an order."""
    work: Work = import_module(WORK[order.do]).run
    return work


def _ordered(file: str) -> SparkOrder:
    kind, _, name = file.partition(":")
    if kind != "env":
        return parse_order(_read(file))
    return credentials.order_of(parse_place(os.environ.get(name, "")))


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.readline() if file == "-" else Path(file).read_bytes()
    except OSError as cause:
        raise SparkError(
            f"read the order: {file[:200]} cannot be read ({type(cause).__name__})", "Name a readable file."
        ) from cause


def _end_with_standard_input() -> None:
    with suppress(OSError):
        while os.read(0, 4096):  # not by sys.stdin: Python aborts if a thread reads that while the process ends
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _failed(error: Exception) -> int:
    """Say why the job failed; the exit status."""
    known = failures.cause(error)
    tell("failed", error=type(known).__name__, what=known.what, hint=known.hint)
    return SESSION_OVER if isinstance(known, SessionExpired) else TRY_AGAIN if known.transient else 1


if __name__ == "__main__":
    sys.exit(main())
