"""Reads the online store as a scorer does, by a connection for one read alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rempart.features.databases import FeatureDatabases
from rempart.features.online import reader
from rempart.settings.pipeline import ModelPipeline


def online_rows(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    view: str,
    keys: Sequence[Mapping[str, Any]],
    at: datetime | None = None,
) -> list[dict[str, Any]]:
    """Return what `ViewReader.read` returns."""
    with reader(databases, pipeline, view) as opened:
        return opened.read(keys, at)
