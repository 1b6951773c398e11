"""Run the trials of a search in pods: the operator of training pods, as a mapped task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rempart.orchestration import runtime
from rempart.orchestration.policies.enforcement import today
from rempart.orchestration.training.training_pod import TrainingPodOperator
from rempart.settings.config import load
from rempart.settings.pipeline import ModelPipeline
from rempart.training.placement import plan, request_of


class TrialPodOperator(TrainingPodOperator):
    """Run one trial's job on one node. Return where it ran.

    Airflow stores the arguments of a mapped task with the DAG, so `pipeline` is a name. The policy judges a mapped
    task by its arguments when the DAG is read. So they name every cluster that may be asked and the first one's image,
    although each attempt takes those of its own pool.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        order: Any,
        kubernetes_conn_id: str | None = None,
        kubernetes_conn_ids: Sequence[str] = (),
        image: str | None = None,
        **provided: Any,
    ) -> None:
        super().__init__(pipeline=runtime.model_pipeline(pipeline), order=order, **provided)


def clusters_of(pipeline: ModelPipeline) -> dict[str, Any]:
    """Return the arguments that name the clusters of a pipeline's jobs. Without an allowed pool they name none."""
    settings = load()
    options = plan(settings, request_of(settings, pipeline), on=today()).options
    clusters = list(dict.fromkeys(option.connection for option in options))
    if not options:
        return {"kubernetes_conn_id": None, "kubernetes_conn_ids": [], "image": None}
    return {"kubernetes_conn_id": clusters[0], "kubernetes_conn_ids": clusters, "image": options[0].image}
