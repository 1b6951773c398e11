"""The point-in-time training set: for each row, the features as they were known at the moment of its prediction."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql

from rempart.errors import FeatureError, LabelsMissing
from rempart.features import labels, offline, repository, tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.expressions import across
from rempart.features.label_feed import LabelsUsed, feed_of
from rempart.features.plan import DAY, LAST_ROW_AT, SQL_TYPES, view_tables
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 5
_BATCH = 10_000


def plain_columns(pipeline: ModelPipeline) -> list[str]:
    """Return columns of the snapshot stored with the features: key, target, holdout and the baseline's."""
    baseline = [column.split(".", 1)[0] for column in pipeline.gate.baseline_by]
    known = [labels.KNOWN_AT] if labels.tells_known_at(pipeline) else []
    return list(dict.fromkeys([*pipeline.key, pipeline.prediction.target, *known, pipeline.holdout.column, *baseline]))


class TrainingSet(NamedTuple):
    """A training set, the id of the snapshot of its rows, and of its labels if another pipeline delivers them."""

    table: pa.Table
    snapshot: str
    labels: LabelsUsed | None = None


def point_in_time(databases: FeatureDatabases, pipeline: ModelPipeline) -> TrainingSet:
    """Return the training set and the ids of its snapshots, read in one transaction: never of two loads.

    One row per key of the loaded snapshot, sorted by key: the key, `event_timestamp` (the moment of the prediction,
    UTC), `plain_columns`, then every `pipeline.model_inputs()` column. Feast writes the query, which joins each view's
    newest row at or before that moment. A concurrent load changes nothing. Rows without a label of another pipeline are
    left out, and counted. Raises FeatureError if rows were lost or multiplied, or nothing was loaded; LabelsMissing;
    DatabaseUnavailable.
    """
    for _ in range(_ATTEMPTS):
        if (training_rows := _read(databases, pipeline)) is not None:
            return training_rows
    raise FeatureError(
        f"read the training set of '{pipeline.name}': the feature store was loaded again during each attempt",
        f"Wait until materialize_features_{pipeline.name} is done, then run the training again.",
    )


def _read(databases: FeatureDatabases, pipeline: ModelPipeline) -> TrainingSet | None:
    """Return the training set; None if Feast wrote its query for another snapshot."""
    with session(databases.offline, f"read the training set of '{pipeline.name}'") as opened:
        opened.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        snapshot = offline.snapshot_in(opened, pipeline)
        used = offline.labels_in(opened, pipeline)
        if used and not used.rows.labelled:
            raise no_example(pipeline, used)
        rows = labels.examples(pipeline)
        span = sql.SQL("SELECT count(*), min(event_timestamp), max(event_timestamp) FROM {} examples").format(rows)
        expected, first, last = opened.execute(span).fetchone() or (0, None, None)
        joining = _joining_query(databases, pipeline, _entity_query(pipeline).as_string(opened), first, last)
        if joining is None or not expected:
            return None
        table = _fetch(opened, pipeline, joining)
    if table.num_rows != expected:
        raise FeatureError(
            f"build the training set of '{pipeline.name}': the point-in-time join returned {table.num_rows} rows "
            f"instead of {expected}",
            "Do not train on it. Run the materialization again. If it fails again, look for a view with two rows "
            "for one moment.",
        )
    return TrainingSet(table.sort_by([(key, "ascending") for key in pipeline.key]), snapshot, used)


def no_example(pipeline: ModelPipeline, used: LabelsUsed) -> LabelsMissing:
    """Return the error of a pipeline of whose rows none has a label yet."""
    return LabelsMissing(
        f"build the training set of '{pipeline.name}': {used.told()}",
        f"Deliver labels to pipeline '{used.pipeline}': `rempart pipeline deliver {used.pipeline} FILE`. Check that "
        "its key has the values of these rows, and that `known_at` is later than their moment.",
    )


def _joining_query(
    databases: FeatureDatabases, pipeline: ModelPipeline, entities: str, first: Any, last: Any
) -> str | None:
    """Return Feast's query for the rows of `entities`; None if it limits the views to less than `first` to `last`.

    Feast reads the span of the event times itself, outside our transaction.
    """
    inputs = pipeline.model_inputs()
    wanted = [
        f"{view.view}:{field.name}"
        for view in view_tables(pipeline)
        for field in view.fields
        if f"{view.view}__{view.feature(field.name)}" in inputs
    ]
    with repository.feature_store(databases, pipeline) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pandas only supports SQLAlchemy")
        job = store.get_historical_features(entity_df=entities, features=wanted, full_feature_names=True)
        start, end = job.metadata.min_event_timestamp, job.metadata.max_event_timestamp
        if None in (first, start, end) or start > first or end < last:
            return None
        return str(job.to_sql())


def _fetch(opened: Session, pipeline: ModelPipeline, query: str) -> pa.Table:
    """Yield the query's rows in batches, with the columns and types of the training set."""
    import pyarrow as pa

    types = stored_kinds(pipeline)
    schema = pa.schema(types.items())
    batches = []
    with opened.cursor("training_set") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query.encode())
        names = [column.name for column in cursor.description or ()]
        places = [names.index(name) for name in types]
        while rows := cursor.fetchmany(_BATCH):
            arrays = [pa.array([row[i] for row in rows], kind) for i, kind in zip(places, types.values(), strict=True)]
            batches.append(pa.record_batch(arrays, schema=schema))
    return with_ages(pipeline, pa.Table.from_batches(batches, schema))


def kinds(pipeline: ModelPipeline) -> dict[str, pa.DataType]:
    """Return the columns of the training set in order, with their Arrow types."""
    import pyarrow as pa

    arrow = {
        "bigint": pa.int64(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", "UTC"),
    }
    declared = {**dict(tables.rows_columns(pipeline)), labels.KNOWN_AT: "timestamptz"}
    if feed := feed_of(pipeline):
        declared |= dict(labels.columns(pipeline, feed))
    declared |= {f"{view.view}__{name}": kind for view in view_tables(pipeline) for name, kind in view.features.items()}
    declared |= {across.feature(name): SQL_TYPES[made.type] for name, made in pipeline.across().items()}
    ordered = [*pipeline.key, "event_timestamp", *plain_columns(pipeline), *pipeline.model_inputs()]
    return {name: arrow[declared[name]] for name in dict.fromkeys(ordered)}


def stored_kinds(pipeline: ModelPipeline) -> dict[str, pa.DataType]:
    """Return `kinds` as the join gives them: the tick of an entity's last row in place of the time since then.

    Expressions over several views are not there yet.
    """
    import pyarrow as pa

    ages = {
        f"{view.view}__{SINCE_LAST}": f"{view.view}__{LAST_ROW_AT}" for view in view_tables(pipeline) if view.has_age
    }
    computed = {across.feature(name) for name in pipeline.expressions}
    return {
        ages.get(name, name): pa.int64() if name in ages else kind
        for name, kind in kinds(pipeline).items()
        if name not in computed
    }


def with_ages(pipeline: ModelPipeline, table: pa.Table) -> pa.Table:
    """Return a table of `stored_kinds` with what is made after the join.

    That is the days from each entity's last row to the row's own moment, and expressions over several views.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for view in view_tables(pipeline):
        stored = f"{view.view}__{LAST_ROW_AT}"
        if not view.has_age or stored not in table.column_names:
            continue
        moment = table["event_timestamp"]
        if view.whole_days:
            moment = pc.floor_temporal(moment, unit="day")
        elapsed = pc.subtract(moment.cast(pa.int64()), table[stored])
        days = pc.divide(elapsed.cast(pa.float64(), safe=False), float(DAY))
        table = table.set_column(table.column_names.index(stored), f"{view.view}__{SINCE_LAST}", days)
    return across.with_expressions(pipeline, table)


def _entity_query(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of entity rows: the plain columns, the moment, and the join key of each view."""
    plain = plain_columns(pipeline)
    keys = {view.join_key: tables.join_key(pipeline, view) for view in view_tables(pipeline)}
    selected = [
        *(sql.SQL("{} AS {}").format(key, tables.name(column)) for column, key in keys.items()),
        *(tables.name(column) for column in [*dict.fromkeys([*pipeline.key, *plain])] if column not in keys),
        tables.name("event_timestamp"),
    ]
    return sql.SQL("SELECT {} FROM {} examples").format(sql.SQL(", ").join(selected), labels.examples(pipeline))
