"""Removes a pipeline's models from MLflow: the registered model with its aliases, and the experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.models.tracking import session
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Registered:
    """What MLflow has of a pipeline: versions of its model by number, and whether it has an active experiment."""

    versions: tuple[str, ...] = ()
    model: bool = False
    experiment: bool = False


def registered(tracking: Connection, name: str) -> Registered:
    """Return what MLflow has of a pipeline. Raises TrackingUnavailable, TrackingRefused."""
    with session(tracking, f"look up model {name} and its experiment") as client:
        versions, token = list[str](), None
        while True:
            page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
            versions += [str(version.version) for version in page]
            if not (token := page.token):
                break
        found = client.get_experiment_by_name(name)
        active = found is not None and found.lifecycle_stage == "active"
        return Registered(tuple(sorted(versions, key=int)), _has_model(client, name), active)


def remove(tracking: Connection, name: str, removal: str) -> None:
    """Delete the registered model; rename the experiment, so that its name is free, and mark it as deleted.

    `removal` makes the new name unique. MLflow keeps a deleted experiment's runs and files until `mlflow gc`. Safe to
    repeat. Raises TrackingUnavailable, TrackingRefused.
    """
    with session(tracking, f"remove model {name} and its experiment") as client:
        if _has_model(client, name):
            client.delete_registered_model(name)
        gone = f"{name} (removed, {removal})"
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":  # somebody deleted it, and its name is taken until it is renamed
                client.restore_experiment(found.experiment_id)
            client.rename_experiment(found.experiment_id, gone)
        renamed = client.get_experiment_by_name(gone)
        if renamed is not None and renamed.lifecycle_stage == "active":
            client.delete_experiment(renamed.experiment_id)


def _has_model(client: MlflowClient, name: str) -> bool:
    return bool(client.search_registered_models(filter_string=f"name = '{name}'", max_results=1))
