"""Read the labels that another pipeline delivers, and leave out those that a training could not have known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from rempart.coordination.active import Active
from rempart.counts import counted
from rempart.errors import FeatureError, TrainingError
from rempart.features import labels
from rempart.features.label_feed import LabelFeed, feed_of
from rempart.features.labels import Received
from rempart.flows.ingestion import current_snapshot
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ledger.port import Ledger
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets
from rempart.training.protocol import splits

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.sites.port import Site


@dataclass(frozen=True)
class Delivered:
    """The current snapshot of a label pipeline: its id (None before the first), rows, and the time it was written.

    The rows are read once, batch by batch.
    """

    feed: LabelFeed
    rows: pa.RecordBatchReader
    snapshot: str | None
    as_of: datetime
    removal: int

    def received(self, platform: Platform) -> Received:
        """Return the labels without those that were erased. Call it inside `Platform.committing`.

        Raises PipelineError if the label pipeline was reset meanwhile, BackupError.
        """
        source = self.feed.source
        removals.check_same(platform.ledger, source.name, self.removal)
        left = erasures.without_erased(platform.ledger, source, self.rows, erasures.secrets_of(platform))
        return Received(self.feed, left, self.snapshot, self.as_of)

    def as_received(self) -> Received:
        """Return the labels as the snapshot has them. Of a snapshot after an erasure these are without erased ones."""
        return Received(self.feed, self.rows, self.snapshot, self.as_of)


def delivered(platform: Platform, pipeline: ModelPipeline, active: Active) -> Delivered | None:
    """Return the labels that are delivered by another pipeline by now, or None if the target is in the own rows.

    Raises PipelineError, FeatureError if the snapshot lacks a column, IngestError if evidence names a newer one,
    SiteError, IntegrityError, PlacementDenied.
    """
    if (feed := feed_of(pipeline)) is None:
        return None
    source, bucket = feed.source, platform.config.buckets.lake
    record(platform.ledger, pipeline, feed)
    removal = removals.check_open(platform.ledger, source.name)
    site = platform.active_site(pipeline.classification, active)
    found = current_snapshot.checked(platform.ledger, active, site, bucket, source.name)
    return of_snapshot(site, bucket, feed, found, removal, platform.clock())


def of_snapshot(
    site: Site, bucket: str, feed: LabelFeed, found: snapshots.Snapshot | None, removal: int, now: datetime
) -> Delivered:
    """Return the labels in a snapshot; none without one. Raises the errors of `delivered`."""
    source = feed.source
    if found is None:
        empty = snapshots.arrow_schema(snapshots.snapshot_columns(source)).empty_table()
        return Delivered(feed, empty.to_reader(), None, now, removal)
    rows = snapshots.rows(site, bucket, found)
    if missing := [column for column in source.columns if column not in rows.schema.names]:
        raise FeatureError(
            f"load labels of snapshot {found.id} of '{source.name}': it lacks the columns {', '.join(missing)}",
            f"Run `rempart pipeline run {source.name}`. It writes a snapshot with the present schema.",
        )
    return Delivered(feed, rows, found.id, found.created_at, removal)


def record(ledger: Ledger, pipeline: ModelPipeline, feed: LabelFeed) -> None:
    """Write evidence of which pipeline delivers the labels, when that changed: an erasure there follows it."""
    body = {"pipeline": feed.source.name, "key": list(feed.key), "target": pipeline.prediction.target}
    newest = ledger.find("labels", pipeline.name, limit=1)
    if not newest or dict(newest[0].body) != body:
        ledger.append("labels", pipeline.name, body)


def readers(ledger: Ledger, source: str) -> dict[str, set[tuple[str, ...]]]:
    """Return the pipelines whose labels a pipeline delivers, or ever delivered, with the columns of its key there."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for entry in ledger.find("labels"):
        if entry.body["pipeline"] == source:
            found.setdefault(entry.subject, set()).add(tuple(entry.body["key"]))
    return found


def held_out_from(pipeline: ModelPipeline, newest: date) -> date:
    """Return the first held-out date, or instant (UTC) where the column holds instants.

    `start` begins at midnight in the source's time zone. `last` counts back from the newest one in the data.
    """
    holdout = pipeline.holdout
    if holdout.start is not None:
        return (
            splits.midnight(holdout.start, pipeline.source.time_zone) if isinstance(newest, datetime) else holdout.start
        )
    assert holdout.last is not None  # noqa: S101 - the pipeline's validation has one of the two
    first = datetime.min.replace(tzinfo=UTC) if isinstance(newest, datetime) else date.min
    return newest - min(holdout.last, newest - first)


def without_late(pipeline: ModelPipeline, table: pa.Table, start: date) -> pa.Table:
    """Return a training set without rows to learn from whose target became known only after the hold-out began.

    A model that is trained when the hold-out begins could not have known them, and they may tell of its time. A row,
    held out or not, does not count either if nothing tells when its target became known: the monitor does not count
    it either. `start`: result of `held_out_from`. A date begins at midnight in the source's time zone; dates on which
    targets became known are compared as dates. A training set without KNOWN_AT is returned as it is.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels.KNOWN_AT not in table.column_names or pipeline.holdout.column is None:
        return table
    dates, known = table.column(pipeline.holdout.column), table.column(labels.KNOWN_AT)
    zone = "UTC" if labels.known_by_day(pipeline) else pipeline.source.time_zone
    first = pipeline.holdout.start or start
    instant = first if isinstance(first, datetime) else splits.midnight(first, zone)
    held = pc.greater_equal(dates, pa.scalar(start, dates.type))
    in_time = pc.less_equal(known, pa.scalar(instant, known.type))
    return table.filter(pc.and_(pc.is_valid(known), pc.or_kleene(held, in_time)))


def undated(table: pa.Table) -> int:
    """Return the rows of a training set of which nothing tells when their target became known."""
    return int(table.column(labels.KNOWN_AT).null_count) if labels.KNOWN_AT in table.column_names else 0


def check_targets(pipeline: ModelPipeline, table: pa.Table) -> None:
    """Raise TrainingError if rows lack their target: they were accepted while the pipeline file allowed it."""
    target, labels_of = pipeline.prediction.target, pipeline.prediction.from_
    if empty := table.column(target).null_count:
        name = labels_of.pipeline if labels_of else pipeline.name
        source = pipelines.named(name).source if labels_of else pipeline.source
        again = "run" if source.kind == "derived" else "rejudge"
        open_again = "" if labels_of else f" Or make {target} `nullable: true` again: such rows are then no examples."
        raise TrainingError(
            f"build the training set of '{pipeline.name}': {counted(empty, 'accepted row has', 'accepted rows have')} "
            f"no {target}, and the file of pipeline '{name}' no longer allows that",
            f"Run `rempart pipeline {again} {name}`: such rows go to quarantine. Then train again.{open_again}",
        )


def split(pipeline: ModelPipeline, table: pa.Table) -> datasets.TrainingRows:
    """Return the rows to learn from, and the held-out rows.

    Raises TrainingError if there would be none on one side, or a row has no date.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    holdout = pipeline.holdout
    if holdout.column is None:
        within = pipeline.prediction.target if holdout.stratify else None
        named = holdout.by or pipeline.key
        held = splits.hashed(table, named, holdout.share or 0.0, key="holdout", within=within)
        return datasets.parted(table, pa.array(held), f"The holdout of {holdout.share:.0%} by {', '.join(named)}")
    dates = table.column(holdout.column)
    if dates.null_count or not table.num_rows:
        raise TrainingError(
            f"{dates.null_count} of {counted(table.num_rows, 'row')} {'has' if dates.null_count == 1 else 'have'} no "
            f"'{holdout.column}'",
            "Make the holdout column non-nullable, and check that the training set is not empty.",
        )
    start = held_out_from(pipeline, pc.max(dates).as_py())
    return datasets.split(table, holdout.column, start)
