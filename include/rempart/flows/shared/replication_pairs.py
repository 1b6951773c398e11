"""Replication pairs as rempart.yaml declares them: buckets and direction."""

from __future__ import annotations

from rempart.coordination.active import Active
from rempart.errors import ConfigError, FailoverError
from rempart.settings.config import Config
from rempart.settings.sections import ReplicationPair

BUCKETS = ("lake", "artifacts")
"""Logical names of the buckets that are the same at every site."""


def physical_bucket(config: Config, logical: str) -> str:
    """Return the bucket's name, which is the same at every site."""
    return str(getattr(config.buckets, logical))


def pair_of(config: Config, source: str, target: str) -> ReplicationPair:
    """Return the declared pair. Raises ConfigError."""
    for pair in config.replication:
        if (pair.source, pair.target) == (source, target):
            return pair
    declared = ", ".join(f"{pair.source} -> {pair.target}" for pair in config.replication) or "none"
    raise ConfigError(
        f"Replication pair {source} -> {target} is not declared (declared: {declared})",
        "Add it to `replication` in rempart.yaml.",
    )


def check_direction(active: Active, source: str) -> None:
    """Check that the source is the active site, so that older data never replaces newer data.

    Raises FailoverError.
    """
    if active.site != source:
        raise FailoverError(
            f"Site '{source}' is not the active site; '{active.site}' is (generation {active.generation})",
            "Run `rempart site failback` to copy the newer data back; then this pair replicates again. Nothing was "
            "copied.",
        )
