"""Define the assets that connect the DAGs: each stage updates one, and the next stage starts on it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from airflow.sdk import Asset, AssetAny


@lru_cache(maxsize=4096)  # several DAGs of a pipeline name it
def _asset(kind: str, of: str) -> Asset:
    return Asset(name=f"{kind}_{of}", uri=f"rempart://{of}/{kind}", group="rempart")


def snapshot(pipeline: str) -> Asset:
    """Return the asset for a new snapshot of the pipeline's data set."""
    return _asset("snapshot", pipeline)


def any_snapshot(pipelines: Iterable[str]) -> AssetAny:
    """Return the condition that one of these pipelines has a new snapshot."""
    return AssetAny(*map(snapshot, pipelines))


def features(pipeline: str) -> Asset:
    """Return the asset for a feature store that holds the newest snapshot."""
    return _asset("features", pipeline)


def inputs_of_features(pipeline: str, labels: str | None, sources: Iterable[str]) -> Asset | AssetAny:
    """Return the condition that what a pipeline's features are made of changed.

    That is its snapshot, that of the pipeline of its `labels`, or the features of `sources`, whose views it uses.
    """
    changed = [snapshot(pipeline), *([snapshot(labels)] if labels else []), *map(features, sources)]
    return AssetAny(*changed) if len(changed) > 1 else changed[0]


def inputs_of_training(pipeline: str, *, on_drift: bool) -> Asset | AssetAny:
    """Return the condition that a training may start: new features, or also a red verdict on the champion."""
    return AssetAny(features(pipeline), drift(pipeline)) if on_drift else features(pipeline)


def candidate(pipeline: str) -> Asset:
    """Return the asset for a newly registered candidate."""
    return _asset("candidate", pipeline)


def champion(pipeline: str) -> Asset:
    """Return the asset for a moved champion alias."""
    return _asset("champion", pipeline)


def predictions(pipeline: str) -> Asset:
    """Return the asset for new predictions of the pipeline's champion in the lake."""
    return _asset("predictions", pipeline)


def drift(pipeline: str) -> Asset:
    """Return the asset for a red verdict on a champion. The event's extra holds its version and the reasons."""
    return _asset("drift", pipeline)


def replica(source: str, target: str) -> Asset:
    """Return the asset for a target that equals its source within the lag objective.

    The event's extra holds the lag.
    """
    return _asset("replica", f"{source}_to_{target}")


def restore_point() -> Asset:
    """Return the asset for a new committed restore point."""
    return _asset("restore_point", "platform")
