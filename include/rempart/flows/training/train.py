"""Train a candidate: freeze a point-in-time training set, run a job on it, register a version with evidence."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart import engine_spill
from rempart.features.label_feed import LabelsUsed, target_column, told, told_late, told_open, told_undated
from rempart.features.prediction.plan import inputs_of
from rempart.flows.ingestion import derived_run
from rempart.flows.shared import erasures, leases, removals, used_views
from rempart.flows.shared.platform import Platform
from rempart.flows.training import labelled
from rempart.flows.training.candidates import leaks, openings, orders, record
from rempart.flows.training.check_pipeline import check_trainer
from rempart.flows.training.explained import measured
from rempart.flows.training.materialize import feature_databases, loaded_content, spark_content
from rempart.models import registry
from rempart.models.encoding import Feature, features_of
from rempart.models.inputs import usage
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.job_permission import JobSite
from rempart.training import datasets, experiment, permission
from rempart.training.backends import LocalBackend, TrainingBackend
from rempart.training.gpus.cost import NOTHING_SPENT, Spent
from rempart.training.job import (
    Dataset,
    FeatureSpec,
    InputSpec,
    JobLabels,
    JobResult,
    JobSpec,
    Output,
    Param,
    Tracking,
    TrainerSpec,
)
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.features.training_set import TrainingSet
    from rempart.sites.port import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A registered candidate. `metrics` are of the held-out rows, in the target's unit.

    `labels`: of another pipeline: its name, snapshot, and the rows by the state of their label. `used`: snapshots of
    pipelines whose feature views the training set has. `hint`: what to do about DuckDB's memory, if it did not suffice
    by far. `reused`: which earlier run trained the version, and when; empty if this run did.
    """

    job_id: str
    run_id: str
    version: str
    metrics: dict[str, float]
    rows_train: int
    rows_holdout: int
    dataset_sha256: str
    snapshot: str
    seconds: dict[str, float]
    placement: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None
    used: dict[str, str] = field(default_factory=dict)
    hint: str = ""
    reused: str = ""


def train(
    platform: Platform,
    pipeline: ModelPipeline,
    *,
    params: Mapping[str, Param] | None = None,
    verdict: int | None = None,
) -> TrainResult:
    """Train on the current feature store on this machine; `params` replace parameters of the pipeline's trainer.

    The same data, trainer, parameters, seed and code reuse the existing job and version. `verdict`: number of the red
    verdict that is the cause, if any. Raises TrainingError, FeatureError, TrackingUnavailable, TrackingRefused,
    SiteError, IntegrityError, PlacementDenied, DatabaseUnavailable, ErasedMeanwhile.
    """
    check_trainer(pipeline, params)  # before the join, which takes minutes
    found = training_set(platform, pipeline)
    start = partial(train_on, platform, pipeline, found.table, found.snapshot, params=params)
    hint = engine_spill.hint(found.spilled, platform.config.training.join_memory << 20, "training.join_memory")
    return replace(start(labels=found.labels, used=found.used, verdict=verdict), hint=hint)


def training_set(platform: Platform, pipeline: ModelPipeline) -> TrainingSet:
    """Return the point-in-time training set of the loaded snapshot, and the ids of its snapshots.

    `engine` of the pipeline and `training.offline_store` say what joins it. Raises LabelsMissing, TrainingError,
    FeatureError, DatabaseUnavailable; from Parquet also the errors of `materialize.loaded_content`; from Spark also
    SparkError.
    """
    from rempart.features import training_set as loaded_tables
    from rempart.features.parquet_store import training_sets

    logger.info("joining the features as they were known at each row's moment")
    databases, settings = feature_databases(platform), platform.config.training
    found, on_spark = None, pipeline.engine == "spark" and spark_content(platform, pipeline)
    if on_spark:
        from rempart.flows.distributed import joined

        found = joined.point_in_time(platform, databases, pipeline, on_spark)
    elif settings.offline_store == "parquet":
        limits = training_sets.JoinLimits(settings.join_memory, platform.config.ingestion.threads)
        found = training_sets.point_in_time(databases, pipeline, loaded_content(platform, pipeline), limits)
    if found is None:
        logger.info("joining in PostgreSQL")
        found = loaded_tables.point_in_time(databases, pipeline)
    logger.info("joined %d rows of snapshot %s", found.table.num_rows, found.snapshot)
    if found.open:
        logger.info("%s", told_open(found.open, pipeline.prediction.target))
    return found


def train_on(
    platform: Platform,
    pipeline: ModelPipeline,
    table: pa.Table,
    snapshot: str,
    *,
    params: Mapping[str, Param] | None = None,
    backend: TrainingBackend | None = None,
    labels: LabelsUsed | None = None,
    used: Mapping[str, str] | None = None,
    verdict: int | None = None,
) -> TrainResult:
    """Train on a table with the columns of `features.training_set.point_in_time`.

    Equal orders share one place at the site, so a second run waits for the first, and reuses its result. Raises the
    errors of `train`; LeaseHeld if the first runs longer than `trainer.timeout` allows.
    """
    spec = order(platform, pipeline, table, snapshot, params=params, labels=labels, used=used)
    with leases.alone(platform.continuity, spec.job_id, pipeline.trainer.timeout):
        site = platform.active_site(pipeline.classification)
        backend = backend or LocalBackend(site, platform.connections, pipeline.trainer.timeout)
        permitted = permission.permit(platform.config, spec, on=platform.clock().date())
        return register(platform, pipeline, spec, backend.run(permitted), verdict=verdict)


def order(
    platform: Platform,
    pipeline: ModelPipeline,
    table: pa.Table,
    snapshot: str,
    *,
    params: Mapping[str, Param] | None = None,
    labels: LabelsUsed | None = None,
    used: Mapping[str, str] | None = None,
) -> JobSpec:
    """Freeze a training set at the active site and write the order for its job. Raises the errors of `train`."""
    merged = check_trainer(pipeline, params)
    how = orders.measuring(pipeline, merged)
    frozen = freeze(platform, pipeline, table, snapshot, how, merged, labels=labels, used=used)
    return job_spec(platform.config, pipeline, frozen, merged)


@dataclass(frozen=True)
class FrozenSet:
    """A training set at a site, and the snapshots that it is made of."""

    dataset: Dataset
    snapshot: str
    labels: JobLabels | None
    used: Mapping[str, str]


def freeze(
    platform: Platform,
    pipeline: ModelPipeline,
    table: pa.Table,
    snapshot: str,
    how: orders.Measuring,
    params: Mapping[str, Param],
    *,
    labels: LabelsUsed | None = None,
    used: Mapping[str, str] | None = None,
) -> FrozenSet:
    """Store a training set at the active site. `how`: each part that its jobs need must have rows.

    `params`: of the trainer, which may leave features out.

    Raises the errors of `train`.
    """
    site = platform.active_site(pipeline.classification)
    learnable = without_late(pipeline, table)
    labelled.check_targets(pipeline, learnable if learnable.num_rows else table)
    feed, late = None, table.num_rows - learnable.num_rows
    if labels:
        counts = {**asdict(labels.rows), "late": late}
        feed = JobLabels(pipeline=labels.pipeline, snapshot=labels.snapshot, rows=counts)
        logger.info("%s", told(feed.pipeline, feed.rows))
    elif late:
        undated = labelled.undated(table) - labelled.undated(learnable)
        logger.info("%s", told_late(late - undated, pipeline.prediction.target))
        if undated:
            logger.info("%s", told_undated(undated, pipeline.prediction.target))
    made_of = {"snapshot": snapshot, **({"labels": f"{feed.pipeline}/{feed.snapshot}"} if feed else {})}
    if used:  # in the file as well, so that equal rows of other snapshots are another training set
        made_of["used"] = used_views.told(used)
        learnable = learnable.replace_schema_metadata({used_views.USED: made_of["used"]})
    rows = labelled.split(pipeline, learnable)
    orders.check(how, rows.learn)
    for feature, share in leaks.suspects(pipeline, target_feature(pipeline), params, rows.learn):
        target = pipeline.prediction.target
        logger.warning("%s alone tells %.1f %% of %s: the gate will refuse this model", feature, 100 * share, target)
    of = [(pipeline.name, snapshot), *(used or {}).items(), *([(labels.pipeline, labels.snapshot)] if labels else [])]
    ledger, lake = platform.ledger, platform.config.buckets.lake
    with erasures.standing_rows(ledger, lake, of, partial(derived_run.stands, ledger, site, lake)):
        dataset = _store(platform.config, pipeline, site, platform.clock(), rows, made_of)
    logger.info(
        "stored training set %s: %d rows to learn from, %d held out",
        dataset.sha256[:16],
        rows.learn.num_rows,
        rows.held_out.num_rows,
    )
    return FrozenSet(dataset, snapshot, feed, dict(used or {}))


def without_late(pipeline: ModelPipeline, table: pa.Table) -> pa.Table:
    """Return the training set without targets that became known after the hold-out began; see `labelled.without_late`.

    A table that cannot be split is returned as it is: `labelled.split` says why.
    """
    import pyarrow.compute as pc

    if pipeline.holdout.column is None:  # groups have no begin
        return table
    dates = table.column(pipeline.holdout.column)
    if dates.null_count or not table.num_rows:
        return table
    return labelled.without_late(pipeline, table, labelled.held_out_from(pipeline, pc.max(dates).as_py()))


def register(
    platform: Platform,
    pipeline: ModelPipeline,
    spec: JobSpec,
    result: JobResult,
    *,
    ran: Mapping[str, Any] | None = None,
    spent: Spent = NOTHING_SPENT,
    verdict: int | None = None,
) -> TrainResult:
    """Verify a job's outputs, register them as a candidate, and write evidence; `ran` and `spent` tell where and for
    how much, if known.

    Raises the errors of `train`.
    """
    active = platform.active()
    site = platform.active_site(pipeline.classification, active)
    measured.verify(site, spec, result)
    if spent.figures():
        experiment.log_held_out(platform.tracking(), result.run_id, result.model_id, spent.figures(), {})
    held_out = record.rows_on_record(spec)["held_out"]
    opening = openings.record(platform.ledger, pipeline.name, held_out, "registration", spec.job_id, ())
    known, tracking = erasures.rewritten(platform.ledger), platform.tracking()
    found = measured.measure(known, tracking, site, spec, result, pipeline)
    figures = {**result.metrics, **found.metrics}
    classification = platform.classification(pipeline, "model")
    with platform.committing(active):
        removals.check_trained(platform.ledger, pipeline.name, spec.snapshot)
        version = registry.register(
            tracking,
            pipeline.name,
            pipeline.description,
            job_id=spec.job_id,
            run_id=result.run_id,
            model_id=result.model_id,
            tags={
                "snapshot": spec.snapshot,
                **({"labels": f"{spec.labels.pipeline}/{spec.labels.snapshot}"} if spec.labels else {}),
                **{f"used.{name}": snapshot for name, snapshot in spec.used.items()},
                "dataset_sha256": spec.dataset.sha256,
                "code_version": spec.code_version,
                "classification": classification,
                **({"verdict": str(verdict)} if verdict is not None else {}),
                **{f"placement.{name}": str(value) for name, value in (ran or {}).items() if value is not None},
                **{name: f"{value:.6g}" for name, value in figures.items()},
            },
            usage=usage(pipeline.name, [each.input() for each in spec.inputs]),
        )
        version_measured = record.MeasuredVersion(figures, found.rows, version, classification, opening, found.kept)
        earlier = record.write(platform.ledger, spec, result, version_measured, ran=ran, spent=spent, verdict=verdict)
    reused = record.reused(earlier) if earlier else ""
    logger.info("%s", reused or f"registered version {version} of model '{pipeline.name}' as a candidate")
    return TrainResult(
        job_id=spec.job_id,
        run_id=result.run_id,
        version=version,
        metrics=figures,
        rows_train=result.rows,
        rows_holdout=found.rows,
        dataset_sha256=spec.dataset.sha256,
        snapshot=spec.snapshot,
        seconds=dict(result.seconds),
        placement=dict(ran) if ran else None,
        labels=spec.labels.model_dump() if spec.labels else None,
        used=spec.used,
        reused=reused,
    )


def _store(
    config: Config,
    pipeline: ModelPipeline,
    site: Site,
    now: datetime,
    rows: datasets.TrainingRows,
    made_of: Mapping[str, str],
) -> Dataset:
    """Write the rows to learn from and the held-out rows as two objects."""
    kept_until, digests = now + config.retention[pipeline.classification].snapshots, list[str]()
    identity = list(dict.fromkeys([*pipeline.key, pipeline.prediction.target]))
    bucket = config.buckets.lake
    for table, key in ((rows.learn, datasets.key), (rows.held_out, datasets.held_out_key)):
        body = datasets.encoded(table)
        digests.append(hashlib.sha256(body).hexdigest())
        # an erasure in another pipeline, an input or one whose views are used, finds them by their snapshots
        metadata = {"retain-until": kept_until.date().isoformat(), **made_of}
        site.write_new(bucket, key(pipeline.name, digests[-1]), body, metadata=metadata)
    return Dataset(
        site=JobSite.of(config, site.name),
        bucket=bucket,
        key=datasets.key(pipeline.name, digests[0]),
        sha256=digests[0],
        rows=rows.learn.num_rows,
        held_out=digests[1],
        examples=hashlib.sha256(datasets.encoded(rows.held_out.select(identity))).hexdigest(),
    )


def target_feature(pipeline: ModelPipeline) -> Feature:
    name = pipeline.prediction.target
    column = target_column(pipeline)
    if pipeline.prediction.task == "regression":
        return Feature(name, "number")
    return Feature(name, "category", tuple(column.values or ("false", "true")))


def job_spec(
    config: Config,
    pipeline: ModelPipeline,
    frozen: FrozenSet,
    params: Mapping[str, Param],
    how: orders.Measuring | None = None,
    tags: Mapping[str, str] | None = None,
) -> JobSpec:
    """Return the order for a job. `how`: by default as the pipeline's file says; `tags`: of its run in MLflow."""
    seen, _ = trainers.left_out(features_of(pipeline), params)
    how, dataset = how or orders.measuring(pipeline, params), frozen.dataset
    return JobSpec(
        pipeline=pipeline.name,
        classification=pipeline.classification,
        task=pipeline.prediction.task,
        target=FeatureSpec.of(target_feature(pipeline)),
        features=tuple(FeatureSpec.of(feature) for feature in features_of(pipeline)),
        inputs=tuple(InputSpec.of(each) for each in inputs_of(pipeline, [feature.name for feature in seen])),
        dataset=dataset,
        trainer=TrainerSpec.of(pipeline.trainer, params),
        validation=how.validation,
        backtest=how.backtest,
        costs=how.costs,
        nodes=pipeline.trainer.nodes,
        processes=orders.processes(config, pipeline),
        tracking=Tracking(connection="mlflow", experiment=pipeline.name, tags=dict(tags or {})),
        output=Output(site=dataset.site, bucket=config.buckets.artifacts, prefix="jobs/"),
        snapshot=frozen.snapshot,
        labels=frozen.labels,
        used=dict(frozen.used),
        code_version=trainers.code_version(pipeline.trainer.use),
    )
