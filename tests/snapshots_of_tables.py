"""Snapshots of tables in memory, as ingestion draws them up."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rempart.ingestion.content import growth
from rempart.ingestion.content.growth import KnownRows
from rempart.ingestion.engine import parts
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.snapshots import Part, Snapshot
from rempart.settings.pipeline import Pipeline

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Drawing:
    """Draws up one snapshot after the other in a folder, from new rows only."""

    def __init__(self, pipeline: Pipeline, folder: Path, **limits: Any) -> None:
        self.pipeline, self.folder, self.limits = pipeline, folder, limits
        self.resources = Resources(200 << 20, 1, folder / "spill")
        self.files: dict[str, Path] = {}
        self._number = itertools.count()

    def add(self, before: Snapshot | None, new: pa.Table) -> tuple[Snapshot, list[tuple[Part, Path]]]:
        """Return the snapshot of the rows of `before` and of new ones, and its parts that `before` lacks."""
        place = self.folder / f"drawn-{next(self._number)}"
        place.mkdir()
        pq.write_table(new, place / "new")
        columns, key = snapshot_columns(self.pipeline), self.pipeline.key
        with opened(self.resources, [place]) as connection:
            written = parts.write(
                connection, parquet([place / "new"]), columns, key, parts.period_of(self.pipeline), place, most=1 << 20
            )
        known = KnownRows({part.sha256: self.files[part.sha256] for part in before.parts} if before else {})
        snapshot, added = growth.draw_up(
            self.pipeline,
            before,
            known,
            written,
            folder=place,
            resources=self.resources,
            now=NOW,
            retain_until=date(2027, 1, 1),
            **self.limits,
        )
        self.files |= {part.sha256: file for part, file in added}
        return snapshot, added
