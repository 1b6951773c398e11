"""Build the training set of a snapshot: load its rows into a scratch database, join by Feast, read in order of key."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rempart.features import repository
from rempart.features.databases import FeatureDatabases
from rempart.features.labels import Received
from rempart.features.parquet_store import loading, scratch
from rempart.features.parquet_store.loading import LoadedRows, UsedRows
from rempart.features.parquet_store.scratch import ScratchDatabase
from rempart.features.training_set import (
    TrainingSet,
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
        with opened(databases, pipeline, content, limits) as (loaded, reader):
            used = {source.name: snapshot for source, _, snapshot in content.used}
            return TrainingSet(reader.read_all(), content.snapshot, loaded.labels, used)
    except loading.InexactSums as column:
        logger.info("'%s': numbers of column '%s' are too small, large or alike for DuckDB", pipeline.name, column)
        return None


@contextmanager
def opened(
    databases: FeatureDatabases, pipeline: ModelPipeline, content: SnapshotRows, limits: JoinLimits | None = None
) -> Iterator[tuple[LoadedRows, pa.RecordBatchReader]]:
    """Provide the numbers of the loaded rows, and a reader of the training set; see `point_in_time`.

    Its memory is that of the limits and of some batches, however many rows there are. The registry of `databases` has
    the views; no other database is asked. Raises InexactSums, too.
    """
    memory, threads = limits or JoinLimits()
    doing = f"build the training set of '{pipeline.name}'"
    with spool_folder() as folder:
        place = ScratchDatabase(folder, memory, threads)
        with scratch.created(place, doing) as connection:
            loaded = loading.load(connection, pipeline, content.rows, content.labels, used=content.used, exact=True)
        joining = _joining_query(databases, pipeline, place)
        with scratch.reopened(place, doing) as connection:
            yield loaded, ordered(connection, pipeline, joining, loaded.examples)


def _joining_query(databases: FeatureDatabases, pipeline: ModelPipeline, place: ScratchDatabase) -> str:
    """Return the query that Feast's interface gives for the examples in the scratch database."""
    config = {"type": STORE, "folder": str(place.folder), "memory": place.memory, "threads": place.threads}
    wanted = [f"{view}:{field}" for view, fields in learned_fields(pipeline).items() for field in fields]
    with repository.feature_store(databases, pipeline, offline_store=config) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pandas only supports SQLAlchemy")
        entities = loading.in_duckdb(entity_query(pipeline))
        job = store.get_historical_features(entity_df=entities, features=wanted, full_feature_names=True)
        return str(job.to_sql())


def ordered(
    connection: duckdb.DuckDBPyConnection, pipeline: ModelPipeline, joining: str, expected: int
) -> pa.RecordBatchReader:
    """Return a reader of the joined rows with the columns and types of a training set, in order of the key.

    Its end raises FeatureError unless there were `expected` rows.
    """
    import pyarrow as pa

    names, keys = (
        ", ".join('"' + name.replace('"', '""') + '"' for name in chosen)
        for chosen in (stored_kinds(pipeline), pipeline.key)
    )
    stored = pa.schema(stored_kinds(pipeline).items())
    rows: Any = connection.sql(f"SELECT {names} FROM ({joining}) AS joined ORDER BY {keys}").to_arrow_reader(_ROWS)  # noqa: S608

    def batches() -> Iterator[pa.RecordBatch]:
        count = 0
        for batch in rows:
            count += batch.num_rows
            yield from with_ages(pipeline, pa.Table.from_batches([batch]).cast(stored)).to_batches()
        if count != expected:
            raise multiplied(pipeline, expected, count)

    return pa.RecordBatchReader.from_batches(pa.schema(kinds(pipeline).items()), batches())
