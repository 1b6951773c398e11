"""Loads a snapshot into the offline store: the rows as they are, and the table of each feature view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import labels as label_rows
from rempart.features import tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.label_feed import LabelsUsed, feed_of
from rempart.features.labels import Received
from rempart.features.online_store.comparison import FULL_COMPARISON_EVERY, LARGEST_PART
from rempart.features.plan import ViewTable, labels_table, rows_table, view_tables
from rempart.features.used import sources
from rempart.features.versions import version_of
from rempart.features.views import definition, select_view
from rempart.settings.pipeline import ModelPipeline, Pipeline

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Load:
    """One load: rows in the snapshot, rows of all view tables, and how many of these were written or deleted by it.

    `labels`: how many rows have a label, if another pipeline delivers them. `used`: id of the snapshot of each pipeline
    whose views are used.
    """

    snapshot: str
    loaded_at: datetime
    rows: int
    view_rows: int
    changed: int
    labels: LabelsUsed | None = None
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
) -> Load:
    """Load exactly this snapshot into the offline store, in one transaction; only differing rows are written.

    `rows` have one row for each `row_key`, with the pipeline's columns (types as `ingestion.snapshots.rows`). They are
    read once, batch by batch; nothing is loaded if that fails. Changed rows get the time `at` (UTC). Without `labels`,
    loaded labels of the rows stay. Views of other pipelines take the snapshots that these have loaded. Raises
    FeatureError (rows without a key or a moment, columns missing, names that are too long or taken), InputMissing
    (another pipeline is not loaded) and DatabaseUnavailable.
    """
    views, is_used = view_tables(pipeline), pipeline.used_views()
    if missing := [column for column in pipeline.columns if column not in rows.schema.names]:
        raise FeatureError(
            f"load snapshot {snapshot_id} of '{pipeline.name}': it lacks the columns {', '.join(missing)}",
            f"Run `rempart pipeline run {pipeline.name}`. It writes a snapshot with the present schema.",
        )
    with session(databases.offline, f"load snapshot {snapshot_id} of '{pipeline.name}'") as opened:
        tables.lock(opened, pipeline)
        previous = opened.execute(
            "SELECT loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)
        ).fetchone()
        if previous is not None:  # a clock set back must not hide this load behind the watermark
            at = max(at, previous[0] + timedelta(microseconds=1))
        used = sources.take(opened, pipeline)
        _register(opened, pipeline, views)
        count, is_part = _load_rows(opened, pipeline, rows, at)
        view_rows = changed = 0
        for view in views:
            changed += _load_view(opened, pipeline, view, at, is_part=is_part and view.view not in is_used)
            view_rows += _count(opened, view.table)
        sources.record(opened, pipeline, used)
        opened.execute(
            "INSERT INTO feature_loads VALUES (%(pipeline)s, %(snapshot)s, %(at)s) ON CONFLICT (pipeline) DO UPDATE"
            " SET snapshot = EXCLUDED.snapshot, loaded_at = EXCLUDED.loaded_at",
            {"pipeline": pipeline.name, "snapshot": snapshot_id, "at": at},
        )
        changed += _load_labels(opened, pipeline, labels, at)
        if changed and not is_part:  # Feast's joins need statistics at once
            opened.execute(
                sql.SQL("ANALYZE {}").format(tables.names([rows_table(pipeline), *(view.table for view in views)]))
            )
        return Load(snapshot_id, at, count, view_rows, changed, labels_in(opened, pipeline), used)


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
    _receive(opened, label_rows.RECEIVED, received, delivered, delivered.schema.names)
    opened.execute(sql.SQL("CREATE TEMP TABLE fresh_labels ({}) ON COMMIT DROP").format(_typed(columns)))
    opened.execute(sql.SQL("INSERT INTO fresh_labels ") + label_rows.select(pipeline, labels))
    return tables.replace_rows(opened, table, columns, pipeline.key, "fresh_labels", at).changed


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


def loaded_snapshot(databases: FeatureDatabases, pipeline: Pipeline) -> str:
    """Return the id of the snapshot in the offline store. Raises FeatureError if none was loaded."""
    with session(databases.offline, f"look up the snapshot of '{pipeline.name}'") as opened:
        return snapshot_in(opened, pipeline)


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


def _load_rows(opened: Session, pipeline: ModelPipeline, rows: pa.RecordBatchReader, at: datetime) -> tuple[int, bool]:
    """Make the stored rows those of the snapshot. Return their number, and whether only a small part changed.

    Then `tables.FORMER` and `tables.DIFFERING` have the rows that changed.
    """
    columns, table = tables.rows_columns(pipeline), rows_table(pipeline)
    given = [(column, declared) for column, declared in columns if column != "event_timestamp"]
    received = [column for column, _ in given]
    is_new = tables.ensure(opened, table, columns, pipeline.row_key)
    _receive(opened, "received", given, rows, received)
    keyless = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(tables.name(key)) for key in pipeline.row_key)
    own = {view.at for view in pipeline.features.values() if view.kind != "used"}
    moments = [tables.day(pipeline, moment) for moment in own]
    moments.append(tables.day(pipeline, pipeline.prediction.at))
    timeless = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(moment) for moment in moments)
    faults = opened.execute(
        sql.SQL(
            "SELECT count(*) FILTER (WHERE {keyless}), count(*) FILTER (WHERE {timeless}),"
            " count(*) - (SELECT count(*) FROM (SELECT DISTINCT {key} FROM received) d) FROM received"
        ).format(keyless=keyless, timeless=timeless, key=tables.names(pipeline.row_key))
    ).fetchone()
    for count, what in zip(faults or (), ("without a key", "without a moment", "with a repeated key"), strict=False):
        if count:
            raise FeatureError(
                f"load the snapshot of '{pipeline.name}': it has {count} rows {what}",
                "Declare the columns of `key` and `moments` as not nullable, so that such rows go to quarantine.",
            )
    opened.execute(
        sql.SQL("CREATE TEMP VIEW wanted AS SELECT {}, {} AS event_timestamp FROM received").format(
            tables.names(received), tables.instant(pipeline, pipeline.prediction.at)
        )
    )
    if is_new:
        tables.replace_rows(opened, table, columns, pipeline.row_key, "wanted", at)
        return _count(opened, table), False
    differing = tables.replace_differing(opened, table, columns, pipeline.row_key, "wanted", at)
    count = _count(opened, table)
    return count, differing * LARGEST_PART <= count


def _load_view(opened: Session, pipeline: ModelPipeline, view: ViewTable, at: datetime, *, is_part: bool) -> int:
    """Make a view's table that of the stored rows. Return the number of its rows that were written or deleted.

    If only a part of the rows changed (`is_part`), only entities of changed rows are made anew. All are if the view's
    query is another one than the last time, and once a day.
    """
    columns, made_by = tables.view_columns(view), definition(opened, pipeline, view)
    of_view = {"pipeline": pipeline.name, "view": view.view, "made_by": made_by, "at": at}
    if tables.ensure(opened, view.table, columns, view.primary_key):
        tables.index_changes(opened, view)
        opened.execute(
            "UPDATE feature_views SET watermark = NULL, made_by = NULL WHERE pipeline = %(pipeline)s"
            " AND view = %(view)s",
            of_view,
        )
    renewed = opened.execute(
        "UPDATE feature_views SET made_by = %(made_by)s, made_at = %(at)s WHERE pipeline = %(pipeline)s"
        " AND view = %(view)s AND NOT (%(is_part)s AND made_by IS NOT DISTINCT FROM %(made_by)s"
        " AND %(at)s - made_at < %(every)s)",
        of_view | {"is_part": is_part, "every": FULL_COMPARISON_EVERY},
    ).rowcount
    entities = None if renewed else _touched(opened, pipeline, view)
    fresh = tables.name(view.fresh)
    opened.execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(fresh, _typed(columns)))
    opened.execute(sql.SQL("INSERT INTO {} ").format(fresh) + select_view(pipeline, view, entities))
    replaced = tables.replace_rows(opened, view.table, columns, view.primary_key, view.fresh, at, entities)
    if replaced.vanished:
        opened.execute(
            "UPDATE feature_views SET vanished_at = %(at)s WHERE pipeline = %(pipeline)s AND view = %(view)s", of_view
        )
    return replaced.changed


def _touched(opened: Session, pipeline: ModelPipeline, view: ViewTable) -> sql.Composed:
    """Return the query of the entities of rows that changed, as they were and as they are.

    A new version of a row ends the one before it, which may belong to another entity: all versions of its key count.
    """
    changed = sql.SQL("SELECT * FROM {} UNION ALL SELECT * FROM {}").format(
        tables.name(tables.FORMER), tables.name(tables.DIFFERING)
    )
    if version_of(pipeline) is not None:
        keys = tables.names(pipeline.key)
        changed += sql.SQL(" UNION ALL SELECT {columns} FROM {rows} WHERE ({keys}) IN (SELECT {keys} FROM").format(
            columns=tables.names(column for column, _ in tables.rows_columns(pipeline)),
            rows=tables.name(rows_table(pipeline)),
            keys=keys,
        ) + sql.SQL(" (SELECT * FROM {} UNION ALL SELECT * FROM {}) c)").format(
            tables.name(tables.FORMER), tables.name(tables.DIFFERING)
        )
    opened.execute("DROP TABLE IF EXISTS pg_temp.touched")
    opened.execute(
        sql.SQL("CREATE TEMP TABLE touched ON COMMIT DROP AS SELECT DISTINCT {} AS entity FROM ({}) c").format(
            tables.join_key(pipeline, view), changed
        )
    )
    return sql.SQL("SELECT entity FROM touched WHERE entity IS NOT NULL").format()


def _receive(
    opened: Session, name: str, columns: tables.Columns, rows: pa.RecordBatchReader, received: Sequence[str]
) -> None:
    """Copy the `received` columns of rows into a temporary table of `columns`, which may be more."""
    opened.execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(tables.name(name), _typed(columns)))
    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(tables.name(name), tables.names(received))
    with opened.cursor() as cursor, cursor.copy(copy) as stream:
        for block in _csv(rows, received):
            stream.write(block)


def _typed(columns: tables.Columns) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{} {}").format(tables.name(c), sql.SQL(declared)) for c, declared in columns)


def _count(opened: Session, table: str) -> int:
    row = opened.execute(sql.SQL("SELECT count(*) FROM {}").format(tables.name(table))).fetchone()
    return int(row[0]) if row else 0


def _csv(rows: pa.RecordBatchReader, columns: Sequence[str]) -> Iterator[Any]:
    """Yield some columns as CSV in COPY's format. Strings are quoted, so that an empty string differs from NULL."""
    import pyarrow as pa
    import pyarrow.csv as csv

    for batch in rows:
        sink = pa.BufferOutputStream()
        csv.write_csv(pa.Table.from_batches([batch]).select(columns), sink, csv.WriteOptions(include_header=False))
        yield sink.getvalue().to_pybytes()
