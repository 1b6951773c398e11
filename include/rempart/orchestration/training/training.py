"""Add the tasks of a training: in one process on Airflow's machine, or ordered, run in a pool's pod, and registered.

rempart.yaml alone chooses the backend. In both cases the task `train` returns the registered candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, task

from rempart.orchestration import assets, pages, runtime
from rempart.orchestration.links import linked
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Training

if TYPE_CHECKING:
    from rempart.flows.training.train import TrainResult


def training_tasks(pipeline: ModelPipeline, candidate: Asset, training: Training) -> None:
    """Add the tasks of a pipeline's training to the DAG that is being defined."""
    if training.backend == "kubernetes":
        _in_pods(pipeline, candidate, training)
    else:
        _on_this_machine(pipeline, candidate)


def _decided(pipeline: ModelPipeline) -> Any:
    """Add the task that decides whether a run trains that an asset started; None where each run trains."""
    name = pipeline.name
    if not pipeline.retrain.decides:
        return None

    @task
    def decide_training(triggering_asset_events: Any = None) -> dict[str, Any]:
        from rempart.flows.monitoring.retrain import decide

        updated = {asset.name for asset in triggering_asset_events or ()}
        kinds = {"drift": assets.drift(name).name, "features": assets.features(name).name}
        started_by = [kind for kind, asset in kinds.items() if asset in updated]
        return runtime.as_json(decide(runtime.platform(), runtime.model_pipeline(name), started_by=started_by))

    return decide_training()


def _on_this_machine(pipeline: ModelPipeline, candidate: Asset) -> None:
    name = pipeline.name

    @task(outlets=[candidate])
    def train(decided: Any, params: Any = None, dag_run: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.training.train import train

        verdict = runtime.cause(decided)
        with runtime.waits(dag_run):
            trained = train(
                runtime.platform(), runtime.model_pipeline(name), params=params["trainer_params"], verdict=verdict
            )
        return published(candidate, outlet_events, trained, name, verdict)

    linked(train(_decided(pipeline)), pages.MLFLOW_RUN, pages.PLACEMENT)


def _in_pods(pipeline: ModelPipeline, candidate: Asset, training: Training) -> None:
    name = pipeline.name

    @task
    def order(decided: Any, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.training.pod_job import order

        runtime.cause(decided)
        with runtime.waits(dag_run):
            placed = order(runtime.platform(), runtime.model_pipeline(name), params=params["trainer_params"])
        return runtime.as_json(placed)

    @task(outlets=[candidate])
    def train(ordered: Any, decided: Any, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.training.pod_job import finish

        of, verdict = runtime.model_pipeline(name), runtime.cause(decided)
        result = finish(runtime.platform(), of, ordered["bucket"], ordered["key"], verdict=verdict)
        return published(candidate, outlet_events, result, name, verdict)

    decided = _decided(pipeline)
    ordered = order(decided)
    limit = training.deadline + pipeline.trainer.timeout
    run = operator_for(pipeline)(task_id="run", pipeline=pipeline, order=ordered, execution_timeout=limit)
    linked(run, pages.PLACEMENT) >> linked(train(ordered, decided), pages.MLFLOW_RUN, pages.PLACEMENT)


def published(
    candidate: Asset, outlet_events: Any, result: TrainResult, name: str, verdict: int | None
) -> dict[str, Any]:
    """Name the candidate in the asset's event, and on record as the one that a verdict started."""
    from rempart.flows.monitoring.retrain import trained

    if verdict is not None:
        trained(runtime.platform(), name, verdict, result.version)
    outlet_events[candidate].extra = {"version": result.version}
    return runtime.as_json(result)


def operator_for(pipeline: ModelPipeline) -> Any:
    """Return the operator class of a pipeline's jobs.

    Imported only where pods run: it doubles the time to read a DAG file.
    """
    if pipeline.trainer.nodes > 1:
        from rempart.orchestration.training.train_job import TrainJobOperator

        return TrainJobOperator
    from rempart.orchestration.training.training_pod import TrainingPodOperator

    return TrainingPodOperator
