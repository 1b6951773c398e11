"""Build the training set of a snapshot: load its rows into a scratch database, join by Feast, read in order of key."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rempart import engine_spill
from rempart.engine_spill import Spill
from rempart.features import repository
from rempart.features.databases import FeatureDatabases
from rempart.features.labels import Received
from rempart.features.parquet_store import loading, scratch
from rempart.features.parquet_store.joining import JoinedView
from rempart.features.parquet_store.loading import LoadedRows, UsedRows
from rempart.features.parquet_store.scratch import ScratchDatabase
from rempart.features.plan import view_tables
from rempart.features.training_set import (
    TrainingSet,
    entity_columns,
    entity_query,
    kinds,
    learned_fields,
    multiplied,
    stored_kinds,
    with_ages,
)
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

logger = logging.getLogger(__name__)

STORE = "rempart.features.parquet_store.feast_store.ParquetOfflineStore"
_ROWS = 65_536


class SnapshotRows(NamedTuple):
    """The rows of a snapshot, its id, the labels that another pipeline delivers, and rows of each pipeline whose views
    are used. The rows are read once.
    """

    rows: pa.RecordBatchReader
    snapshot: str
    labels: Received | None = None
    used: Sequence[UsedRows] = ()


class JoinLimits(NamedTuple):
    """What DuckDB may use: memory in MiB, beyond which it writes to a temporary folder, and threads."""

    memory: int = 1024
    threads: int = 2


def point_in_time(
    databases: FeatureDatabases, pipeline: ModelPipeline, content: SnapshotRows, limits: JoinLimits | None = None
) -> TrainingSet | None:
    """Return the training set of a snapshot, as `training_set.point_in_time` does of the loaded one.

    None if sums of a column would not be those of PostgreSQL to six digits; the log names it. Raises FeatureError,
    LabelsMissing, DatabaseUnavailable, and what reading the rows raises.
    """
    try:
        with opened(databases, pipeline, content, limits) as (loaded, reader, spilled):
            used = {source.name: snapshot for source, _, snapshot in content.used}
            table = reader.read_all()
            return TrainingSet(table, content.snapshot, loaded.labels, used, spilled.bytes, loaded.open)
    except loading.InexactSums as column:
        logger.info("'%s': numbers of column '%s' are too small, large or alike for DuckDB", pipeline.name, column)
        return None


@contextmanager
def opened(
    databases: FeatureDatabases, pipeline: ModelPipeline, content: SnapshotRows, limits: JoinLimits | None = None
) -> Iterator[tuple[LoadedRows, pa.RecordBatchReader, Spill]]:
    """Provide the numbers of the loaded rows, a reader of the training set, and what was spilled until then.

    See `point_in_time`. Its memory is that of the limits and of some batches, however many rows there are. The registry
    of `databases` has the views; no other database is asked. Raises InexactSums, too.
    """
    memory, threads = limits or JoinLimits()
    doing = f"build the training set of '{pipeline.name}'"
    with spool_folder() as folder:
        place = ScratchDatabase(folder, memory, threads)
        with engine_spill.watched(place.spill) as spilled:
            with scratch.created(place, doing) as connection:
                loaded = loading.load(connection, pipeline, content.rows, content.labels, used=content.used, exact=True)
            joining = _joining_query(databases, pipeline, place)
            with scratch.reopened(place, doing) as connection:
                yield loaded, ordered(connection, pipeline, joining, loaded.examples), spilled


def _joining_query(databases: FeatureDatabases, pipeline: ModelPipeline, place: ScratchDatabase) -> str:
    """Return the query that Feast's interface gives for the examples in the scratch database."""
    config = {"type": STORE, "folder": str(place.folder), "memory": place.memory, "threads": place.threads}
    with _asked(databases, pipeline, config, loading.in_duckdb(entity_query(pipeline))) as job:
        return str(job.to_sql())


def asked_views(databases: FeatureDatabases, pipeline: ModelPipeline) -> tuple[JoinedView, ...]:
    """Return what Feast's interface joins to the rows to learn from, as its registry describes the views.

    An engine that has the rows elsewhere joins them by `joining.joined`. Raises FeatureError, DatabaseUnavailable.
    """
    import pandas as pd

    texts = {view.join_key: view.join_type == "text" for view in view_tables(pipeline)}
    columns = {
        name: pd.Series(dtype="object" if texts.get(name, True) else "int64") for name in entity_columns(pipeline)
    }
    columns["event_timestamp"] = pd.Series(dtype="datetime64[us, UTC]")
    with _asked(databases, pipeline, {"type": STORE, "rows": False}, pd.DataFrame(columns)) as job:
        views: tuple[JoinedView, ...] = job.views
        return views


@contextmanager
def _asked(
    databases: FeatureDatabases, pipeline: ModelPipeline, config: Mapping[str, Any], entities: Any
) -> Iterator[Any]:
    """Provide Feast's job of the features from which the model learns."""
    wanted = [f"{view}:{field}" for view, fields in learned_fields(pipeline).items() for field in fields]
    with repository.feature_store(databases, pipeline, offline_store=config) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pandas only supports SQLAlchemy")
        yield store.get_historical_features(entity_df=entities, features=wanted, full_feature_names=True)


def ordered(
    connection: duckdb.DuckDBPyConnection, pipeline: ModelPipeline, joining: str, expected: int
) -> pa.RecordBatchReader:
    """Return a reader of the joined rows with the columns and types of a training set, in order of the key.

    Its end raises FeatureError unless there were `expected` rows.
    """
    import pyarrow as pa

    wanted = stored_kinds(pipeline)
    rows: Any = connection.sql(ordered_query(wanted, pipeline.key, joining)).to_arrow_reader(_ROWS)
    stored = pa.schema(wanted.items())

    def batches() -> Iterator[pa.RecordBatch]:
        count = 0
        for batch in rows:
            count += batch.num_rows
            yield from finished(pipeline, batch, stored).to_batches()
        if count != expected:
            raise multiplied(pipeline, expected, count)

    return pa.RecordBatchReader.from_batches(pa.schema(kinds(pipeline).items()), batches())


def ordered_query(columns: Iterable[str], key: Iterable[str], joining: str) -> str:
    """Return the query of some columns of the joined rows, in order of the key."""
    names, keys = (", ".join('"' + name.replace('"', '""') + '"' for name in chosen) for chosen in (columns, key))
    return f"SELECT {names} FROM ({joining}) AS joined ORDER BY {keys}"  # noqa: S608 - names of a checked file


def finished(pipeline: ModelPipeline, batch: pa.RecordBatch, stored: pa.Schema) -> pa.Table:
    """Return joined rows, as an engine gives them, with the columns and types of a training set.

    `stored`: those of `training_set.stored_kinds`.
    """
    import pyarrow as pa

    return with_ages(pipeline, pa.Table.from_batches([batch]).cast(stored))
