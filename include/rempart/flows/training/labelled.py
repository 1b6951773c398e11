"""Read the labels that another pipeline delivers, and leave out those that a training could not have known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from rempart.coordination.active import Active
from rempart.errors import FeatureError
from rempart.features import labels
from rempart.features.label_feed import LabelFeed, feed_of
from rempart.features.labels import Received
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ledger.port import Ledger
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.sites.port import Site

ALL = 100_000
"""More records than a ledger holds of label pipelines: one for each change of `prediction.from`."""


@dataclass(frozen=True)
class Delivered:
    """The current snapshot of a label pipeline: its id (None before the first), rows, and the time it was written."""

    feed: LabelFeed
    table: pa.Table
    snapshot: str | None
    as_of: datetime
    removal: int

    def received(self, platform: Platform) -> Received:
        """Return the labels without those that were erased. Call it inside `Platform.committing`.

        Raises PipelineError if the label pipeline was reset meanwhile, BackupError.
        """
        source = self.feed.source
        removals.check_same(platform.ledger, source.name, self.removal)
        rows = self.table.to_reader()
        left = erasures.without_erased(platform.ledger, source, rows, erasures.secrets_of(platform))
        return Received(self.feed, left.read_all(), self.snapshot, self.as_of)

    def as_received(self) -> Received:
        """Return the labels as the snapshot has them. Of a snapshot after an erasure these are without erased ones."""
        return Received(self.feed, self.table, self.snapshot, self.as_of)


def delivered(platform: Platform, pipeline: ModelPipeline, active: Active) -> Delivered | None:
    """Return the labels that are delivered by another pipeline by now, or None if the target is in the own rows.

    Raises PipelineError, FeatureError if the snapshot lacks a column, SiteError, IntegrityError, PlacementDenied.
    """
    if (feed := feed_of(pipeline)) is None:
        return None
    source, bucket = feed.source, platform.config.buckets.lake
    record(platform.ledger, pipeline, feed)
    removal = removals.check_open(platform.ledger, source.name)
    return current(platform.active_site(pipeline.classification, active), bucket, feed, removal, platform.clock())


def current(site: Site, bucket: str, feed: LabelFeed, removal: int, now: datetime) -> Delivered:
    """Return the labels in the current snapshot at a site. Raises the errors of `delivered`."""
    found = snapshots.current(site, bucket, feed.source.name)
    return of_snapshot(site, bucket, feed, found, removal, now)


def of_snapshot(
    site: Site, bucket: str, feed: LabelFeed, found: snapshots.Snapshot | None, removal: int, now: datetime
) -> Delivered:
    """Return the labels in a snapshot; none without one. Raises the errors of `delivered`."""
    source = feed.source
    if found is None:
        empty = snapshots.arrow_schema(snapshots.snapshot_columns(source)).empty_table()
        return Delivered(feed, empty, None, now, removal)
    table = snapshots.load_table(site, bucket, found)
    if missing := [column for column in source.columns if column not in table.column_names]:
        raise FeatureError(
            f"load labels of snapshot {found.id} of '{source.name}': it lacks the columns {', '.join(missing)}",
            f"Run `rempart pipeline run {source.name}`. It writes a snapshot with the present schema.",
        )
    return Delivered(feed, table, found.id, found.created_at, removal)


def record(ledger: Ledger, pipeline: ModelPipeline, feed: LabelFeed) -> None:
    """Write evidence of which pipeline delivers the labels, when that changed: an erasure there follows it."""
    body = {"pipeline": feed.source.name, "key": list(feed.key), "target": pipeline.prediction.target}
    newest = ledger.find("labels", pipeline.name, limit=1)
    if not newest or dict(newest[0].body) != body:
        ledger.append("labels", pipeline.name, body)


def readers(ledger: Ledger, source: str) -> dict[str, set[tuple[str, ...]]]:
    """Return the pipelines whose labels a pipeline delivers, or ever delivered, with the columns of its key there."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for entry in ledger.find("labels", limit=ALL):
        if entry.body["pipeline"] == source:
            found.setdefault(entry.subject, set()).add(tuple(entry.body["key"]))
    return found


def without_late(pipeline: ModelPipeline, table: pa.Table, start: date) -> pa.Table:
    """Return a training set without rows to learn from whose target became known only after the hold-out began.

    A model that is trained when the hold-out begins could not have known them, and they may tell of its time. A row
    does not count either if nothing tells when its target became known. `start`: first held-out date or instant.
    Held-out rows stay. A training set without KNOWN_AT is returned as it is.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels.KNOWN_AT not in table.column_names:
        return table
    dates, known = table.column(pipeline.holdout.column), table.column(labels.KNOWN_AT)
    instant = start if isinstance(start, datetime) else datetime(start.year, start.month, start.day, tzinfo=UTC)
    held = pc.greater_equal(dates, pa.scalar(start, dates.type))
    in_time = pc.less_equal(known, pa.scalar(instant, known.type))
    return table.filter(pc.or_kleene(held, in_time))
