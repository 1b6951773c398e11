"""Loads a snapshot into the offline store: the rows as they are, and the table of each feature view."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import sql

from rempart import __version__
from rempart.counts import counted
from rempart.errors import FeatureError
from rempart.features import labels as label_rows
from rempart.features import tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.label_feed import LabelsUsed, feed_of
from rempart.features.labels import Received
from rempart.features.offline_load import copying, replacing, settling
from rempart.features.offline_load.basis import Basis, Changes, LastLoad, basis
from rempart.features.offline_load.view_tables import load_view
from rempart.features.online_store.comparison import LARGEST_PART
from rempart.features.plan import ViewTable, labels_table, rows_table, view_tables
from rempart.features.used import sources
from rempart.features.views import definition
from rempart.settings.pipeline import ModelPipeline, Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
_RECEIVED = "received"


@dataclass(frozen=True)
class Load:
    """One load: rows in the snapshot, rows of all view tables, and how many of these were written or deleted by it.

    `labels`: how many rows have a label, if another pipeline delivers them. `used`: id of the snapshot of each pipeline
    whose views are used. `note`: tells why all rows were read, which views were made anew as a whole, and that
    the tables were not settled after a large load; "" if there is nothing to tell.
    """

    snapshot: str
    loaded_at: datetime
    rows: int
    view_rows: int
    changed: int
    labels: LabelsUsed | None = None
    note: str = ""
    used: Mapping[str, str] = field(default_factory=dict)


class LoadedIds(NamedTuple):
    """Ids of loaded snapshots of one moment: of the rows, of labels, and of each pipeline whose views are used.

    That of labels is None if no other pipeline delivers them, "" before its first.
    """

    rows: str
    labels: str | None
    used: Mapping[str, str]


def load(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    rows: pa.RecordBatchReader,
    snapshot_id: str,
    at: datetime,
    labels: Received | None = None,
    changes: Changes | None = None,
) -> Load:
    """Load exactly this snapshot into the offline store, in one transaction; only differing rows are written.

    `rows` have one row for each `row_key`, with the pipeline's columns (types as `ingestion.snapshots.rows`). They are
    read once, batch by batch; nothing is loaded if that fails. With `changes`, only rows of the partitions that differ
    from the loaded snapshot are read, if the definition is the same and no other program wrote to the tables.
    Changed rows get the time `at` (UTC). Without `labels`, loaded labels of the rows stay. Views of other pipelines
    take the snapshots that these have loaded. Raises FeatureError (rows without a key or a moment, columns missing,
    names that are too long or taken), InputMissing (another pipeline is not loaded) and DatabaseUnavailable.
    """
    views, is_used = view_tables(pipeline), pipeline.used_views()
    if missing := [column for column in pipeline.columns if column not in rows.schema.names]:
        raise FeatureError(
            f"load snapshot {snapshot_id} of '{pipeline.name}': it lacks the columns {', '.join(missing)}",
            f"Run `rempart pipeline run {pipeline.name}`. It writes a snapshot with the present schema.",
        )
    with session(databases.offline, f"load snapshot {snapshot_id} of '{pipeline.name}'") as opened:
        tables.lock(opened, pipeline)
        last, now = _last_load(opened, pipeline), at
        if last is not None:  # a clock set back must not hide this load behind the watermark
            at = max(at, last.at + timedelta(microseconds=1))
        used = sources.take(opened, pipeline)
        _register(opened, pipeline, views)
        is_new = tables.ensure(opened, rows_table(pipeline), tables.rows_columns(pipeline), pipeline.row_key)
        is_watched = tables.watch(opened, rows_table(pipeline), pipeline)
        read_by = _rows_definition(opened, pipeline)
        base = basis(last, read_by, changes, now, is_watched=is_watched)
        part = changes if changes and not base.all_read else None
        if part:  # a few rows are found by their key, since the whole table is read from memory at best
            opened.execute("SET LOCAL random_page_cost = 1.1")
        count, is_part = _load_rows(opened, pipeline, rows, part, at, is_new=is_new)
        view_rows = changed = 0
        anew = list[str]()
        for view in views:
            made = load_view(
                opened, pipeline, view, at, is_part=is_part and not base.all_made and view.view not in is_used
            )
            changed += made.changed
            anew += [] if made.is_known else [view.view]
            view_rows += copying.count(opened, view.table)
        sources.record(opened, pipeline, used)
        opened.execute(
            "INSERT INTO feature_loads (pipeline, snapshot, loaded_at) VALUES (%(pipeline)s, %(snapshot)s, %(at)s)"
            " ON CONFLICT (pipeline) DO UPDATE SET snapshot = EXCLUDED.snapshot, loaded_at = EXCLUDED.loaded_at",
            {"pipeline": pipeline.name, "snapshot": snapshot_id, "at": at},
        )
        changed += _load_labels(opened, pipeline, labels, at)
        # last, since each write above took `read_by` away
        opened.execute(
            "UPDATE feature_loads SET read_by = %s, left_out = %s, whole_at = %s WHERE pipeline = %s",
            (read_by, changes.left_out if changes else "", _whole_at(last, base, now), pipeline.name),
        )
        note = base.told(anew)
        logger.info(
            "load '%s': %s", pipeline.name, note or f"read {len(part.partitions) if part else 'all'} partitions"
        )
        loaded = Load(snapshot_id, at, count, view_rows, changed, labels_in(opened, pipeline), note, used)
    if changed and not is_part:
        caution = settling.settle(databases, pipeline, [rows_table(pipeline), *(view.table for view in views)])
        loaded = replace(loaded, note=" ".join(filter(None, [loaded.note, caution])))
    return loaded


def _last_load(opened: Session, pipeline: ModelPipeline) -> LastLoad | None:
    found = opened.execute(
        "SELECT snapshot, loaded_at, read_by, left_out, whole_at FROM feature_loads WHERE pipeline = %s"
        " FOR UPDATE",  # a program that writes to a table now is waited for, and the next one waits
        (pipeline.name,),
    ).fetchone()
    return LastLoad(*found) if found else None


def _whole_at(last: LastLoad | None, base: Basis, now: datetime) -> datetime | None:
    return now if base.all_made or last is None else last.whole_at


def load_labels(databases: FeatureDatabases, pipeline: ModelPipeline, labels: Received, at: datetime) -> None:
    """Load labels for the rows that are loaded; do nothing if none are. Raises the errors of `load`."""
    with session(databases.offline, f"load the labels of '{pipeline.name}'") as opened:
        tables.lock(opened, pipeline)
        if opened.execute("SELECT 1 FROM feature_loads WHERE pipeline = %s", (pipeline.name,)).fetchone():
            _register(opened, pipeline, view_tables(pipeline))
            _load_labels(opened, pipeline, labels, at)


def _load_labels(opened: Session, pipeline: ModelPipeline, labels: Received | None, at: datetime) -> int:
    """Make the stored labels those of the received snapshot; without one, delete those whose row is gone.

    Return the number of labels written or deleted.
    """
    feed = feed_of(pipeline)
    if feed is None:
        return 0
    table, columns = labels_table(pipeline), label_rows.columns(pipeline, feed)
    is_new = tables.ensure(opened, table, columns, pipeline.key)
    state = (feed.source.name, labels.snapshot if labels else None, pipeline.name, is_new or labels is not None)
    renewed = opened.execute(
        "UPDATE feature_loads SET (label_pipeline, label_snapshot) = (%s, %s)"
        " WHERE pipeline = %s AND (%s OR label_pipeline IS DISTINCT FROM %s)",
        (*state, feed.source.name),
    ).rowcount
    if labels is None:
        gone = sql.SQL("DELETE FROM {}").format(tables.name(table)) if renewed else label_rows.vanished(pipeline)
        return opened.execute(gone).rowcount
    received = label_rows.received_columns(pipeline, feed)
    delivered = label_rows.renamed(pipeline, labels)
    copying.receive(opened, label_rows.RECEIVED, received, delivered, delivered.schema.names)
    copying.create(opened, "fresh_labels", columns)
    opened.execute(sql.SQL("INSERT INTO fresh_labels ") + label_rows.select(pipeline, labels))
    return replacing.replace_rows(opened, table, columns, pipeline.key, "fresh_labels", at).changed


def distrust(databases: FeatureDatabases, pipeline: Pipeline) -> None:
    """Have the next load read all rows and make all views anew, and the next materialization write all of them online.

    Raises the errors of `load`.
    """
    with session(databases.offline, f"have all rows of '{pipeline.name}' loaded again") as opened:
        tables.lock(opened, pipeline)
        opened.execute("UPDATE feature_loads SET read_by = NULL WHERE pipeline = %s", (pipeline.name,))
        opened.execute("UPDATE feature_views SET hashes = NULL WHERE pipeline = %s", (pipeline.name,))


def labels_in(opened: Session, pipeline: ModelPipeline) -> LabelsUsed | None:
    """Return the loaded labels of another pipeline as this session's transaction sees them, or None.

    Raises FeatureError if labels of another pipeline than the file's are loaded.
    """
    if pipeline.prediction.from_ is None:
        return None
    snapshot = _label_snapshot(opened, pipeline, pipeline.prediction.from_.pipeline)
    counts = label_rows.counts(opened.execute(label_rows.select_counts(pipeline)).fetchone())
    return LabelsUsed(pipeline.prediction.from_.pipeline, snapshot, counts)


def _label_snapshot(opened: Session, pipeline: ModelPipeline, source: str) -> str:
    """Return the id of the loaded snapshot of a label pipeline; "" if it had none. Raises FeatureError."""
    found = opened.execute(
        "SELECT label_pipeline, label_snapshot FROM feature_loads WHERE pipeline = %s", (pipeline.name,)
    ).fetchone()
    if found is None or found[0] != source:
        raise FeatureError(
            f"read the labels of '{pipeline.name}': those of pipeline '{source}' are not loaded",
            f"Run materialize_features_{pipeline.name}.",
        )
    return str(found[1] or "")


def find_snapshot(databases: FeatureDatabases, pipeline: str) -> str | None:
    """Return the id of the snapshot in the offline store, or None if none was loaded. Raises DatabaseUnavailable."""
    with session(databases.offline, f"look up the snapshot of '{pipeline}'") as opened:
        return _snapshot_in(opened, pipeline)


def loaded_ids(databases: FeatureDatabases, pipeline: ModelPipeline) -> LoadedIds:
    """Return the ids of the loaded snapshots.

    Raises FeatureError if none was loaded, or if the definition of a view is another one since then; InputMissing if a
    view of another pipeline is not loaded; DatabaseUnavailable.
    """
    labels = pipeline.prediction.from_
    with session(databases.offline, f"look up the snapshots of '{pipeline.name}'") as opened:
        opened.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        used, snapshot = sources.recorded(opened, pipeline), trainable_snapshot_in(opened, pipeline)
        return LoadedIds(snapshot, _label_snapshot(opened, pipeline, labels.pipeline) if labels else None, used)


def trainable_snapshot_in(opened: Session, pipeline: ModelPipeline) -> str:
    """Return the loaded snapshot's id as this session's transaction sees it, if a training may use it.

    Raises FeatureError if none was loaded, or if the definition of a view is another one since then.
    """
    snapshot = snapshot_in(opened, pipeline)
    made: dict[str, str] = dict(
        opened.execute("SELECT view, made_by FROM feature_views WHERE pipeline = %s", (pipeline.name,)).fetchall()
    )
    for view in view_tables(pipeline):
        if made.get(view.view) != definition(opened, pipeline, view):
            raise FeatureError(
                f"read view '{view.view}' of '{pipeline.name}': its definition changed after the load",
                f"Run materialize_features_{pipeline.name}: the online store must have the features of a training.",
            )
    return snapshot


def snapshot_in(opened: Session, pipeline: Pipeline) -> str:
    """Return the loaded snapshot's id as this session's transaction sees it. Raises FeatureError if none was loaded."""
    if (snapshot := _snapshot_in(opened, pipeline.name)) is None:
        raise FeatureError(
            f"read the feature store of '{pipeline.name}': it contains no snapshot",
            f"Run materialize_features_{pipeline.name}.",
        )
    return snapshot


def _snapshot_in(opened: Session, pipeline: str) -> str | None:
    if opened.execute("SELECT to_regclass('feature_loads')").fetchone() == (None,):
        return None
    row = opened.execute("SELECT snapshot FROM feature_loads WHERE pipeline = %s", (pipeline,)).fetchone()
    return str(row[0]) if row else None


def keys(databases: FeatureDatabases, pipeline: Pipeline) -> Iterator[tuple[Any, ...]]:
    """Yield the key of every row in the offline store; none if nothing was loaded. Raises the errors of `load`."""
    return _keys(databases, pipeline, rows_table(pipeline))


def _keys(databases: FeatureDatabases, pipeline: Pipeline, table: str) -> Iterator[tuple[Any, ...]]:
    with session(databases.offline, f"read the keys of '{pipeline.name}'") as opened:
        if opened.execute("SELECT to_regclass(%s)", (f'public."{table}"',)).fetchone() == (None,):
            return
        query = sql.SQL("SELECT DISTINCT {} FROM {}").format(tables.names(pipeline.key), tables.name(table))
        with opened.cursor("keys") as cursor:  # a cursor with a name gets its rows in parts
            cursor.itersize = 10_000
            yield from cursor.execute(query)


def label_keys(databases: FeatureDatabases, pipeline: ModelPipeline) -> Iterator[tuple[Any, ...]]:
    """Yield the key of every stored label, in the order of the pipeline's key. Raises the errors of `load`."""
    return _keys(databases, pipeline, labels_table(pipeline))


def _register(opened: Session, pipeline: ModelPipeline, views: tuple[ViewTable, ...]) -> None:
    """Record this pipeline's tables, and drop those of removed views.

    Two pipelines can claim one table name (`hotel` with a view `room__price`, `hotel__room` with a view `price`). The
    second is refused, because the rows of the first would count as vanished.
    """
    owned = [("rows", rows_table(pipeline))]
    owned += [("labels", labels_table(pipeline))] if pipeline.prediction.from_ else []
    owned += [(view.view, view.table) for view in views]
    lost = opened.execute(
        "DELETE FROM feature_views WHERE pipeline = %s AND view <> ALL(%s) RETURNING offline_table",
        (pipeline.name, [view for view, _ in owned]),
    ).fetchall()
    for (table,) in lost:
        opened.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(tables.name(table)))
    for view, offline_table in owned:
        try:
            opened.execute(
                "INSERT INTO feature_views VALUES (%s, %s, %s) ON CONFLICT (pipeline, view) DO NOTHING",
                (pipeline.name, view, offline_table),
            )
        except psycopg.errors.UniqueViolation as cause:
            raise FeatureError(
                f"create the tables of view '{view}' of '{pipeline.name}': another pipeline's tables have these names",
                f"Rename the view in include/pipelines/{pipeline.name}.yaml.",
            ) from cause


def _wanted(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of the rows to store, over the received ones."""
    given = [column for column, _ in tables.rows_columns(pipeline) if column != "event_timestamp"]
    return sql.SQL("SELECT {}, {} AS event_timestamp FROM {}").format(
        tables.names(given), tables.instant(pipeline, pipeline.prediction.at), tables.name(_RECEIVED)
    )


def _faults(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of how many received rows lack a key, lack a moment, and repeat a key."""
    keyless = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(tables.name(key)) for key in pipeline.row_key)
    own = [view.at for view in pipeline.features.values() if view.kind != "used"]
    moments = dict.fromkeys([*own, pipeline.prediction.at])
    timeless = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(tables.day(pipeline, moment)) for moment in moments)
    return sql.SQL(
        "SELECT count(*) FILTER (WHERE {keyless}), count(*) FILTER (WHERE {timeless}),"
        " count(*) - (SELECT count(*) FROM (SELECT DISTINCT {key} FROM {received}) d) FROM {received}"
    ).format(keyless=keyless, timeless=timeless, key=tables.names(pipeline.row_key), received=tables.name(_RECEIVED))


def _rows_definition(opened: Session, pipeline: ModelPipeline) -> str:
    """Return a hash of all that decides which rows are stored for a snapshot, and as what."""
    partition = sql.Literal([pipeline.partition_by, pipeline.partition_every, __version__])
    made = sql.SQL("; ").join([_wanted(pipeline), _faults(pipeline), partition])
    return hashlib.sha256(made.as_bytes(opened)).hexdigest()


def _load_rows(
    opened: Session,
    pipeline: ModelPipeline,
    rows: pa.RecordBatchReader,
    changes: Changes | None,
    at: datetime,
    *,
    is_new: bool,
) -> tuple[int, bool]:
    """Make the stored rows those of the snapshot. Return their number, and whether only a small part changed.

    With `changes`, only stored rows of their partitions are compared. Then the temporary tables `replacing.FORMER` and
    `replacing.DIFFERING` have the rows that changed.
    """
    columns, table = tables.rows_columns(pipeline), rows_table(pipeline)
    given = [(column, declared) for column, declared in columns if column != "event_timestamp"]
    copying.receive(opened, _RECEIVED, given, changes.rows if changes else rows, [column for column, _ in given])
    faults = opened.execute(_faults(pipeline)).fetchone()
    for count, what in zip(faults or (), ("without a key", "without a moment", "with a repeated key"), strict=False):
        if count:
            raise FeatureError(
                f"load the snapshot of '{pipeline.name}': it has {counted(count, 'row')} {what}",
                "Declare the columns of `key` and `moments` as not nullable, so that such rows go to quarantine.",
            )
    opened.execute(sql.SQL("CREATE TEMP VIEW wanted AS ") + _wanted(pipeline))
    if is_new:
        replacing.replace_rows(opened, table, columns, pipeline.row_key, "wanted", at)
        by_time = sql.SQL("CREATE INDEX ON {} USING brin ({})")  # small: rows come in order of their partitions
        opened.execute(by_time.format(tables.name(table), tables.name(pipeline.partition_by)))
        return copying.count(opened, table), False
    among = tables.in_periods(pipeline, changes.partitions) if changes else None
    differing = replacing.replace_differing(opened, table, columns, pipeline.row_key, "wanted", at, among)
    stored = copying.count(opened, table)
    return stored, differing * LARGEST_PART <= stored
