"""Check a pipeline as a whole before any run: what policy, feature store, trainer and expectations would refuse.

The pipeline file validates itself when read; this module holds the checks that need the packages. It reads only the
pipeline's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rempart.errors import ConfigError, PipelineError, PlacementDenied, RempartError, SparkError
from rempart.features.label_feed import feed_of, target_column
from rempart.features.plan import view_tables
from rempart.ingestion import expectations
from rempart.ingestion.derived import inputs
from rempart.models.encoding import features_of
from rempart.settings import config as configuration
from rempart.settings import pipelines
from rempart.settings.champions import retraining
from rempart.settings.config import Config
from rempart.settings.evaluation import splits
from rempart.settings.pipeline import Expectation, ModelPipeline, Pipeline
from rempart.settings.schema import read_yaml
from rempart.sovereignty.dag_rules import pipeline_violations
from rempart.sovereignty.places import in_use
from rempart.sovereignty.sources import decide_source
from rempart.spark import environment
from rempart.training.search import space
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    from rempart.training.job import Param


def check_trainer(pipeline: ModelPipeline, params: Mapping[str, Param] | None = None) -> dict[str, Param]:
    """Return the trainer's parameters, with `params` over those of the pipeline.

    Raises TrainingError for a wrong one.
    """
    merged: dict[str, Param] = {**pipeline.trainer.params, **(params or {})}
    seen, rest = trainers.left_out(features_of(pipeline), merged)
    task = pipeline.prediction.task
    trainers.check(pipeline.trainer.use, rest, task, pipeline.trainer.nodes, seen, _classes(pipeline))
    return merged


def check_search(pipeline: ModelPipeline) -> None:
    """Check the ranges of `trainer.search` against the trainer's parameters. Raises TrainingError."""
    if pipeline.trainer.search is None:
        return
    found = space.space_of(pipeline.trainer.search, pipeline.trainer.use, pipeline.prediction.task)
    for params in space.corners(found):
        check_trainer(pipeline, params)


def _classes(pipeline: ModelPipeline) -> int:
    """Return the number of the target's classes; 0 for a regression, and where `feed_of` refuses the target."""
    if pipeline.prediction.task == "regression":
        return 0
    with suppress(PipelineError):
        return len(target_column(pipeline).values or (False, True))
    return 0


def check_retraining(pipeline: ModelPipeline) -> None:
    """Check that a training that drift starts can learn what has changed. Raises PipelineError."""
    if found := list(retraining.faults(pipeline.retrain, pipeline.holdout)):
        raise PipelineError("; ".join(found), "Hold out the last days instead: `holdout: {column: ..., last: 90d}`.")


def trainer_of(pipeline: Pipeline) -> str | None:
    """Return the trainer of another package that a pipeline uses, with package and version; None of any other."""
    use = pipeline.trainer.use if isinstance(pipeline, ModelPipeline) else ""
    package = trainers.package_of(use)
    return None if package is None else f"{use}, of package {package}"


def warnings(pipeline: Pipeline) -> list[str]:
    """Return what is allowed in a pipeline file, and may surprise."""
    if not isinstance(pipeline, ModelPipeline):
        return []
    about_parts = splits.warnings(pipeline.holdout, pipeline.validation, pipeline.trainer.params)
    return [*retraining.warnings(pipeline.retrain, pipeline.gate), *about_parts, *_idle_gpus(pipeline)]


def _idle_gpus(pipeline: ModelPipeline) -> list[str]:
    """Return that a built-in trainer cannot use the GPUs that its pipeline asks and pays for."""
    use, gpus = pipeline.trainer.use, pipeline.trainer.gpus or 0
    trainer = trainers.BUILT_IN.get(use)
    if trainer is None or trainer.shares_work:
        return []
    usable = 1 if "device" in trainer.schema(pipeline.prediction.task) else 0
    if gpus <= usable:
        return []
    return [f"trainer.gpus is {gpus}, but {use} uses {usable or 'no'} GPU: the contract charges all of them"]


def check_origin(config: Config, pipeline: Pipeline, *, on: date) -> None:
    """Check that the policy lets the pipeline read from its source on this day. Raises PlacementDenied."""
    decision = decide_source(config, pipeline.classification, pipeline.source, on=on)
    if decision is not None and not decision.allowed:
        refusal = decision.refusal()
        raise PlacementDenied(f"include/pipelines/{pipeline.name}.yaml: source: {refusal.what}", refusal.hint)


def check_places(config: Config, pipeline: Pipeline, *, on: date) -> None:
    """Check that the policy lets data of the pipeline's classification be where the platform keeps data on this day.

    One pipeline whose data may not be there stops what all pipelines share. Raises PlacementDenied.
    """
    decisions = in_use(config, [pipeline.classification], on=on)
    if refusals := [decision.refusal() for decision in decisions if not decision.allowed]:
        where = f"include/pipelines/{pipeline.name}.yaml: classification: "
        told, hints = (list(dict.fromkeys(texts)) for texts in zip(*((r.what, r.hint) for r in refusals), strict=True))
        raise PlacementDenied("\n".join(where + what for what in told), " / ".join(hints))


def check_approval(config: Config, pipeline: Pipeline) -> None:
    """Check that Airflow tells people apart, if one of them must not approve the own model. Raises PipelineError."""
    rule = pipeline.gate.approval if isinstance(pipeline, ModelPipeline) else None
    if config.access.auth_manager == "simple" and rule and (rule.four_eyes or isinstance(rule.by, list)):
        raise PipelineError(
            f"include/pipelines/{pipeline.name}.yaml: gate.approval: with `access.auth_manager: simple` everybody is "
            "the platform's admin, so nobody can approve in another's place or be told apart",
            "Set `access.auth_manager: fab` in rempart.yaml, or `approval: {by: admin, four_eyes: false}`.",
        )


def load(name: str) -> Pipeline:
    """Return a pipeline of the project. Raises PipelineError with the faults of its file, those of its rules included.

    `check` finds what else is wrong with a file that can be read.
    """
    try:
        return pipelines.named(name)
    except PipelineError as error:
        rules = _rule_faults(name) if name in pipelines.names() else []
        if not rules:
            raise
        file = pipelines.pipelines_dir() / f"{name}.yaml"
        told = [error.what, *(f"{file}: {fault.what}" for fault in rules)]
        raise PipelineError("\n".join(told), _together([error, *rules])) from error


def _rule_faults(name: str) -> list[PipelineError]:
    """Return what is wrong with the rules of a file that is not valid, as far as it can be read."""
    try:
        entries = read_yaml(pipelines.pipelines_dir() / f"{name}.yaml").get("expectations")
    except ConfigError:
        return []
    rules = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        with suppress(ValidationError):  # the file's own faults name it
            rules[index] = Expectation.model_validate(entry)
    return expectations.faults(rules)


def _together(errors: Sequence[RempartError]) -> str:
    return " / ".join(dict.fromkeys(error.hint for error in errors))


def check(pipeline: Pipeline, *, thorough: bool = True, settings: Config | None = None) -> None:
    """Check the pipeline.

    Raises PipelineError with every fault. Without `thorough`, skip Great Expectations and the SQL of a derived pipeline
    (slow imports). `settings`: by default rempart.yaml, read if the pipeline needs it.
    """
    steps: list[Callable[[], object]] = [partial(inputs.check, pipeline, thorough=thorough)]
    if isinstance(pipeline, ModelPipeline):
        checks: tuple[Callable[[ModelPipeline], object], ...] = (
            view_tables,
            check_trainer,
            check_search,
            feed_of,
            check_retraining,
        )
        steps = [*(partial(step, pipeline) for step in checks), *steps]
    if pipeline.engine == "spark":
        steps.append(partial(_has_place_for_spark, pipeline, settings))
        if thorough:
            from rempart.flows.distributed import derive

            steps.append(partial(derive.check, pipeline))
    found: list[RempartError] = []
    for step in steps:
        try:
            step()
        except RempartError as error:
            found.append(error)
    found += expectations.faults(dict(enumerate(pipeline.expectations)), thorough=thorough)
    if found:
        where = f"include/pipelines/{pipeline.name}.yaml"
        told = dict.fromkeys(f"{where}: {error.what}" for error in found)
        raise PipelineError("\n".join(told), _together(found))


def _has_place_for_spark(pipeline: Pipeline, settings: Config | None) -> None:
    """Check that Spark jobs of the pipeline can run: in the environment of this machine, or in a pool.

    Raises SparkError.
    """
    known = settings or configuration.load()
    if known.spark.backend == "local":
        environment.python()
        return
    from rempart.flows.distributed.pods import allowed_places

    places, reasons = allowed_places(known, pipeline.classification, known.active_site, datetime.now(UTC).date())
    if not places:
        raise SparkError(
            f"engine: spark: no pool may run its jobs: {'; '.join(reasons)}",
            "Declare a pool that the policy allows and `job_credentials` of the site, or set `engine: duckdb`: "
            "docs/how-to/outgrow-the-machine.md.",
        )


_judgements: dict[str, tuple[tuple[Pipeline, Config, date], PipelineError | None]] = {}
"""By pipeline: what was judged, and its fault. Each stage's DAG and the cockpit ask again for the same."""


def fault_of(pipeline: Pipeline, config: Config, on: date) -> PipelineError | None:
    """Return why a pipeline cannot run, although its file is valid: the policy, or what `check` finds at once.

    It is judged again if its file, the configuration or the day has changed.
    """
    facts = (pipeline, config, on)
    known = _judgements.get(pipeline.name)
    if known is None or known[0] != facts or _rests_on_more(pipeline):
        fault = _not_allowed(pipeline, config, on) or _without_people(pipeline, config) or _cannot_run(pipeline, config)
        known = _judgements[pipeline.name] = (facts, fault)
    return known[1]


def _rests_on_more(pipeline: Pipeline) -> bool:
    """Return whether a check reads what may have changed: files of other pipelines, or the environment of Spark."""
    labelled = isinstance(pipeline, ModelPipeline) and pipeline.prediction.from_ is not None
    return labelled or pipeline.source.kind == "derived" or pipeline.engine == "spark"


def _not_allowed(pipeline: Pipeline, config: Config, on: date) -> PipelineError | None:
    violations = pipeline_violations(config, pipeline.classification, on=on)
    if not violations:
        return None
    lines = "".join(f"\n[{violation.rule}] {violation.what}" for violation in violations)
    return PipelineError(
        f"build the DAGs of include/pipelines/{pipeline.name}.yaml: the policy does not allow its data at their "
        f"places:{lines}",
        " / ".join(dict.fromkeys(violation.remedy for violation in violations)),
    )


def _without_people(pipeline: Pipeline, config: Config) -> PipelineError | None:
    try:
        check_approval(config, pipeline)
    except PipelineError as fault:
        return fault
    return None


def _cannot_run(pipeline: Pipeline, config: Config) -> PipelineError | None:
    try:
        check(pipeline, thorough=False, settings=config)
    except PipelineError as fault:
        return fault
    return None
