"""Program for .venv-spark: run a job on two executors of its own, of which one is killed half way; print the result.

python -m tests.spark.killed_executor FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.flows.distributed import job
from rempart.flows.distributed.world import World
from rempart.settings.pipeline_sections import SparkResources
from rempart.spark import credentials
from rempart.spark.order import Made, SparkOrder
from tests.memory_site import MemorySite
from tests.unit.spark.orders import order

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

ROWS, TASKS = 400_000, 8


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def work(ordered: SparkOrder, spark: SparkSession, world: World) -> Made:
    marker = str(world.work.parent / "killed")

    def doubled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyspark import TaskContext

        context = TaskContext.get()
        for batch in batches:
            if context is not None and context.partitionId() == 5 and not Path(marker).exists():
                Path(marker).touch()
                os.kill(_parent(_parent(os.getpid())), signal.SIGKILL)  # the executor's JVM, above Python's workers
            yield pa.RecordBatch.from_arrays([pc.multiply(batch.column(0), 2)], ["id"])

    numbers = spark.range(0, ROWS, 1, TASKS).mapInArrow(doubled, "id long")
    facts: dict[str, Any] = numbers.selectExpr("count(*) AS rows", "sum(id) AS total").first().asDict()  # type: ignore[union-attr]  # an aggregate has a row
    secret = spark.sparkContext.getConf().get("spark.authenticate.secret") or ""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    facts["shown"] = sum(secret.encode() in command for command in commands)
    facts["killed"] = Path(marker).exists()
    facts["ui"] = spark.sparkContext.uiWebUrl
    return Made(facts=facts)


def main(folder: Path) -> None:
    credentials.write(folder / "credentials.json", "s" * 64, {})
    os.environ[credentials.VARIABLE] = str(folder / "credentials.json")
    job.work_of = lambda _: work  # type: ignore[assignment]  # this work instead
    site = MemorySite("primary")
    site.ensure_bucket("lake", versioned=True)
    ordered = order(resources=SparkResources(executors=2, cores=1, memory=512, driver_memory=512))
    result = job.run_job(ordered, site, folder)
    again = job.run_job(ordered, site, folder)
    sys.stdout.write(json.dumps({**result.facts, "same": again == result, "failed": result.usage.failed_tasks}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
