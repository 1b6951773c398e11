"""End a search: recompute the best trial's figure, write the evidence, and train the candidate with what was found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rempart.counts import counted
from rempart.errors import IntegrityError, TrackingRefused, TrackingUnavailable, TrainingError
from rempart.flows.search import freeze, records, trials
from rempart.flows.search.freeze import FrozenSearch
from rempart.flows.search.records import Ended, Search
from rempart.flows.search.trials import AskedTrial, Result
from rempart.flows.shared import leases
from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials, pod_job, train
from rempart.flows.training.check_pipeline import check_trainer
from rempart.flows.training.explained import measured
from rempart.flows.training.pod_job import Ordered
from rempart.flows.training.train import TrainResult
from rempart.ledger.port import Ledger
from rempart.models import metrics
from rempart.models.encoding import encode
from rempart.models.isolated_model import IsolatedModel
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings.config import Config, Connection, Connections
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site
from rempart.training import datasets, outputs, permission
from rempart.training.attempts.record import ORDER
from rempart.training.backends import LocalBackend, TrainingBackend
from rempart.training.job import VALIDATED, JobResult, JobSpec, Param
from rempart.training.protocol import splits
from rempart.training.search import plan, tracked

logger = logging.getLogger(__name__)
TOLERANCE = 1e-6
"""Largest difference between a job's figure and the recomputed one, as a share of the figure, or of the mean amount of
the target if that is more: predictions have seven digits of it.
"""


@dataclass(frozen=True)
class ChosenTrial:
    """The best trial of a search. `value`: its figure on the validation part, recomputed here."""

    search: str
    best: int
    params: Mapping[str, Param]
    metric: str
    value: float
    trials: int
    run_id: str
    ended: Ended


def choose(
    platform: Platform,
    pipeline: ModelPipeline,
    search: FrozenSearch,
    asked: Sequence[AskedTrial],
    unasked: Sequence[int] = (),
) -> ChosenTrial:
    """Choose the best complete trial, recompute its figure, and write one record of the search.

    `unasked`: generations, from 1, for which no trial was asked because the task failed.

    Raises TrainingError if no trial is complete, IntegrityError if the best one's figure is not what its model gives,
    SiteError, TrackingUnavailable, TrackingRefused.
    """
    freeze.check_same(platform.ledger, pipeline, search)
    done, wanted = trials.results(platform, pipeline, search, asked), freeze.declared(pipeline)
    metric, direction = freeze.judged_by(pipeline)
    number = plan.best([(each.trial.number, each.done()) for each in done], direction)
    if number is None:
        raise TrainingError(
            f"choose among the {counted(len(done), 'trial')} of search {search.search}: none is complete",
            "Read the log of a task `trial`. Correct the ranges in trainer.search, or raise trainer.search.time.",
        )
    best = next(each for each in done if each.trial.number == number)
    assert best.result is not None and best.trial.value is not None  # noqa: S101 - it is complete
    site = platform.active_site(pipeline.classification)
    value, amount = recomputed(site, best.spec, best.result, metric)
    if not agree(best.trial.value, value, amount):
        raise IntegrityError(
            f"choose trial {number} of search {search.search}: its job tells {metric} {best.trial.value:.6g} on the "
            f"validation part, but its model gives {value:.6g}",
            "Read the job's log and its image: somebody changed the program or its result. Then start the search anew.",
        )
    spent = trials.gpu_hours(platform.config, pipeline, done)
    found = Search(
        pipeline=pipeline.name,
        search=search.search,
        dataset_sha256=search.rows().dataset.sha256,
        trainer=pipeline.trainer.use,
        space=freeze.told_space(pipeline),
        metric=metric,
        direction=direction,
        seed=pipeline.trainer.seed,
        pruner=wanted.pruner,
        fixed=dict(pipeline.trainer.params),
        trials=tuple(each.trial for each in done),
        best=number,
        importances=plan.importances(freeze.space_of(pipeline), [each.done() for each in done], direction),
        ended=ended(
            len(done),
            wanted.trials,
            unasked=sum(wanted.trials_of(generation) for generation in unasked),
            over_time=search.seconds(platform.clock()) >= wanted.time.total_seconds(),
            over_budget=plan.affordable(wanted.gpu_hours, spent, 1) == 0,
        ),
    )
    records.write(platform.ledger, found)
    if trials.in_pods(platform.config):
        _release(platform.config, platform.connections, done)
    _tell(platform.tracking(), search, found)
    logger.info("trial %d of %d is the best: %s %.6g on the validation part", number, len(done), metric, value)
    params = dict(best.trial.params)
    return ChosenTrial(search.search, number, params, metric, value, len(done), search.parent, found.ended)


def recomputed(site: Site, spec: JobSpec, result: JobResult, metric: str) -> tuple[float, float]:
    """Return a metric of a job's stored model on the validation part, computed here from the stored rows.

    With it the mean amount of the target there: 1 of a classification, whose metrics have no unit.

    Raises IntegrityError, ObjectMissing, ModelRefused, SiteError.
    """
    import pyarrow as pa

    assert spec.validation is not None  # noqa: S101 - each trial has one
    measured.verify(site, spec, result)
    place = spec.dataset
    rows = datasets.decoded(site.read(place.bucket, place.key, sha256=place.sha256))
    rows = rows.filter(pa.array(splits.validation(rows, spec.validation).measured))
    truth = metrics.target_values(spec.target.feature(), rows)
    model = IsolatedModel(site.read(spec.output.bucket, spec.key(MODEL_FILE), sha256=result.files[MODEL_FILE]))
    try:
        predicted = model.run(encode(outputs.seen(spec)[0], rows), spec.task, len(spec.target.values))
    finally:
        model.close()
    amount = float(abs(truth).mean()) if spec.task == "regression" else 1.0
    return metrics.score(spec.task, truth, predicted)[metric], amount


def agree(told: float, value: float, amount: float) -> bool:
    """Return whether a told figure is the recomputed one, whatever the target's unit."""
    return abs(value - told) <= TOLERANCE * max(amount, abs(value))


def order(platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, params: Mapping[str, Param]) -> JobSpec:
    """Return the order for the candidate with the found parameters, on the frozen rows of the search.

    But for its run's tag it is the order that `train_<pipeline>` writes for these parameters. Raises TrainingError.
    """
    merged = check_trainer(pipeline, params)
    tags = {"rempart.search": search.search}
    return train.job_spec(platform.config, pipeline, search.rows(), merged, tags=tags)


def train_found(
    platform: Platform,
    pipeline: ModelPipeline,
    search: FrozenSearch,
    params: Mapping[str, Param],
    backend: TrainingBackend | None = None,
) -> TrainResult:
    """Train the candidate on this machine and register it. Raises the errors of `flows.training.train.train`."""
    check_found(platform.ledger, pipeline, search, params)
    spec, site = order(platform, pipeline, search, params), platform.active_site(pipeline.classification)
    backend = backend or LocalBackend(site, platform.connections, pipeline.trainer.timeout)
    # `train_<pipeline>` may run an equal order
    with leases.alone(platform.continuity, spec.job_id, pipeline.trainer.timeout):
        permitted = permission.permit(platform.config, spec, on=platform.clock().date())
        return train.register(platform, pipeline, spec, backend.run(permitted))


def place_found(
    platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, params: Mapping[str, Param]
) -> Ordered:
    """Write the order of the candidate for the pools. Raises PlacementDenied, SiteError, TrainingError."""
    check_found(platform.ledger, pipeline, search, params)
    return pod_job.place(platform, pipeline, order(platform, pipeline, search, params))


def finish_found(
    platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, params: Mapping[str, Param]
) -> TrainResult:
    """Register the candidate that a pool trained by the order of `place_found`, and by no other.

    Raises IntegrityError, and the errors of `flows.training.pod_job.finish`.
    """
    check_found(platform.ledger, pipeline, search, params)
    spec = order(platform, pipeline, search, params)
    return pod_job.finish(platform, pipeline, spec.output.bucket, spec.key(ORDER))


def check_found(ledger: Ledger, pipeline: ModelPipeline, search: FrozenSearch, params: Mapping[str, Param]) -> None:
    """Check that a candidate is trained with what the search found. Raises TrainingError, IntegrityError."""
    freeze.check_same(ledger, pipeline, search)
    if records.chosen_params(ledger, pipeline.name, search.search) != params:
        raise IntegrityError(
            f"train with what search {search.search} of {pipeline.name} found: the task `choose` tells of other "
            "parameters than its record in the ledger",
            "Clear the task `choose` with those after it. If it fails again, look in Airflow's audit log for who "
            "changed its XCom.",
        )


def ended(made: int, wanted: int, *, unasked: int, over_time: bool, over_budget: bool) -> Ended:
    """Return why no further trial was asked for. A small space may have fewer trials than wanted: all were made.

    `unasked`: trials of generations whose task `ask` failed. A limit that was reached since explains only what is
    missing besides them.
    """
    if made >= wanted:
        return "trials"
    if unasked and made + unasked >= wanted:
        return "unasked"
    return "budget" if over_budget else "time" if over_time else "unasked" if unasked else "trials"


def _tell(tracking: Connection, search: FrozenSearch, found: Search) -> None:
    """Log the outcome to the search's run in MLflow."""
    best, states = found.best_trial(), [each.state for each in found.trials]
    figures: dict[str, float] = {f"trials_{state}": float(states.count(state)) for state in sorted({*states})}
    figures |= {f"importance_{name}": share for name, share in found.importances.items()}
    if best.value is not None:
        figures[f"{VALIDATED}{found.metric}"] = best.value
    tracked.finish(tracking, search.parent, found.search, best.params, figures)


def _release(config: Config, connections: Connections, done: Sequence[Result]) -> None:
    """Revoke what the trials' pods were given."""
    for each in done:
        try:
            job_credentials.release(config, connections, each.spec)
        except (TrackingUnavailable, TrackingRefused) as error:
            logger.warning("%s", error.what)
