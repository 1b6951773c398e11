"""Ask for trials, run them, and read what they stored.

A trial is a training job without the refit. Its id follows from rows, parameters and code, so a trial that was killed,
cleared or asked for again is the same job: it continues from its checkpoint, or its result is reused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rempart.errors import IntegrityError, TrainingError
from rempart.flows.search import freeze
from rempart.flows.search.freeze import FrozenSearch
from rempart.flows.search.records import Trial
from rempart.flows.shared import leases
from rempart.flows.shared.platform import Platform
from rempart.flows.training import pod_job, train
from rempart.flows.training.candidates.orders import Measuring, measuring
from rempart.flows.training.check_pipeline import check_trainer
from rempart.flows.training.explained import measured
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site
from rempart.training import permission
from rempart.training.attempts.record import Record
from rempart.training.backends import LocalBackend, TrainingBackend
from rempart.training.job import VALIDATED, JobResult, JobSpec, Param
from rempart.training.placement import request_of
from rempart.training.search import plan, tracked
from rempart.training.search.plan import Curve, Done
from rempart.training.search.space import comparable, within

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedTrial:
    """A trial that was asked for. `stop_if_worse`: the losses that end it, None with `pruner: none`."""

    number: int
    generation: int
    params: Mapping[str, Param]
    stop_if_worse: Curve | None
    job_id: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> AskedTrial:
        """Return a trial from what `ask` returned to Airflow; keys for the job's place are left out."""
        stop = told["stop_if_worse"]
        return cls(
            int(told["number"]),
            int(told["generation"]),
            dict(told["params"]),
            None if stop is None else tuple((int(step), float(loss)) for step, loss in stop),
            str(told["job_id"]),
        )


@dataclass(frozen=True)
class Result:
    """A trial and, if it did not fail, its order and its result. `curve`: as `plan.Done` has it."""

    trial: Trial
    spec: JobSpec
    result: JobResult | None
    curve: Curve = ()

    def done(self) -> Done:
        return Done(self.trial.params, self.trial.state, self.trial.value, self.curve)


def ask(
    platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, earlier: Sequence[AskedTrial], generation: int
) -> list[AskedTrial]:
    """Return the trials of a generation. `earlier`: those of all generations before, whose jobs have ended.

    None if the search's time is over or its GPU hours are used. Raises TrainingError, SiteError.
    """
    freeze.check_same(platform.ledger, pipeline, search)
    wanted, space = freeze.declared(pipeline), freeze.space_of(pipeline)
    first = (generation - 1) * wanted.at_once  # so a task `ask` that failed, and is cleared later, has its own numbers
    count = wanted.trials_of(generation)
    if search.seconds(platform.clock()) >= wanted.time.total_seconds():
        logger.info("no further trial: the search's time of %s is over", wanted.time)
        return []
    done = results(platform, pipeline, search, earlier)
    affordable = plan.affordable(wanted.gpu_hours, gpu_hours(platform.config, pipeline, done), count)
    if affordable < count:
        logger.info("%d of %d trials fit into %s GPU hours", affordable, count, wanted.gpu_hours)
    direction = freeze.judged_by(pipeline)[1]
    asked = plan.ask(
        space,
        [each.done() for each in done],
        seed=pipeline.trainer.seed,
        generation=generation,
        count=affordable,
        direction=direction,
    )
    stop = None
    if wanted.pruner == "median" and comparable(space):
        stop = plan.stop_if_worse([each.curve for each in done if each.trial.state == "complete"])
    made = [AskedTrial(first + place, generation, params, stop) for place, params in enumerate(asked)]
    return [replace(each, job_id=_spec(platform, pipeline, search, each).job_id) for each in made]


def spec_of(platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, asked: AskedTrial) -> JobSpec:
    """Return the order for a trial's job.

    Raises IntegrityError for parameters that the search cannot have asked for, TrainingError if the order is not the
    one that was asked for, because the pipeline file is another, and for parameters that the trainer refuses.
    """
    if not within(freeze.space_of(pipeline), asked.params):
        raise IntegrityError(
            f"go on with search {search.search} of {pipeline.name}: trial {asked.number} has parameters outside of the "
            "ranges in the pipeline file",
            f"Look in Airflow's audit log for who changed the XCom of `ask_{asked.generation}`. Then trigger "
            f"search_{pipeline.name}.",
        )
    spec = _spec(platform, pipeline, search, asked)
    if spec.job_id != asked.job_id:
        raise freeze.changed(pipeline, search)
    return spec


def _spec(platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, asked: AskedTrial) -> JobSpec:
    merged = check_trainer(pipeline, asked.params)
    how = measuring(pipeline, merged).validation
    assert how is not None  # noqa: S101 - a pipeline file with a search has a validation part
    how = how.model_copy(update={"refit": False, "stop_if_worse": asked.stop_if_worse})
    tags = tracked.tags_of_trial(search.search, search.parent, asked.number)
    return train.job_spec(platform.config, pipeline, search.rows(), merged, Measuring(how, None), tags)


def placed(platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, asked: AskedTrial) -> dict[str, Any]:
    """Write the order of a trial for the pools, and return both as plain JSON. Raises PlacementDenied, SiteError."""
    ordered = pod_job.place(platform, pipeline, spec_of(platform, pipeline, search, asked))
    told: dict[str, Any] = json.loads(json.dumps({**asdict(asked), **asdict(ordered)}))
    return told


def run(
    platform: Platform,
    pipeline: ModelPipeline,
    search: FrozenSearch,
    asked: AskedTrial,
    backend: TrainingBackend | None = None,
) -> Trial:
    """Run a trial on this machine, or reuse its result. Raises the errors of `TrainingBackend.run`, LeaseHeld."""
    freeze.check_same(platform.ledger, pipeline, search)
    spec = spec_of(platform, pipeline, search, asked)
    site = platform.active_site(pipeline.classification)
    with leases.alone(platform.continuity, spec.job_id, pipeline.trainer.timeout):
        if Record(site, spec).result() is None:
            backend = backend or LocalBackend(site, platform.connections, pipeline.trainer.timeout)
            backend.run(permission.permit(platform.config, spec, on=platform.clock().date()))
    return _read(site, spec, asked, freeze.judged_by(pipeline)[0], in_pods(platform.config)).trial


def results(
    platform: Platform, pipeline: ModelPipeline, search: FrozenSearch, asked: Sequence[AskedTrial]
) -> list[Result]:
    """Return what the jobs of trials stored, by number. A trial without a usable one has failed.

    Raises the errors of `spec_of`, SiteError.
    """
    site, metric = platform.active_site(pipeline.classification), freeze.judged_by(pipeline)[0]
    ordered = sorted(asked, key=lambda each: each.number)
    if len({each.number for each in ordered}) < len(ordered):
        raise IntegrityError(
            f"go on with search {search.search} of {pipeline.name}: two trials have the same number",
            "Look in Airflow's audit log for who changed the XCom of a task `ask`. Then trigger "
            f"search_{pipeline.name}.",
        )
    specs = [spec_of(platform, pipeline, search, each) for each in ordered]
    pods = in_pods(platform.config)
    return [_read(site, spec, each, metric, pods) for spec, each in zip(specs, ordered, strict=True)]


def in_pods(config: Config) -> bool:
    return config.training.backend == "kubernetes"


def gpu_hours(config: Config, pipeline: ModelPipeline, done: Sequence[Result]) -> list[float]:
    """Return the GPU hours of each trial; 0 on this machine."""
    gpus = request_of(config, pipeline).all_gpus if in_pods(config) else 0
    return [each.trial.seconds * gpus / 3600 for each in done]


def _read(site: Site, spec: JobSpec, asked: AskedTrial, metric: str, pods: bool) -> Result:
    record, result = Record(site, spec), None
    try:
        result = record.result()
        if result is not None:
            measured.check_told(spec, result)
    except (TrainingError, IntegrityError) as error:
        logger.warning("trial %d counts as failed: %s", asked.number, error.what)
        result = None
    ran = list(_attempts(record)) if pods else []
    place = next((str(each["pool"]) for each in reversed(ran)), "local" if result or not pods else "")
    seconds = sum(float(each.get("seconds") or 0.0) for each in ran)
    known: dict[str, Any] = {
        "number": asked.number,
        "generation": asked.generation,
        "params": dict(asked.params),
        "job": spec.job_id,
    }
    name = f"{VALIDATED}{metric}"
    if result is None or result.validation is None or name not in result.metrics:
        return Result(Trial(**known, state="failed", value=None, seconds=seconds, run=None, place=place), spec, None)
    stopped = result.validation.stopped_at is not None
    trial = Trial(
        **known,
        state="pruned" if stopped else "complete",
        value=result.metrics[name],
        seconds=seconds if pods and seconds else round(sum(result.seconds.values()), 3),
        run=result.run_id,
        place=place,
    )
    return Result(trial, spec, result, result.validation.curve)


def _attempts(record: Record) -> Iterator[Mapping[str, Any]]:
    """Yield where each attempt of a job ran that was admitted to a node, and how long."""
    for attempt in record.attempts():
        if (ran := record.ended(attempt.number)) is not None:
            yield ran
