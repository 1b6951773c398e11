"""The snapshots that are loaded in the feature store, of which a training set is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rempart.features.label_feed import LabelFeed
from rempart.features.used import sources
from rempart.settings.pipeline import ModelPipeline, Pipeline

if TYPE_CHECKING:
    from rempart.ingestion.snapshots import Snapshot


@dataclass(frozen=True)
class LoadedSnapshots:
    """Snapshots as they stand at the active site.

    `labels`: of the pipeline that delivers them, None before its first. `used`: of each pipeline whose views are used.
    """

    rows: Snapshot
    feed: LabelFeed | None = None
    labels: Snapshot | None = None
    used: Mapping[str, Snapshot] = field(default_factory=dict)

    def pipelines(self, pipeline: ModelPipeline) -> list[Pipeline]:
        """Return the pipelines of which there are snapshots."""
        return [pipeline, *([self.feed.source] if self.feed else []), *sources.sources(pipeline).values()]

    @property
    def count(self) -> int:
        """Return the number of rows of all snapshots."""
        labels = self.labels.rows if self.labels else 0
        return self.rows.rows + labels + sum(snapshot.rows for snapshot in self.used.values())
