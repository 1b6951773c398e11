"""The assets that join the DAGs: each stage updates one and the next starts on it."""

from __future__ import annotations

from airflow.sdk import Asset


def _asset(kind: str, of: str) -> Asset:
    return Asset(name=f"{kind}_{of}", uri=f"rempart://{of}/{kind}", group="rempart")


def snapshot(pipeline: str) -> Asset:
    """A new snapshot of the pipeline's dataset."""
    return _asset("snapshot", pipeline)


def features(pipeline: str) -> Asset:
    """The feature store holds the newest snapshot."""
    return _asset("features", pipeline)


def candidate(pipeline: str) -> Asset:
    """A new candidate is registered."""
    return _asset("candidate", pipeline)


def champion(pipeline: str) -> Asset:
    """The champion alias moved."""
    return _asset("champion", pipeline)


def replica(source: str, target: str) -> Asset:
    """The target is as the source was, within the pair's objective for the lag; the event's extra says how far."""
    return _asset("replica", f"{source}_to_{target}")


def restore_point() -> Asset:
    """A new restore point is committed."""
    return _asset("restore_point", "platform")
