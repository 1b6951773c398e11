"""Define the tasks of a search: generations of mapped trials, then the choice, then the candidate's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, task

from rempart.errors import TrainingError
from rempart.orchestration import pages, runtime
from rempart.orchestration.links import linked
from rempart.orchestration.training.training import operator_for, published
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Training


def search_tasks(pipeline: ModelPipeline, candidate: Asset, training: Training) -> None:
    """Add the tasks of a pipeline's search to the DAG that is being defined.

    A generation follows when each trial before it has ended, whether it succeeded or failed. So its task `ask` runs in
    any case, and reads from the site what the trials stored.
    """
    if (wanted := pipeline.trainer.search) is None:
        return
    name, in_pods = pipeline.name, training.backend == "kubernetes"

    @task
    def freeze() -> dict[str, Any]:
        from rempart.flows.search import freeze

        return runtime.as_json(freeze.freeze(runtime.platform(), runtime.model_pipeline(name)))

    @task
    def ask(search: Any, earlier: Any, generation: int) -> list[dict[str, Any]]:
        from rempart.flows.search import trials

        platform, of, begun = runtime.platform(), runtime.model_pipeline(name), _begun(search)
        asked = trials.ask(platform, of, begun, _asked(earlier), generation)
        if in_pods:
            return [trials.placed(platform, of, begun, each) for each in asked]
        return [runtime.as_json(each) for each in asked]

    @task
    def trial(search: Any, asked: Any) -> dict[str, Any]:
        from rempart.flows.search import trials

        (single,) = _asked([[asked]])
        return runtime.as_json(trials.run(runtime.platform(), runtime.model_pipeline(name), _begun(search), single))

    @task(trigger_rule="all_done")
    def choose(search: Any, asked: Any) -> dict[str, Any]:
        from rempart.flows.search import choose

        platform, of = runtime.platform(), runtime.model_pipeline(name)
        unasked = [number for number, each in enumerate(asked, 1) if each is None]
        return runtime.as_json(choose.choose(platform, of, _begun(search), _asked(asked), unasked))

    search = freeze()
    earlier: list[Any] = []
    before: Any = None
    for generation in range(1, wanted.generations + 1):
        rule = "all_done" if earlier else "all_success"
        asked = ask.override(task_id=f"ask_{generation}", trigger_rule=rule)(search, list(earlier), generation)
        if before is not None:
            before >> asked
        task_id = f"trial_{generation}"
        if in_pods:
            before = _in_pods(pipeline, task_id, asked, training)
        else:
            before = trial.override(task_id=task_id).partial(search=search).expand(asked=asked)
        earlier.append(asked)
    chosen = choose(search, earlier)
    before >> chosen
    if in_pods:
        _candidate_in_pods(pipeline, candidate, training, search, chosen)
    else:
        _candidate_here(pipeline, candidate, search, chosen)


def _in_pods(pipeline: ModelPipeline, task_id: str, orders: Any, training: Training) -> Any:
    from rempart.orchestration.training.trial_pod import TrialPodOperator, clusters_of

    limit = training.deadline + pipeline.trainer.timeout
    mapped = TrialPodOperator.partial(
        task_id=task_id, pipeline=pipeline.name, execution_timeout=limit, **clusters_of(pipeline)
    )
    return mapped.expand(order=orders)


def _candidate_here(pipeline: ModelPipeline, candidate: Asset, search: Any, chosen: Any) -> None:
    name = pipeline.name

    @task(outlets=[candidate])
    def train(search: Any, chosen: Any, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.search import choose

        platform, of = runtime.platform(), runtime.model_pipeline(name)
        trained = choose.train_found(platform, of, _begun(search), chosen["params"])
        return published(candidate, outlet_events, trained, name, None)

    linked(train(search, chosen), pages.MLFLOW_RUN, pages.PLACEMENT)


def _candidate_in_pods(pipeline: ModelPipeline, candidate: Asset, training: Training, search: Any, chosen: Any) -> None:
    name = pipeline.name

    @task
    def order(search: Any, chosen: Any) -> dict[str, Any]:
        from rempart.flows.search import choose

        platform, of = runtime.platform(), runtime.model_pipeline(name)
        return runtime.as_json(choose.place_found(platform, of, _begun(search), chosen["params"]))

    @task(outlets=[candidate])
    def train(search: Any, chosen: Any, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.search import choose

        platform, of = runtime.platform(), runtime.model_pipeline(name)
        result = choose.finish_found(platform, of, _begun(search), chosen["params"])
        return published(candidate, outlet_events, result, name, None)

    ordered = order(search, chosen)
    limit = training.deadline + pipeline.trainer.timeout
    run = operator_for(pipeline)(task_id="run", pipeline=pipeline, order=ordered, execution_timeout=limit)
    linked(run, pages.PLACEMENT) >> linked(train(search, chosen), pages.MLFLOW_RUN, pages.PLACEMENT)


def _begun(search: Mapping[str, Any] | None) -> Any:
    """Return the search that `freeze` began. Raises TrainingError if that task failed."""
    from rempart.flows.search.freeze import FrozenSearch

    if search is None:
        raise TrainingError(
            "go on with the search: the task `freeze` stored no training set",
            "Read the log of `freeze`. Correct the cause, then clear `freeze` with the tasks after it.",
        )
    return FrozenSearch(**search)


def _asked(generations: Sequence[Sequence[Mapping[str, Any]] | None]) -> list[Any]:
    """Return the trials of some generations; a task that failed asked for none."""
    from rempart.flows.search.trials import AskedTrial

    return [AskedTrial.of(each) for generation in generations for each in generation or ()]
