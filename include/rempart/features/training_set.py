"""The point-in-time training set: for each row, the features as they were known at the moment of its prediction."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from psycopg import sql

from rempart.errors import FeatureError, LabelsMissing
from rempart.features import labels, offline, repository, tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.expressions import across
from rempart.features.label_feed import LabelFeed, LabelsUsed, feed_of, told_open
from rempart.features.plan import DAY, LAST_ROW_AT, SQL_TYPES, view_tables
from rempart.features.used import sources
from rempart.settings.evaluation.splits import split_columns
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 5
Buffer = bytes | bytearray | memoryview
_BLOCK = 16 << 20
"""Bytes of rows that are read at the same time: more than a row may have."""


def plain_columns(pipeline: ModelPipeline) -> list[str]:
    """Return columns of the snapshot stored with the features: key, target, those that split, and the gate's groups."""
    grouped = pipeline.gate.grouping_columns()
    known = [labels.KNOWN_AT] if labels.tells_known_at(pipeline) else []
    sides = split_columns(pipeline.holdout, pipeline.validation)
    return list(dict.fromkeys([*pipeline.key, pipeline.prediction.target, *known, *sides, *grouped]))


class TrainingSet(NamedTuple):
    """A training set, the id of the snapshot of its rows, and of its labels if another pipeline delivers them.

    `used`: id of the snapshot of each pipeline whose views are used. `spilled`: bytes that DuckDB wrote to disk.
    `open`: rows that are left out because they lack their own target.
    """

    table: pa.Table
    snapshot: str
    labels: LabelsUsed | None = None
    used: Mapping[str, str] = MappingProxyType({})
    spilled: int = 0
    open: int = 0


def point_in_time(databases: FeatureDatabases, pipeline: ModelPipeline) -> TrainingSet:
    """Return the training set and the ids of its snapshots, read in one transaction: never of two loads.

    One row per key of the loaded snapshot, sorted by key: the key, `event_timestamp` (the moment of the prediction,
    UTC), `plain_columns`, then every `pipeline.model_inputs()` column. Feast writes the query, which joins each view's
    newest row at or before that moment. A concurrent load changes nothing. Rows without a label of another pipeline, or
    without their own target, are left out, and counted. Raises FeatureError if rows were lost or multiplied, if nothing
    was loaded, or if a view's definition changed since then; InputMissing if a view of another pipeline was not loaded;
    LabelsMissing; DatabaseUnavailable.
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
        used, snapshot = sources.recorded(opened, pipeline), offline.trainable_snapshot_in(opened, pipeline)
        labelled = offline.labels_in(opened, pipeline)
        if labelled and not labelled.rows.labelled:
            raise no_example(pipeline, labelled)
        (waiting,) = opened.execute(labels.select_open(pipeline)).fetchone() or (0,)
        rows = labels.examples(pipeline)
        span = sql.SQL("SELECT count(*), min(event_timestamp), max(event_timestamp) FROM {} examples").format(rows)
        expected, first, last = opened.execute(span).fetchone() or (0, None, None)
        if waiting and not expected:
            raise all_open(pipeline, waiting)
        joining = _joining_query(databases, pipeline, entity_query(pipeline).as_string(opened), first, last)
        if joining is None or not expected:
            return None
        table = _fetch(opened, pipeline, joining)
    if table.num_rows != expected:
        raise multiplied(pipeline, expected, table.num_rows)
    ordered = table.sort_by([(key, "ascending") for key in pipeline.key])
    return TrainingSet(ordered, snapshot, labelled, used, open=waiting)


def multiplied(pipeline: ModelPipeline, expected: int, found: int) -> FeatureError:
    """Return the error of a join that lost or multiplied rows."""
    return FeatureError(
        f"build the training set of '{pipeline.name}': the point-in-time join returned {found} rows instead of "
        f"{expected}",
        "Do not train on it. Run the materialization again. If it fails again, look for a view with two rows for one "
        "moment.",
    )


def no_example(pipeline: ModelPipeline, used: LabelsUsed) -> LabelsMissing:
    """Return the error of a pipeline of whose rows none has a label yet."""
    return LabelsMissing(
        f"build the training set of '{pipeline.name}': {used.told()}",
        f"Deliver labels to pipeline '{used.pipeline}': `rempart pipeline deliver {used.pipeline} FILE`. Check that "
        "its key has the values of these rows, and that `known_at` is later than their moment.",
    )


def all_open(pipeline: ModelPipeline, rows: int) -> LabelsMissing:
    """Return the error of a pipeline of whose rows none has its own target yet."""
    return LabelsMissing(
        f"build the training set of '{pipeline.name}': {told_open(rows, pipeline.prediction.target)}, and no "
        "row has it",
        "Deliver the rows again once their outcome is known, with `on_conflict: newest` in the pipeline file. If there "
        f"are outcomes by now, look under which name the files have '{pipeline.prediction.target}'.",
    )


def _joining_query(
    databases: FeatureDatabases, pipeline: ModelPipeline, entities: str, first: Any, last: Any
) -> str | None:
    """Return Feast's query for the rows of `entities`; None if it limits the views to less than `first` to `last`.

    Feast reads the span of the event times itself, outside our transaction.
    """
    wanted = [f"{view}:{field}" for view, fields in learned_fields(pipeline).items() for field in fields]
    with repository.feature_store(databases, pipeline) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pandas only supports SQLAlchemy")
        job = store.get_historical_features(entity_df=entities, features=wanted, full_feature_names=True)
        start, end = job.metadata.min_event_timestamp, job.metadata.max_event_timestamp
        if None in (first, start, end) or start > first or end < last:
            return None
        return str(job.to_sql())


def _fetch(opened: Session, pipeline: ModelPipeline, query: str) -> pa.Table:
    """Return the query's rows, with the columns and types of the training set. Arrow reads the text of a COPY."""
    import pyarrow as pa

    types = stored_kinds(pipeline)
    copy = sql.SQL("COPY (SELECT {} FROM ({}) AS joined) TO STDOUT (FORMAT csv, HEADER)").format(
        sql.SQL(", ").join(sql.SQL(copied(kind)).format(tables.name(name)) for name, kind in types.items()),
        sql.SQL(query),
    )
    with opened.cursor() as cursor, cursor.copy(copy) as blocks:
        try:
            table = read_csv(blocks, types)
        except pa.ArrowInvalid:  # it quotes a value
            raise FeatureError(
                f"read the training set of '{pipeline.name}': the loaded rows have other types than the file's schema",
                f"Run materialize_features_{pipeline.name}, then train again.",
            ) from None
    return with_ages(pipeline, table)


def copied(kind: pa.DataType) -> LiteralString:
    """Return how a COPY writes a column for `read_csv`: times as whole numbers, whatever their year."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return "(extract(epoch FROM {0}) * 1000000)::bigint AS {0}"
    return "{0} - date '1970-01-01' AS {0}" if pa.types.is_date(kind) else "{0}"


def read_csv(blocks: Iterable[Buffer], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Return the rows of PostgreSQL's COPY in CSV, with a header, as columns of some types; times as `copied` says."""
    import pyarrow as pa
    import pyarrow.csv as csv

    numbers = {
        name: pa.int64() if pa.types.is_timestamp(kind) else pa.int32() if pa.types.is_date(kind) else kind
        for name, kind in types.items()
    }
    found = csv.read_csv(
        _Blocks(blocks),
        csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(
            column_types=numbers,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    return found.cast(pa.schema(types.items()))


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterable[Buffer]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end."""
        held, length = [self._rest], len(self._rest)
        while size < 0 or length < size:
            if (block := next(self._blocks, None)) is None:
                break
            held.append(bytes(block))
            length += len(block)
        whole = b"".join(held)
        wanted = len(whole) if size < 0 else size
        self._rest = whole[wanted:]
        return whole[:wanted]


def kinds(pipeline: ModelPipeline, feed: LabelFeed | None = None) -> dict[str, pa.DataType]:
    """Return the columns of the training set in order, with their Arrow types.

    `feed`: that of the labels, which is searched in the project's files without it.
    """
    declared = {**dict(tables.rows_columns(pipeline)), labels.KNOWN_AT: "timestamptz"}
    if feed := feed or feed_of(pipeline):
        declared |= dict(labels.columns(pipeline, feed))
    declared |= {f"{view.view}__{name}": kind for view in view_tables(pipeline) for name, kind in view.features.items()}
    declared |= {across.feature(name): SQL_TYPES[made.type] for name, made in pipeline.across().items()}
    ordered = [*pipeline.key, "event_timestamp", *plain_columns(pipeline), *pipeline.model_inputs()]
    return {name: arrow_type(declared[name]) for name in dict.fromkeys(ordered)}


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a type of the feature store."""
    import pyarrow as pa

    arrow = {
        "bigint": pa.int64(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", "UTC"),
    }
    return arrow[kind]


def stored_kinds(pipeline: ModelPipeline, feed: LabelFeed | None = None) -> dict[str, pa.DataType]:
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
        for name, kind in kinds(pipeline, feed).items()
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


def learned_fields(pipeline: ModelPipeline) -> dict[str, list[str]]:
    """Return the fields of each view that give an input of the model."""
    inputs = set(pipeline.model_inputs())
    return {
        view.view: [f.name for f in view.fields if f"{view.view}__{view.feature(f.name)}" in inputs]
        for view in view_tables(pipeline)
    }


def entity_columns(pipeline: ModelPipeline) -> list[str]:
    """Return the columns of `entity_query`: the join key of each view, the plain columns, and the moment."""
    keys = [view.join_key for view in view_tables(pipeline)]
    return list(dict.fromkeys([*keys, *pipeline.key, *plain_columns(pipeline), "event_timestamp"]))


def entity_query(pipeline: ModelPipeline) -> sql.Composed:
    """Return the query of the rows to learn from, with `entity_columns`."""
    keys = {view.join_key: tables.join_key(pipeline, view) for view in view_tables(pipeline)}
    selected = [
        sql.SQL("{} AS {}").format(keys.get(column, tables.name(column)), tables.name(column))
        for column in entity_columns(pipeline)
    ]
    return sql.SQL("SELECT {} FROM {} examples").format(sql.SQL(", ").join(selected), labels.examples(pipeline))
