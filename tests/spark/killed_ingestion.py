"""Program for .venv-spark: ingest the sample's bookings with both engines; print what each left.

Spark has two executors, and one of them is killed half way. The job runs again when it is done.

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
from typing import TYPE_CHECKING, Any

from rempart.flows.distributed import ingest as ingestion
from rempart.flows.distributed import job
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
from rempart.sovereignty.job_permission import Permission
from rempart.spark import credentials
from rempart.spark.order import Made, SparkOrder, SparkResult
from tests.spark.shared_site import Manager, SharedSite
from tests.unit.ingestion.conftest import NOW, no_connection

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
    """Run an order as the job's process does, and again."""

    def work(order: SparkOrder, spark: SparkSession, world: World) -> Made:
        facts["ui"] = spark.sparkContext.uiWebUrl
        return ingestion.run(order, spark, world, site)

    def progress(stage: str, /, **told: Any) -> None:
        facts["stages"] = [*facts.get("stages", []), stage]
        if stage == "judged":
            facts["executors"] = len(running := _executors())
            secret = credentials.secret().encode()
            commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
            facts["shown"] = sum(secret in command for command in commands)
            os.kill(running[0], signal.SIGKILL)

    def run_job(order: SparkOrder) -> SparkResult:
        credentials.write(folder / "credentials.json", "s" * 64, {})
        os.environ[credentials.VARIABLE] = str(folder / "credentials.json")
        job.work_of = lambda _: work  # type: ignore[assignment]  # with a site that executors reach
        resources = SparkResources(executors=2, cores=1, memory=512, driver_memory=512)
        permission = Permission(hosts={order.site.name: ("127.0.0.1",)}, until="2999-12-01", decision="d" * 64)
        given = order.model_copy(update={"resources": resources, "permission": permission})
        place: Any = site
        result = job.run_job(given, place, folder, progress)
        facts["same"] = job.run_job(given, place, folder, progress) == result
        return result

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
