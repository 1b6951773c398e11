"""Order a Spark job, run it where `rempart.yaml` says, and read back what it made before anything counts.

What a job stores is below `spark/<pipeline>/<kind of work>/` of the lake bucket. Whoever ordered it takes what it needs
from there, and then clears the place: nothing else reads it, and it holds rows. An ingestion and a training of one
pipeline run at the same time, so each clears only its own kind.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rempart.errors import ObjectMissing, SparkError
from rempart.flows.distributed.job import RESULT
from rempart.flows.distributed.local import LocalSpark
from rempart.flows.distributed.pods import where
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.sovereignty.job_permission import JobSite, permitted
from rempart.spark.definitions import definition
from rempart.spark.order import InputObject, MadeObject, OutputPlace, SparkOrder, SparkResult, Work, code_version

logger = logging.getLogger(__name__)

WORKERS = 4
"""Objects that are read back at the same time."""
_BLOCK = 1 << 20


class SparkBackend(Protocol):
    """Runs Spark jobs."""

    def run(self, order: SparkOrder) -> SparkResult:
        """Run a job to its end and return its result; an existing result is reused. Raises SparkError."""


def prefix_of(pipeline: str, do: Work | None = None) -> str:
    """Return the prefix of what jobs of a pipeline, or those of one kind, store in the lake bucket."""
    return f"spark/{pipeline}/{f'{do}/' if do else ''}"


def order(
    config: Config,
    site: str,
    pipeline: Pipeline,
    do: Work,
    inputs: Iterable[InputObject],
    parameters: Mapping[str, Any] | None = None,
    others: Sequence[Pipeline] = (),
) -> SparkOrder:
    """Return the order of a job at a site, without the policy's permission.

    `parameters`: what else determines its outcome, as plain JSON. `others`: pipelines that the job needs beside this
    one and those whose feature views it uses.
    """
    known = {pipeline.name: pipeline, **{other.name: other for other in others}}
    if isinstance(pipeline, ModelPipeline):
        known |= {view.pipeline: view.source for view in pipeline.used_views().values()}
    return SparkOrder(
        do=do,
        pipeline=pipeline.name,
        classification=pipeline.classification,
        pipelines={name: definition(each) for name, each in sorted(known.items())},
        site=JobSite.of(config, site),
        inputs=tuple(inputs),
        output=OutputPlace(bucket=config.buckets.lake, prefix=prefix_of(pipeline.name, do)),
        parameters=dict(parameters or {}),
        code_version=code_version(),
        resources=pipeline.spark.resources,
    )


def run(
    platform: Platform, pipeline: Pipeline, ordered: SparkOrder, backend: SparkBackend | None = None
) -> SparkResult:
    """Run a job by permission of the policy, check what it stored, and write evidence of what it used.

    If an object is not what the result says, both are deleted: the next run must not adopt them. Raises
    PlacementDenied, SparkError, SparkInterrupted, SiteError and its kinds.
    """
    site = platform.site(ordered.site.name, ordered.classification)
    today = platform.clock().date()
    permission = permitted(platform.config, ordered.classification, [ordered.site.name], on=today)
    clear(site, ordered.output.bucket, pipeline.name, ordered.do, but=ordered)
    if backend is None:
        in_pods = partial(platform.spark_pods, platform, site, pipeline) if platform.spark_pods else None
        local = LocalSpark(site, platform.connections, pipeline.spark.timeout)
        backend = declared_backend(platform.config, local, in_pods)
    result = backend.run(ordered.model_copy(update={"permission": permission}))
    try:
        read_back(site, ordered, result)
    except (SparkError, ObjectMissing):
        clear(site, ordered.output.bucket, pipeline.name, ordered.do)
        raise
    ran = {"where": where(platform.config.spark.backend, platform.ledger, ordered)}
    platform.ledger.append("spark-job", pipeline.name, evidence(ordered, result) | ran)
    logger.info("%s", told(result))
    return result


def declared_backend(config: Config, local: SparkBackend, in_pods: Callable[[], SparkBackend] | None) -> SparkBackend:
    """Return what runs Spark jobs as `spark.backend` of rempart.yaml says; only tasks have `in_pods`.

    Raises SparkError.
    """
    if config.spark.backend == "local":
        return local
    if in_pods is None:
        raise SparkError(
            "run a Spark job: `spark.backend` is kubernetes, and only tasks of Airflow make pods",
            "Start the DAG of the pipeline, or set `spark.backend: local` in rempart.yaml.",
        )
    return in_pods()


def evidence(ordered: SparkOrder, result: SparkResult) -> dict[str, Any]:
    """Return the record of a job: what it did, where, what it used, and the digest of the policy's decision."""
    return {
        "job_id": ordered.order_id,
        "do": ordered.do,
        "site": ordered.site.name,
        "code": ordered.code_version,
        "inputs": len(ordered.inputs),
        "objects": len(result.made),
        "rows": sum(made.rows for made in result.made),
        "seconds": dict(result.seconds),
        "usage": result.usage.model_dump(),
        "decision": result.decision,
    }


def told(result: SparkResult) -> str:
    """Return what a job used, for the task's log."""
    used = result.usage
    return (
        f"the Spark job made {len(result.made)} objects in {sum(result.seconds.values()):.0f} s: {used.executors} "
        f"executors with {used.cores} cores and {used.memory} MiB each, {used.tasks} tasks, {used.failed_tasks} of "
        f"them ran again, {used.shuffled / 1e6:.0f} MB moved, {used.spilled / 1e6:.0f} MB spilled"
    )


def read_back(site: Site, ordered: SparkOrder, result: SparkResult) -> None:
    """Check that the objects that count are at the site as the job says: place, bytes, SHA-256, rows of Parquet files.

    Raises SparkError, which names the object; ObjectMissing.
    """
    with spool_folder() as folder:

        def check(numbered: tuple[int, MadeObject]) -> None:
            number, made = numbered
            if fault := _fault(site, ordered, made, folder / f"{number}.parquet"):
                raise SparkError(
                    f"check job {ordered.order_id}: {ordered.output.bucket}/{made.key} at '{site.name}' {fault}",
                    "Nothing was committed. Run again; if it fails again, ask the operator of the site.",
                )

        for _ in bounded_map(enumerate(result.made), check, WORKERS):
            pass


def _fault(site: Site, ordered: SparkOrder, made: MadeObject, file: Path) -> str:
    """Return what is wrong with an object of a job; empty if nothing is."""
    if not made.key.startswith(ordered.key("")):
        return "is not in the job's own place"
    digest, size = hashlib.sha256(), 0
    try:
        with site.open(ordered.output.bucket, made.key) as stream, file.open("wb") as kept:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
                kept.write(block)
        if size != made.bytes or digest.hexdigest() != made.sha256:
            return f"differs from what the job says: {size} bytes instead of {made.bytes}, or another SHA-256"
        if (rows := _rows(file)) != made.rows:
            return "is no Parquet file" if rows is None else f"has {rows} rows instead of {made.rows}"
    finally:
        file.unlink(missing_ok=True)
    return ""


def _rows(file: Path) -> int | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowInvalid, OSError):
        return None


def clear(site: Site, bucket: str, pipeline: str, do: Work | None = None, *, but: SparkOrder | None = None) -> int:
    """Delete every version of what jobs of a pipeline (of a kind) stored, except that of one order; how many versions.

    Results go first: none must stay whose objects are gone. Call it after what a job made is committed, and when rows
    of the pipeline are erased.
    """
    kept = but.key("") if but else None
    found = [
        (info.key, info.version_id)
        for info in site.versions(bucket, prefix_of(pipeline, do))
        if kept is None or not info.key.startswith(kept)
    ]

    def delete(version: tuple[str, str | None]) -> None:
        site.delete(bucket, version[0], version_id=version[1])

    results = [version for version in found if version[0].endswith(f"/{RESULT}")]
    for some in (results, [version for version in found if version not in results]):
        for _ in bounded_map(some, delete, WORKERS):
            pass
    return len(found)
