"""The model registry: candidates, the champion alias, and what a reader of MLflow's pages sees of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rempart.models.tracking import session
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
TAG = "rempart."
"""Prefix of a version's tags in addition to `stage`, `gate` and `gate_reasons`."""


def champion(tracking: Connection, name: str) -> str | None:
    """Return the champion's version. Raises TrackingUnavailable, TrackingRefused."""
    return _aliased(tracking, name, CHAMPION)


def champions(tracking: Connection) -> dict[str, str]:
    """Return the version with the alias `champion`, by model. Raises TrackingUnavailable, TrackingRefused."""
    with session(tracking, "look up every champion") as client:
        versions, token = dict[str, str](), None
        while True:
            page = client.search_registered_models(max_results=1000, page_token=token)
            versions |= {model.name: str(model.aliases[CHAMPION]) for model in page if CHAMPION in model.aliases}
            if not (token := page.token):
                return versions


def candidate(tracking: Connection, name: str) -> str | None:
    """Return the newest candidate's version. Raises TrackingUnavailable, TrackingRefused."""
    return _aliased(tracking, name, CANDIDATE)


def _aliased(tracking: Connection, name: str, alias: str) -> str | None:
    with session(tracking, f"look up {alias} of model {name}") as client:
        return _aliases(client, name).get(alias)


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    models = client.search_registered_models(filter_string=f"name = '{name}'", max_results=1)
    return {alias: str(version) for model in models for alias, version in dict(model.aliases).items()}


def contents(tracking: Connection) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[str, str, int]]]:
    """Return every experiment (id, creation time) and model version (name, version, creation time) of the server.

    Times are milliseconds since the epoch. Raises TrackingUnavailable, TrackingRefused.
    """
    from mlflow.entities import ViewType

    with session(tracking, "list the registry's models") as client:
        experiments, versions, token = set(), set(), None
        while True:
            page = client.search_experiments(view_type=ViewType.ALL, max_results=1000, page_token=token)
            experiments |= {(str(entry.experiment_id), int(entry.creation_time or 0)) for entry in page}
            if not (token := page.token):
                break
        while True:
            answer = client.search_model_versions(max_results=1000, page_token=token)
            versions |= {
                (version.name, str(version.version), int(version.creation_timestamp or 0)) for version in answer
            }
            if not (token := answer.token):
                return frozenset(experiments), frozenset(versions)


def register(
    tracking: Connection,
    name: str,
    description: str,
    *,
    job_id: str,
    run_id: str,
    model_id: str,
    tags: Mapping[str, str],
    usage: str = "",
) -> str:
    """Return the version of a job's model, made if missing; it gets the alias `candidate`.

    `usage`: description of the version, in Markdown.

    Raises TrackingUnavailable, TrackingRefused.
    """
    with session(tracking, f"register a version of model {name}") as client:
        if not client.search_registered_models(filter_string=f"name = '{name}'", max_results=1):
            client.create_registered_model(name, description=description)
        source = f"models:/{model_id}"
        query = f"name = '{name}' and tag.`{TAG}job_id` = '{job_id}'"
        known = [v for v in client.search_model_versions(query) if v.source == source]
        if known:
            version = str(known[0].version)
        else:
            all_tags = {"stage": CANDIDATE, f"{TAG}job_id": job_id, **{TAG + key: value for key, value in tags.items()}}
            created = client.create_model_version(
                name, source, run_id=run_id, tags=all_tags, model_id=model_id, description=usage
            )
            version = str(created.version)
        for key, value in tags.items():
            if key.startswith("placement."):  # the run says where it ran, too
                client.set_tag(run_id, TAG + key, value)
        client.set_registered_model_alias(name, CANDIDATE, version)
        return version


def promote(tracking: Connection, name: str, version: str, previous: str | None, reasons: tuple[str, ...]) -> None:
    """Move the alias `champion`; say on both versions what they are now. Safe to repeat."""
    with session(tracking, f"set version {version} of model {name} as champion") as client:
        client.set_registered_model_alias(name, CHAMPION, version)
        _tag(client, name, version, {"stage": "champion", "gate": "passed", "gate_reasons": _lines(reasons)})
        if previous and previous != version:
            _tag(client, name, previous, {"stage": "former champion"})


def remove_champion(tracking: Connection, name: str) -> None:
    """Take the alias `champion` away from a model that has no champion. Safe to repeat."""
    with session(tracking, f"remove the alias champion of model {name}") as client:
        client.delete_registered_model_alias(name, CHAMPION)


def await_approval(tracking: Connection, name: str, version: str, reasons: tuple[str, ...]) -> None:
    """Show on MLflow's pages that a version passed the gate and waits for a person. Safe to repeat."""
    with session(tracking, f"mark version {version} of model {name} as waiting for approval") as client:
        _tag(client, name, version, {"gate": "awaits approval", "gate_reasons": _lines(reasons)})


def refuse(tracking: Connection, name: str, version: str, reasons: tuple[str, ...]) -> None:
    """Keep a candidate unchanged, and show the gate's reasons on MLflow's pages. Safe to repeat."""
    with session(tracking, f"mark version {version} of model {name} as refused") as client:
        _tag(client, name, version, {"gate": "refused", "gate_reasons": _lines(reasons)})
        client.update_model_version(name, version, description="Refused by the gate: " + _lines(reasons))


def _lines(reasons: tuple[str, ...]) -> str:
    return "; ".join(reasons)[:4900]


def _tag(client: MlflowClient, name: str, version: str, tags: Mapping[str, Any]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, str(value))
