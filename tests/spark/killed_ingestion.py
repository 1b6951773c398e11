"""Program for .venv-spark: ingest the sample's bookings with both engines; print what each left.

Spark has two executors, and one of them is killed half way.

python -m tests.spark.killed_ingestion FOLDER
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rempart.flows.distributed import ingest as job
from rempart.flows.distributed.world import World
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipeline_sections import SparkResources
from rempart.settings.pipelines import named
from rempart.spark import session
from rempart.spark.order import SparkOrder, SparkResult
from tests.spark.shared_site import Manager, SharedSite
from tests.unit.ingestion.conftest import NOW, no_connection

FILES = 4


def _executors() -> list[int]:
    """The executors' JVMs of this process's session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        mine = str(os.environ["KILLED_FOLDER"]).encode() in command
        if mine and b"CoarseGrainedExecutorBackend" in command and b"/bin/java" in command:
            found.append(int(path.parent.name))
    return found


def _job(site: SharedSite, folder: Path, facts: dict[str, Any]) -> Callable[[SparkOrder], SparkResult]:
    def run_job(order: SparkOrder) -> SparkResult:
        resources = SparkResources(executors=2, cores=1, memory=512, driver_memory=512)

        def progress(stage: str, /, **told: Any) -> None:
            facts["stages"] = [*facts.get("stages", []), stage]
            if stage == "judged":
                facts["executors"] = len(running := _executors())
                os.kill(running[0], signal.SIGKILL)

        (folder / "files").mkdir()
        with session.opened(resources, folder / "spark") as spark:
            made = job.run(order, spark, World(site, folder / "files", progress), site)
        return SparkResult(
            order_id=order.order_id, status="succeeded", made=made.made, facts=made.facts, decision="0" * 64
        )

    return run_job


def main(folder: Path) -> None:
    os.environ["KILLED_FOLDER"] = str(folder)
    key, told = secrets.token_bytes(16), {}
    declared = named("hotel_bookings")
    assert isinstance(declared, ModelPipeline)
    header, *lines = gzip.decompress(
        (configuration.project_root() / "data" / "hotel_bookings.csv.gz").read_bytes()
    ).splitlines(keepends=True)
    with Manager(authkey=key) as manager:
        for engine in ("duckdb", "spark"):
            site, facts = SharedSite(manager.address, key), dict[str, Any]()
            for bucket in ("landing", "lake"):
                site.ensure_bucket(bucket, versioned=True)
            for i in range(FILES):
                body = header + b"".join(lines[i :: FILES - 1])  # the last file repeats rows of the first one
                site.write("landing", f"{declared.source.prefix}{i}.csv", body)
            config = configuration.load()
            sites: Any = {config.active_site: site}
            platform = Platform(config, no_connection, lambda: NOW, sites, MemoryLedger(), MemoryContinuity())
            pipeline = declared.model_copy(update={"engine": engine, "max_quarantined": 1.0})
            result = ingest(platform, pipeline, run_job=_job(site, folder, facts))
            found = {name: value for name, value in vars(result).items() if name != "seconds"}
            totals = deliveries.totals(site, "lake", pipeline.name)  # type: ignore[arg-type]  # as any process reaches it
            quarantine = [info.key for info in site.list("lake", "quarantine/")]
            told[engine] = {"result": found, "totals": totals, "quarantine": quarantine, **facts}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
