"""Feast's offline store on a scratch database of DuckDB. Only Feast imports this module, by its dotted name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feast.errors import InvalidEntityType  # noqa: TID253 - Feast is there when it loads this
from feast.infra.offline_stores.offline_store import (  # noqa: TID253
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.repo_config import FeastConfigBaseModel  # noqa: TID253

from rempart.errors import FeatureError
from rempart.features.parquet_store import joining, scratch
from rempart.features.repository import HistoryRequest

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

_NAME = "rempart.features.parquet_store.feast_store.ParquetOfflineStore"
_DOING = "join features as they were known at a moment"
_ENTITIES = "asked_rows"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the moments of no row."""


class ParquetOfflineStoreConfig(FeastConfigBaseModel):
    """The scratch folder with the rows and views of a snapshot; DuckDB's memory in MiB, and its threads.

    Without `rows` there is no such folder: a job then tells its `views`, for an engine that has the rows elsewhere.
    """

    type: Literal[_NAME] = _NAME  # type: ignore[valid-type] # a constant, which mypy does not follow
    folder: str = ""
    memory: int = 512
    threads: int = 2
    rows: bool = True

    @property
    def scratch(self) -> scratch.ScratchDatabase:
        return scratch.ScratchDatabase(Path(self.folder), self.memory, self.threads)


class ParquetOfflineStore(OfflineStore):
    """Joins features to rows. The registry and all else that Feast does are Feast's."""

    @staticmethod
    def get_historical_features(*given: Any, **asked: Any) -> RetrievalJob:
        """Return the job that reads the columns of `entity_df`, and for each feature its newest value then.

        `entity_df` is a query of the scratch database, an Arrow table or a data frame.
        """
        request = HistoryRequest.of(asked)
        entities, full_names = request.entity_df, request.full_feature_names
        if entities is None or request.options:
            raise FeatureError(
                "join features: this store needs rows with their moments",
                "Pass `entity_df`. A span of time, or a filter of created timestamps, is for `postgresql`.",
            )
        if not request.config.offline_store.rows:
            return _described(request)
        place = request.config.offline_store.scratch
        query = entities if isinstance(entities, str) else f"SELECT * FROM {_ENTITIES}"  # noqa: S608 - a constant
        with scratch.reopened(place, _DOING) as connection:
            _register(connection, entities)
            columns = dict(connection.sql(f"SELECT * FROM ({query}) AS asked LIMIT 0").df().dtypes)  # noqa: S608
            moment = request.moment(columns)
            span = f'SELECT min("{moment}"), max("{moment}") FROM ({query}) AS asked'  # noqa: S608
            ((first, last),) = connection.execute(span).fetchall()
            contexts = request.contexts((first or _EPOCH, last or _EPOCH))
            views = [joining.of_feast(context, full_names=full_names) for context in contexts]
            shaped = [(view, joining.uniqueness(connection, view)) for view in views]
        return ParquetRetrievalJob(
            joining.joined(query, columns, moment, shaped),
            entities,
            place,
            views=tuple(views),
            full_feature_names=full_names,
            on_demand=request.on_demand(),
            metadata=request.metadata(columns, moment, first, last),
        )

    @staticmethod
    def pull_latest_from_table_or_query(*arguments: Any, **named: Any) -> RetrievalJob:
        """Refuse: the online store is written from PostgreSQL."""
        raise _not_joined()

    @staticmethod
    def pull_all_from_table_or_query(*arguments: Any, **named: Any) -> RetrievalJob:
        """Refuse: the online store is written from PostgreSQL."""
        raise _not_joined()


class ParquetRetrievalJob(RetrievalJob):
    """A join that runs when its rows are asked for."""

    def __init__(
        self,
        query: str,
        entities: Any,
        place: scratch.ScratchDatabase,
        *,
        views: tuple[joining.JoinedView, ...],
        full_feature_names: bool,
        on_demand: list[Any],
        metadata: RetrievalMetadata,
    ) -> None:
        self._query, self._entities, self._place, self.views = query, entities, place, views
        self._full_feature_names, self._on_demand, self._metadata = full_feature_names, on_demand, metadata

    def to_sql(self) -> str:
        """Return the query of the join."""
        return self._query

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with scratch.reopened(self._place, _DOING) as connection:
            _register(connection, self._entities)
            return connection.sql(self._query).to_arrow_table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata


def _described(request: HistoryRequest) -> ParquetRetrievalJob:
    """Return a job that tells its views, and reads no row."""
    columns = dict(request.entity_df.dtypes)
    moment = request.moment(columns)
    return ParquetRetrievalJob(
        "",
        None,
        request.config.offline_store.scratch,
        views=tuple(
            joining.of_feast(context, full_names=request.full_feature_names)
            for context in request.contexts((_EPOCH, _EPOCH))
        ),
        full_feature_names=request.full_feature_names,
        on_demand=request.on_demand(),
        metadata=request.metadata(columns, moment, None, None),
    )


def _register(connection: duckdb.DuckDBPyConnection, entities: Any) -> None:
    """Let queries read rows that are no query themselves. Raises InvalidEntityType."""
    import pandas as pd
    import pyarrow as pa

    if isinstance(entities, (pd.DataFrame, pa.Table)):
        connection.register(_ENTITIES, entities)
    elif not isinstance(entities, str):
        raise InvalidEntityType(type(entities))


def _not_joined() -> FeatureError:
    return FeatureError(
        "read all rows of a feature view: the scratch database of a training set only joins",
        "Use the feature store with `offline_store: postgresql`.",
    )
