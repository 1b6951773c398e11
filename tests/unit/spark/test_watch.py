"""The numbers of a job's stages add up, whatever Spark forgets of them."""

from rempart.settings.pipeline_sections import SparkResources
from rempart.spark.watch import Seen, Stage


def test_finished_stages_count_on_and_a_later_look_replaces_an_earlier_one() -> None:
    seen = Seen()
    seen.take([Stage(0, 0, "ACTIVE", 4, 1, moved_rows=10, milliseconds=100)])
    assert seen.told()["tasks"] == "1 of 4" and not seen.is_finished(0, 0)
    seen.take([Stage(0, 0, "COMPLETE", 4, 4, failed=1, moved_rows=40, milliseconds=900, spilled=5, shuffled=7)])
    seen.take([Stage(1, 0, "ACTIVE", 2, 0), Stage(1, 1, "COMPLETE", 2, 2, milliseconds=100, spilled=3)])
    used = seen.usage(SparkResources(executors=2, cores=1, memory=600, driver_memory=700))
    assert seen.is_finished(0, 0) and seen.told()["failed_tasks"] == 1
    assert (used.tasks, used.failed_tasks, used.executor_seconds, used.spilled, used.shuffled) == (7, 1, 1.0, 8, 7)
    assert (used.executors, used.memory, used.driver_memory) == (2, 600, 700)
