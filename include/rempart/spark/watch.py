"""Tell how far a Spark job is, and add up its use of resources: counts of its stages, never their rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rempart.settings.pipeline_sections import SparkResources
from rempart.spark.order import SparkUsage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVERY_SECONDS, AT_LEAST_SECONDS = 5.0, 60.0
"""Time between two looks at the stages, and the longest silence."""
_RUNNING = "ACTIVE"


@dataclass(frozen=True)
class Stage:
    """One attempt of a stage: tasks, rows read from outside and moved between executors, milliseconds, and bytes."""

    number: int
    attempt: int
    status: str
    tasks: int
    done: int
    failed: int = 0
    rows: int = 0
    moved_rows: int = 0
    milliseconds: int = 0
    spilled: int = 0
    shuffled: int = 0


@dataclass
class Seen:
    """The stages of a job by number and attempt. Spark forgets finished ones after a while; this does not.

    `before`: stages that do not count, since they began before.
    """

    stages: dict[tuple[int, int], Stage] = field(default_factory=dict)
    before: frozenset[tuple[int, int]] = frozenset()

    def take(self, found: Iterable[Stage]) -> None:
        """Take the newest facts of stages."""
        for stage in found:
            if (stage.number, stage.attempt) not in self.before:
                self.stages[(stage.number, stage.attempt)] = stage

    def is_finished(self, number: int, attempt: int) -> bool:
        """Return whether the facts of a stage change no more."""
        known = self.stages.get((number, attempt))
        return known is not None and known.status in ("COMPLETE", "FAILED", "SKIPPED")

    def usage(self, resources: SparkResources) -> SparkUsage:
        """Return the use of all stages together."""
        stages = self.stages.values()
        return SparkUsage(
            executors=resources.executors,
            cores=resources.cores,
            memory=resources.memory,
            driver_memory=resources.driver_memory,
            tasks=sum(stage.done + stage.failed for stage in stages),
            failed_tasks=sum(stage.failed for stage in stages),
            executor_seconds=round(sum(stage.milliseconds for stage in stages) / 1000, 3),
            spilled=sum(stage.spilled for stage in stages),
            shuffled=sum(stage.shuffled for stage in stages),
        )

    def told(self) -> dict[str, Any]:
        """Return the line of progress."""
        stages = list(self.stages.values())
        running = [stage for stage in stages if stage.status == _RUNNING]
        facts: dict[str, Any] = {
            "stages_done": sum(stage.status == "COMPLETE" for stage in stages),
            "tasks": f"{sum(stage.done for stage in running)} of {sum(stage.tasks for stage in running)}",
            "moved_rows": sum(stage.moved_rows for stage in stages),
            "spilled_mb": sum(stage.spilled for stage in stages) // 10**6,
        }
        failed = sum(stage.failed for stage in stages)
        return facts | ({"failed_tasks": failed} if failed else {})


@contextmanager
def watching(spark: SparkSession, progress: Callable[..., None]) -> Iterator[Seen]:
    """Tell the progress of the stages that begin while the block runs; its end has the facts of all of them."""
    seen, over = Seen(), threading.Event()
    with suppress(Exception):
        seen.before = frozenset((stage.number, stage.attempt) for stage in stages(spark, seen))

    def look() -> None:
        before: Mapping[str, Any] = {}
        told_at = time.monotonic()
        while not over.wait(EVERY_SECONDS):
            with suppress(Exception):  # the session ends, or a stage goes as it is read
                seen.take(stages(spark, seen))
            facts = seen.told()
            with suppress(Exception):
                facts["executors"] = executors(spark)
            if facts != before or time.monotonic() - told_at >= AT_LEAST_SECONDS:
                progress("running", **facts)
                before, told_at = facts, time.monotonic()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(EVERY_SECONDS)
        with suppress(Exception):  # the JVM may be gone
            seen.take(stages(spark, seen))


def executors(spark: SparkSession) -> int:
    """Return the number of executors that are there now: fewer than ordered while a cluster has no place for more."""
    return len(spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()) - 1  # the driver is one of them


def stages(spark: SparkSession, seen: Seen) -> list[Stage]:
    """Return the stages whose facts may have changed. PySpark has no public way to the numbers of a stage."""
    context = spark.sparkContext
    gateway, store = context._gateway, context._jsc.sc().statusStore()
    jvm = gateway.jvm
    quantiles = gateway.new_array(jvm.double, 0)
    found = store.stageList(None, False, False, quantiles, jvm.java.util.ArrayList())
    told = []
    for index in range(found.size()):
        described = found.apply(index)
        number, attempt = described.stageId(), described.attemptId()
        if seen.is_finished(number, attempt):
            continue
        told.append(
            Stage(
                number,
                attempt,
                str(described.status().toString()),
                described.numTasks(),
                described.numCompleteTasks(),
                described.numFailedTasks(),
                described.inputRecords(),
                described.shuffleWriteRecords(),
                described.executorRunTime(),
                described.diskBytesSpilled(),
                described.shuffleWriteBytes(),
            )
        )
    return told
