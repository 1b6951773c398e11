"""The feature store: Feast with a PostgreSQL registry, offline store and online store, built from the pipeline file."""

from __future__ import annotations

from rempart.features.databases import FeatureDatabases
from rempart.features.online import online_rows

__all__ = ["FeatureDatabases", "online_rows"]
