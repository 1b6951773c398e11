"""Build a training set in this process, without a server: DuckDB runs the SQL of the offline store.

The features are those of the feature store, to the rounding of a sum: PostgreSQL sums exact decimals, DuckDB decimals
of nine places. A test holds both to the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rempart.features.labels import Received
from rempart.features.parquet_store import joining, loading, scratch, training_sets
from rempart.features.parquet_store.loading import UsedRows
from rempart.features.training_set import TrainingSet, entity_columns, entity_query
from rempart.features.used import sources
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import pyarrow as pa


def training_set(pipeline: ModelPipeline, table: pa.Table, *, memory: int = 512) -> pa.Table:
    """Return the training set of accepted rows, as `training_set.point_in_time` does for a snapshot.

    `memory`: of DuckDB, in MiB. Raises FeatureError if a row has no moment, or if a view has two rows for one moment.
    """
    return build(pipeline, table, None, memory=memory).table


def build(
    pipeline: ModelPipeline,
    table: pa.Table,
    labels: Received | None,
    used: Mapping[str, pa.Table] | None = None,
    *,
    memory: int = 512,
) -> TrainingSet:
    """Return the training set of accepted rows and labels. Raises the errors of `training_set`, and LabelsMissing.

    `used`: rows of each pipeline whose views are used, by name.
    """
    others = [
        UsedRows(source, (used or {})[name].to_reader(), "") for name, source in sources.sources(pipeline).items()
    ]
    with spool_folder() as spill:
        place = scratch.ScratchDatabase(spill, memory, kept=False)
        with scratch.created(place, f"build the training set of '{pipeline.name}'") as connection:
            loaded = loading.load(connection, pipeline, table.to_reader(), labels, used=others)
            views = [(view, joining.uniqueness(connection, view)) for view in joining.of_pipeline(pipeline)]
            entities = loading.in_duckdb(entity_query(pipeline))
            query = joining.joined(entities, entity_columns(pipeline), "event_timestamp", views)
            rows = training_sets.ordered(connection, pipeline, query, loaded.examples)
            return TrainingSet(rows.read_all(), "", loaded.labels, open=loaded.open)
