"""Add the tasks of a training: in one process on Airflow's machine, or ordered, run in a pool's pod, and registered.

rempart.yaml alone chooses the backend. In both cases the task `train` returns the registered candidate.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, task

from rempart.orchestration import pages, runtime
from rempart.orchestration.links import linked
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Training


def training_tasks(pipeline: ModelPipeline, candidate: Asset, training: Training) -> None:
    """Add the tasks of a pipeline's training to the DAG that is being defined."""
    if training.backend == "kubernetes":
        _in_pods(pipeline, candidate, training)
    else:
        _on_this_machine(pipeline.name, candidate)


def _on_this_machine(name: str, candidate: Asset) -> None:
    @task(outlets=[candidate])
    def train(params: Any = None, dag_run: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.training.train import train

        with runtime.waits(dag_run):
            trained = train(runtime.platform(), runtime.model_pipeline(name), params=params["trainer_params"])
        result = runtime.as_json(trained)
        outlet_events[candidate].extra = {"version": result["version"]}
        return result

    linked(train(), pages.MLFLOW_RUN, pages.PLACEMENT)


def _in_pods(pipeline: ModelPipeline, candidate: Asset, training: Training) -> None:
    name = pipeline.name

    @task
    def order(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.training.pod_job import order

        with runtime.waits(dag_run):
            placed = order(runtime.platform(), runtime.model_pipeline(name), params=params["trainer_params"])
        return runtime.as_json(placed)

    @task(outlets=[candidate])
    def train(ordered: Any, outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.training.pod_job import finish

        result = finish(runtime.platform(), runtime.model_pipeline(name), ordered["bucket"], ordered["key"])
        outlet_events[candidate].extra = {"version": result.version}
        return runtime.as_json(result)

    ordered = order()
    limit = training.deadline + pipeline.trainer.timeout
    run = operator_for(pipeline)(task_id="run", pipeline=pipeline, order=ordered, execution_timeout=limit)
    linked(run, pages.PLACEMENT) >> linked(train(ordered), pages.MLFLOW_RUN, pages.PLACEMENT)


def operator_for(pipeline: ModelPipeline) -> Any:
    """Return the operator class of a pipeline's jobs.

    Imported only where pods run: it doubles the time to read a DAG file.
    """
    if pipeline.trainer.nodes > 1:
        from rempart.orchestration.training.train_job import TrainJobOperator

        return TrainJobOperator
    from rempart.orchestration.training.training_pod import TrainingPodOperator

    return TrainingPodOperator
