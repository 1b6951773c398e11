"""Keep a search as a run in MLflow: the parent of its trials' runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from rempart.models.registry import TAG
from rempart.models.tracking import session
from rempart.settings.config import Connection
from rempart.training.job import Param

PARENT = f"{TAG}search_run"
"""Tag of the parent: the id of its search."""
_MLFLOW_PARENT = "mlflow.parentRunId"


def parent(tracking: Connection, experiment: str, search: str, tags: Mapping[str, str]) -> str:
    """Return the id of a search's run, which is made if there is none. Raises TrackingUnavailable, TrackingRefused."""
    from mlflow.exceptions import MlflowException

    with session(tracking, f"open the run of search {search}") as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            with suppress(MlflowException):  # another task has just made it
                client.create_experiment(experiment)
            found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        known = client.search_runs([experiment_id], f"tags.`{PARENT}` = '{search}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        given = {**tags, PARENT: search, "mlflow.user": "rempart", "mlflow.source.type": "JOB"}
        run = client.create_run(experiment_id, tags=given, run_name=f"{experiment}-search-{search}")
        return str(run.info.run_id)


def tags_of_trial(search: str, parent_run: str, number: int) -> dict[str, str]:
    """Return the tags of a trial's run, which make it a child of the search's run."""
    return {_MLFLOW_PARENT: parent_run, f"{TAG}search": search, f"{TAG}trial": str(number)}


def finish(
    tracking: Connection, run_id: str, search: str, params: Mapping[str, Param], metrics: Mapping[str, float]
) -> None:
    """Log what a search found, and end its run. Safe to repeat. Raises TrackingUnavailable, TrackingRefused.

    MLflow refuses another value for a parameter that a run has. So the parameters are tags, which a search that went
    on for longer can replace.
    """
    with session(tracking, f"end the run of search {search}") as client:
        for name, value in params.items():
            client.set_tag(run_id, f"{TAG}best.{name}", str(value))
        for name, number in metrics.items():
            client.log_metric(run_id, name, number, step=0)
        client.set_terminated(run_id, "FINISHED")
