"""The SQL of labels: which rows have one, and from when it is known.

A label of another pipeline joins a row by its key. It counts if it became known after the moment of the row's
prediction, and before its snapshot was written. A row without such a label is no example; it is counted. A target of
the own rows is known from the moment that its column names; a row that lacks it is open, no example, and counted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.label_feed import LabelCounts, LabelFeed, feed_of
from rempart.features.plan import SQL_TYPES, labels_table, rows_table
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

KNOWN_AT = "_known_at"
"""Column with the instant from which a label or a target is known. No column of a pipeline begins with _."""
RECEIVED = "received_labels"


@dataclass(frozen=True)
class Received:
    """Rows of the label pipeline, its snapshot (None before the first), and the time of that snapshot.

    The rows are read once, batch by batch.
    """

    feed: LabelFeed
    rows: pa.RecordBatchReader
    snapshot: str | None
    as_of: datetime


def columns(pipeline: ModelPipeline, feed: LabelFeed) -> tables.Columns:
    """Return the stored columns of labels and their types: the key by the names of the rows, target, KNOWN_AT."""
    return [*_raw(pipeline, feed)[:-1], (KNOWN_AT, "timestamptz")]


def received_columns(pipeline: ModelPipeline, feed: LabelFeed) -> tables.Columns:
    """Return the columns of RECEIVED and their types; KNOWN_AT as it was delivered."""
    return _raw(pipeline, feed)


def _raw(pipeline: ModelPipeline, feed: LabelFeed) -> tables.Columns:
    return [
        *((column, SQL_TYPES[pipeline.columns[column].type]) for column in pipeline.key),
        (pipeline.prediction.target, SQL_TYPES[feed.target.type]),
        (KNOWN_AT, SQL_TYPES[feed.known_at.type]),
    ]


def delivered(pipeline: ModelPipeline, feed: LabelFeed) -> list[str]:
    """Return the columns of the label pipeline that become those of `received_columns`, in their order."""
    assert pipeline.prediction.from_ is not None  # noqa: S101 - it has a feed
    return [*feed.key, pipeline.prediction.target, pipeline.prediction.from_.known_at]


def renamed(pipeline: ModelPipeline, labels: Received) -> pa.RecordBatchReader:
    """Return a reader of the received labels with the columns of `received_columns`."""
    import pyarrow as pa

    taken, names = delivered(pipeline, labels.feed), [name for name, _ in received_columns(pipeline, labels.feed)]
    schema = pa.schema(
        [(name, labels.rows.schema.field(column).type) for name, column in zip(names, taken, strict=True)]
    )
    batches = (
        pa.RecordBatch.from_arrays([batch.column(column) for column in taken], schema=schema) for batch in labels.rows
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def select(pipeline: ModelPipeline, labels: Received) -> sql.Composed:
    """Return the query of the labels to store: those of loaded rows; without its value while a label is not known."""
    begun: sql.Composable = tables.name(KNOWN_AT)
    known = begun
    if labels.feed.known_at.type == "date":  # a delivery of the day may have it, but a moment of the day may not
        begun, known = tables.midnight(begun), tables.midnight(sql.SQL("({} + 1)").format(begun))
    is_known = sql.SQL("{} <= {}").format(begun, sql.Literal(labels.as_of))
    return sql.SQL(
        "SELECT {key}, CASE WHEN {is_known} THEN {target} END, CASE WHEN {is_known} THEN {known} END"
        " FROM {received} l WHERE EXISTS (SELECT 1 FROM {rows} r WHERE {same})"
    ).format(
        key=tables.names(pipeline.key),
        is_known=is_known,
        target=tables.name(pipeline.prediction.target),
        known=known,
        received=tables.name(RECEIVED),
        rows=tables.name(rows_table(pipeline)),
        same=_same(pipeline),
    )


def _same(pipeline: ModelPipeline) -> sql.Composed:
    """Return the condition that row `r` and label `l` have one key."""
    return sql.SQL(" AND ").join(sql.SQL("r.{c} = l.{c}").format(c=tables.name(column)) for column in pipeline.key)


def tells_known_at(pipeline: ModelPipeline) -> bool:
    """Return whether examples have KNOWN_AT: a row before the hold-out may get its target after its begin."""
    by_time = pipeline.holdout.column is not None  # groups have no begin after which a target is late
    return pipeline.prediction.from_ is not None or (by_time and _known_later(pipeline) is not None)


def _known_later(pipeline: ModelPipeline) -> str | None:
    """Return the moment from which the target of the own rows is known; None if it is never after the hold-out's date.

    It is not before the moment of the prediction, and not after the end of the day in its own column, without a `plus`.
    """
    order = list(pipeline.moments)
    known = pipeline.columns[pipeline.prediction.target].known
    latest = max(known, pipeline.prediction.at, key=order.index)
    moment = pipeline.moments[latest]
    if versions.version_of(pipeline) is not None:
        return latest  # a later version may have brought the target
    return None if moment.column == pipeline.holdout.column and not (moment.at or moment.plus) else latest


def known_by_day(pipeline: ModelPipeline) -> bool:
    """Return whether KNOWN_AT is the end of a date in every example, and never an instant of a clock."""
    if (feed := feed_of(pipeline)) is not None:
        return feed.known_at.type == "date"
    moment, version = _known_later(pipeline), versions.version_of(pipeline)
    is_day = moment is not None and pipeline.moments[moment].is_day(pipeline.columns)
    return is_day and (version is None or pipeline.columns[version].type == "date")


def _known_from(pipeline: ModelPipeline) -> dict[str, sql.Composable]:
    """Return the expression of KNOWN_AT over the own rows: an instant, or the end of a day; empty without a target."""
    if pipeline.prediction.from_ is not None or (moment := _known_later(pipeline)) is None:
        return {}
    begun = tables.instant(pipeline, moment)
    whole_day = pipeline.moments[moment].is_day(pipeline.columns)
    known: sql.Composable = sql.SQL("({} + make_interval(hours => 24))").format(begun) if whole_day else begun
    if versions.version_of(pipeline) is not None:  # the target is that of the newest version, known once this is valid
        known = sql.SQL("(CASE WHEN {k} IS NOT NULL THEN greatest({k}, {valid}) END)").format(
            k=known, valid=versions.shown_from(pipeline, known)
        )
    return {KNOWN_AT: known}


def examples(pipeline: ModelPipeline) -> sql.Composable:
    """Return the relation of the rows to learn from, with their moment as `event_timestamp`; see `versions.examples`.

    With KNOWN_AT where `tells_known_at`. Only rows with their target, be it their own or a label of another pipeline.
    """
    if pipeline.prediction.from_ is None:
        rows = versions.examples(pipeline, _known_from(pipeline))
        if not pipeline.prediction.has_open_rows(pipeline.columns):
            return rows
        return sql.SQL("(SELECT * FROM {} r WHERE {} IS NOT NULL)").format(
            rows, tables.name(pipeline.prediction.target)
        )
    return sql.SQL(
        "(SELECT r.*, l.{target}, l.{known} FROM {rows} r JOIN {labels} l ON {same}"
        " WHERE l.{known} > r.event_timestamp)"
    ).format(
        target=tables.name(pipeline.prediction.target),
        known=tables.name(KNOWN_AT),
        rows=versions.examples(pipeline, {}),
        labels=tables.name(labels_table(pipeline)),
        same=_same(pipeline),
    )


def select_open(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of the number of rows whose own target is not known yet; of versions, the newest decides."""
    if not pipeline.prediction.has_open_rows(pipeline.columns):
        return sql.SQL("SELECT 0").format()
    return sql.SQL("SELECT count(*) FROM {} r WHERE {} IS NULL").format(
        versions.examples(pipeline, {}), tables.name(pipeline.prediction.target)
    )


def select_counts(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of one row with the fields of LabelCounts in order."""
    return sql.SQL(
        "SELECT count(*) FILTER (WHERE l.{known} > r.event_timestamp), count(*) FILTER (WHERE l.{key} IS NULL),"
        " count(*) FILTER (WHERE l.{key} IS NOT NULL AND l.{known} IS NULL),"
        " count(*) FILTER (WHERE l.{known} <= r.event_timestamp) FROM {rows} r LEFT JOIN {labels} l ON {same}"
    ).format(
        known=tables.name(KNOWN_AT),
        key=tables.name(pipeline.key[0]),
        rows=versions.examples(pipeline, {}),
        labels=tables.name(labels_table(pipeline)),
        same=_same(pipeline),
    )


def counts(row: tuple[Any, ...] | None) -> LabelCounts:
    """Return the answer to `select_counts`."""
    return LabelCounts(*(int(count) for count in row or (0, 0, 0, 0)))


def vanished(pipeline: ModelPipeline) -> sql.Composed:
    """Return the statement that deletes stored labels of rows that are loaded no longer."""
    return sql.SQL("DELETE FROM {labels} l WHERE NOT EXISTS (SELECT 1 FROM {rows} r WHERE {same})").format(
        labels=tables.name(labels_table(pipeline)), rows=tables.name(rows_table(pipeline)), same=_same(pipeline)
    )
