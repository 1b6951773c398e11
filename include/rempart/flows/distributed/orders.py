"""Order a Spark job, run it where `rempart.yaml` says, and read its objects back before anything counts.

The objects of a job are below `spark/<pipeline>/<kind of work>/<order>/` of the lake bucket. The task that ordered it
takes its objects from there and then deletes them: nothing else reads them, and they hold rows. Other tasks may run
jobs of the same pipeline at the same time, so objects of other orders are deleted only when no running job can hold
them.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rempart.counts import size
from rempart.errors import ObjectMissing, SparkError
from rempart.flows.distributed.job import RESULT
from rempart.flows.distributed.local import LocalSpark
from rempart.flows.distributed.pods import where
from rempart.flows.shared.bounded_map import bounded_map
from rempart.flows.shared.platform import Platform
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder
from rempart.sovereignty.job_permission import JobSite, permitted
from rempart.spark.definitions import definition
from rempart.spark.order import (
    ATTEMPTS,
    InputObject,
    MadeObject,
    OutputPlace,
    SparkOrder,
    SparkResult,
    Work,
    code_version,
)

logger = logging.getLogger(__name__)

WORKERS = 4
"""Objects that are read back at the same time."""
_BLOCK = 1 << 20


class SparkBackend(Protocol):
    """Runs Spark jobs."""

    def run(self, order: SparkOrder) -> SparkResult:
        """Run a job to its end and return its result; an existing result is reused. Raises SparkError."""


def prefix_of(pipeline: str, do: Work | None = None) -> str:
    """Return the prefix of the objects in the lake bucket of a pipeline's jobs, or of those of one kind."""
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
    platform: Platform,
    pipeline: Pipeline,
    ordered: SparkOrder,
    backend: SparkBackend | None = None,
    keep: Path | None = None,
) -> SparkResult:
    """Run a job by permission of the policy, check the objects that it stored, and write evidence of what it used.

    `keep`: a folder for the objects, as `read_file` names them; by default they are read and forgotten. If an object is
    not what the result says, both are deleted: the next run must not adopt them. Raises PlacementDenied, SparkError,
    SparkInterrupted, SiteError and its kinds.
    """
    site = platform.site(ordered.site.name, ordered.classification)
    now = platform.clock()
    permission = permitted(platform.config, ordered.classification, [ordered.site.name], on=now.date())
    clear(site, ordered.output.bucket, pipeline.name, ordered.do, but=ordered, before=now - held(pipeline))
    if backend is None:
        in_pods = partial(platform.spark_pods, platform, site, pipeline) if platform.spark_pods else None
        local = LocalSpark(site, platform.connections, pipeline.spark.timeout)
        backend = declared_backend(platform.config, local, in_pods)
    result = backend.run(ordered.model_copy(update={"permission": permission}))
    try:
        read_back(site, ordered, result, keep)
    except (SparkError, ObjectMissing):
        forget(site, ordered)
        raise
    ran = {"where": where(platform.config.spark.backend, platform.ledger, ordered, platform.writer)}
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
    """Return the record of a job: its work, place and use of resources, and the digest of the policy's decision."""
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
    """Return the resources that a job used, for the task's log."""
    used = result.usage
    return (
        f"the Spark job made {len(result.made)} objects in {sum(result.seconds.values()):.0f} s: {used.executors} "
        f"executors with {used.cores} cores and {used.memory} MiB each, {used.tasks} tasks, {used.failed_tasks} of "
        f"them ran again, {size(used.shuffled)} moved, {size(used.spilled)} spilled"
    )


def read_file(folder: Path, made: MadeObject) -> Path:
    """Return the file of an object that was read back into a folder."""
    return folder / f"read-{made.sha256}"


def read_back(site: Site, ordered: SparkOrder, result: SparkResult, keep: Path | None = None) -> None:
    """Check that the objects that count are at the site as the job says: place, bytes, SHA-256, rows of Parquet files.

    `keep`: a folder in which they stay (`read_file`). Raises SparkError, which names the object; ObjectMissing.
    """
    with spool_folder() as folder:

        def check(numbered: tuple[int, MadeObject]) -> None:
            number, made = numbered
            file = folder / f"{number}.parquet"
            if fault := _fault(site, ordered, made, file):
                raise SparkError(
                    f"check job {ordered.order_id}: {ordered.output.bucket}/{made.key} at '{site.name}' {fault}",
                    "Nothing was committed. Run again; if it fails again, ask the operator of the site.",
                )
            if keep is None:
                file.unlink()
            else:
                shutil.move(file, read_file(keep, made))

        for _ in bounded_map(enumerate(result.made), check, WORKERS):
            pass


def _fault(site: Site, ordered: SparkOrder, made: MadeObject, file: Path) -> str:
    """Bring an object of a job into a file. Return its fault, empty if it has none."""
    if not made.key.startswith(ordered.key("")):
        return "is not in the job's own place"
    digest, size = hashlib.sha256(), 0
    with site.open(ordered.output.bucket, made.key) as stream, file.open("wb") as kept:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if (size := size + len(block)) > made.bytes:  # whoever wrote it says less than there is
                return f"has more bytes than the {made.bytes} that the job says"
            kept.write(block)
    if size != made.bytes or digest.hexdigest() != made.sha256:
        return f"differs from what the job says: {size} bytes instead of {made.bytes}, or another SHA-256"
    if (rows := _rows(file)) != made.rows:
        return "is no Parquet file" if rows is None else f"has {rows} rows instead of {made.rows}"
    return ""


def _rows(file: Path) -> int | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowInvalid, OSError):
        return None


def held(pipeline: Pipeline) -> timedelta:
    """Return the age at which no running task can hold objects of a job any more: it had time for each attempt, to read
    the objects back, and to commit.
    """
    return max(3 * ATTEMPTS * pipeline.spark.timeout, timedelta(days=1))


def clear(
    site: Site,
    bucket: str,
    pipeline: str,
    do: Work | None = None,
    *,
    but: SparkOrder | None = None,
    before: datetime | None = None,
) -> int:
    """Delete every version of the objects of a pipeline's jobs, or of those of a kind; return how many versions.

    Objects of the order `but` stay, and those of orders of which one object is not older than `before`. Results go
    first: none must stay whose objects are gone. Call it when rows of the pipeline are erased, too.
    """
    found = [*site.versions(bucket, prefix_of(pipeline, do))]
    return _delete(site, bucket, unneeded(found, but.key("") if but else None, before))


def forget(site: Site, ordered: SparkOrder) -> int:
    """Delete every version of the objects of one job; return how many. Call it after they are committed or refused."""
    return _delete(site, ordered.output.bucket, [*site.versions(ordered.output.bucket, ordered.key(""))])


def unneeded(found: Sequence[ObjectInfo], kept: str | None, before: datetime | None) -> list[ObjectInfo]:
    """Return the versions to delete: not those below the prefix `kept`, nor those of an order with one that is not
    older than `before`. Pure.
    """
    newest: dict[str, datetime] = {}
    for info in found:
        folder = info.key.rpartition("/")[0]
        newest[folder] = max(info.modified, newest.get(folder, info.modified))
    return [
        info
        for info in found
        if not (kept and info.key.startswith(kept)) and (before is None or newest[info.key.rpartition("/")[0]] < before)
    ]


def _delete(site: Site, bucket: str, found: Sequence[ObjectInfo]) -> int:
    def delete(info: ObjectInfo) -> None:
        site.delete(bucket, info.key, version_id=info.version_id)

    results, others = list[ObjectInfo](), list[ObjectInfo]()
    for info in found:
        (results if info.key.endswith(f"/{RESULT}") else others).append(info)
    for some in (results, others):
        for _ in bounded_map(some, delete, WORKERS):
            pass
    return len(found)
