"""Removes a pipeline's models from MLflow: one version, or the registered model with its aliases and the experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rempart.errors import ModelRefused
from rempart.models.registry import TAG
from rempart.models.tracking import session
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from mlflow import MlflowClient

_GONE, _IN_BIN = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
"""Codes of MLflow's errors: there is no such thing, and somebody deleted the run."""


@dataclass(frozen=True)
class Registered:
    """What MLflow has of a pipeline: versions of its model by number, and whether it has an active experiment."""

    versions: tuple[str, ...] = ()
    model: bool = False
    experiment: bool = False
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The aliases of each version that has some."""


def registered(tracking: Connection, name: str) -> Registered:
    """Return what MLflow has of a pipeline. Raises TrackingUnavailable, TrackingRefused."""
    with session(tracking, f"look up model {name} and its experiment") as client:
        versions, aliases, token = list[str](), dict[str, tuple[str, ...]](), None
        while True:
            page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
            versions += [str(version.version) for version in page]
            if not (token := page.token):
                break
        found = client.get_experiment_by_name(name)
        active = found is not None and found.lifecycle_stage == "active"
        models = client.search_registered_models(filter_string=f"name = '{name}'", max_results=1)
        for alias, version in sorted((alias, str(at)) for model in models for alias, at in dict(model.aliases).items()):
            aliases[version] = (*aliases.get(version, ()), alias)
        return Registered(tuple(sorted(versions, key=int)), bool(models), active, aliases)


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


def folders(tracking: Connection, model_id: str, run_id: str) -> tuple[str, ...]:
    """Return the folders of a logged model and of its run below MLflow's artifact root; without what is gone.

    Raises ModelRefused if a folder is not the model's or the run's own; TrackingUnavailable, TrackingRefused.
    """
    from mlflow.exceptions import MlflowException

    def known(ask: Callable[[], str]) -> str:
        try:
            return ask()
        except MlflowException as cause:
            if cause.error_code == _GONE:
                return ""
            raise

    with session(tracking, f"look up the files of model {model_id}") as client:
        located = {
            model_id: known(lambda: str(client.get_logged_model(model_id).artifact_location)),
            run_id: known(lambda: str(client.get_run(run_id).info.artifact_uri)),
        }
    found = list[str]()
    for name, location in located.items():
        if not location:
            continue
        parts = urlsplit(location)
        folder = f"{parts.path.strip('/')}/"
        if parts.scheme != "mlflow-artifacts" or name not in folder.split("/") or ".." in folder.split("/"):
            raise ModelRefused(
                f"The files of {name} are at {location[:200]}, and not in a folder of its own below MLflow's artifact "
                "root",
                "`rempart status` lists such locations. Delete the files by hand, then the version in MLflow.",
            )
        found.append(folder)
    return tuple(found)


def remove_version(tracking: Connection, name: str, version: str, model_id: str, run_id: str, told: str) -> None:
    """Delete a version and its logged model; its run stays, with parameters and figures, and is tagged with `told`.

    MLflow never gives the number to another version. Safe to repeat. Raises TrackingUnavailable, TrackingRefused.
    """
    with session(tracking, f"retire version {version} of model {name}") as client:
        _attempt(lambda: client.delete_model_version(name, version), _GONE)
        _attempt(lambda: client.delete_logged_model(model_id), _GONE)
        _attempt(lambda: client.set_tag(run_id, f"{TAG}retired", told), _GONE, _IN_BIN)


def models_of(tracking: Connection, run_id: str) -> tuple[str, ...]:
    """Return the ids of the models that a run logged; none if MLflow has no such run.

    Raises TrackingUnavailable, TrackingRefused.
    """
    from mlflow.exceptions import MlflowException

    with session(tracking, f"look up the models of run {run_id}") as client:
        try:
            logged = client.get_run(run_id).outputs
        except MlflowException as cause:
            if cause.error_code == _GONE:
                return ()
            raise
        return tuple(str(model.model_id) for model in logged.model_outputs) if logged is not None else ()


def remove_models(tracking: Connection, run_id: str, models: Iterable[str], told: str) -> None:
    """Delete the models that a run logged; the run stays, and is tagged with `told`. Safe to repeat.

    Raises TrackingUnavailable, TrackingRefused.
    """
    with session(tracking, f"delete the models of run {run_id}") as client:
        for model in models:
            _attempt(partial(client.delete_logged_model, model), _GONE)
        _attempt(lambda: client.set_tag(run_id, f"{TAG}retired", told), _GONE, _IN_BIN)


def _attempt(step: Callable[[], object], *done_before: str) -> None:
    """Take a step. An error of MLflow with one of these codes says that it was taken before."""
    from mlflow.exceptions import MlflowException

    try:
        step()
    except MlflowException as cause:
        if cause.error_code not in done_before:
            raise


def _has_model(client: MlflowClient, name: str) -> bool:
    return bool(client.search_registered_models(filter_string=f"name = '{name}'", max_results=1))
