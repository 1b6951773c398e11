"""The Feast repository of a pipeline, built in code: no feature_store.yaml, so no secret in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, LiteralString

from rempart import canonical_json
from rempart.features import quick_feast
from rempart.features.databases import FeatureDatabases, feast_errors, registry_url, session, sslmode
from rempart.features.plan import DEFINITION, ViewTable, view_tables
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline

ONLINE_STORE = "rempart.features.online_store.feast_store.RowOnlineStore"
"""One typed row for each entity (docs/adr/0107-online-store.md); "postgres" selects Feast's own."""
OFFLINE_STORE = "rempart.features.indexed_store.IndexedOfflineStore"
"""PostgreSQL, where the views' tables are (docs/adr/0109-join-by-index.md)."""

_HELD: LiteralString = """
    SELECT encode(sha256(string_agg(held, ''::bytea ORDER BY held)), 'hex') FROM (
        SELECT sha256(feature_view_proto) AS held FROM feature_views WHERE project_id = %(project)s
        UNION ALL SELECT sha256(entity_proto) FROM entities WHERE project_id = %(project)s
        UNION ALL SELECT sha256(data_source_proto) FROM data_sources WHERE project_id = %(project)s
    ) h"""
"""What Feast's registry holds of a project: null if nothing."""


@contextmanager
def feature_store(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    online_store: str = ONLINE_STORE,
    offline_store: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """Provide a `feast.FeatureStore` whose project is the pipeline, and close its connections at the end.

    `offline_store`: its type and settings; the offline database without them. Raises FeatureError,
    DatabaseUnavailable.
    """
    with feast_errors(f"open the feature store of '{pipeline.name}'"):
        quick_feast.load()
        from feast import FeatureStore, RepoConfig

        store = FeatureStore(
            config=RepoConfig(
                project=pipeline.name,
                provider="local",
                registry={
                    "registry_type": "sql",
                    "path": registry_url(databases.registry),
                    "sqlalchemy_config_kwargs": {"echo": False, "hide_parameters": True, "pool_size": 1},
                },
                offline_store=dict(offline_store or {})
                or {
                    "type": OFFLINE_STORE,
                    "entity_select_mode": "embed_query",  # the other mode leaves a table behind when it is killed
                    **_server(databases.offline),
                },
                online_store={"type": online_store, **_server(databases.online)},
                entity_key_serialization_version=3,
            )
        )
        registry: Any = store.registry
    try:
        with feast_errors(f"use the feature store of '{pipeline.name}'"):
            yield store
    finally:
        # Feast keeps its connections for ever, which blocks the removal of a scratch database
        registry.write_engine.dispose()
        connection = getattr(store._get_provider().online_store, "_conn", None)
        if connection is not None:
            connection.close()


def register(databases: FeatureDatabases, pipeline: ModelPipeline) -> str:
    """Register the pipeline's definitions with Feast. Return the `fingerprint` after it.

    Raises the errors of `feature_store`.
    """
    with feature_store(databases, pipeline) as store:
        apply(store, pipeline)
    return fingerprint(databases, pipeline)


def fingerprint(databases: FeatureDatabases, pipeline: ModelPipeline) -> str:
    """Return a hash of the pipeline's definitions, of Feast's version, and of what its registry holds of the pipeline.

    While it is the same, nothing must be registered: a registry that was restored or changed has another one. Raises
    FeatureError and DatabaseUnavailable.
    """
    definitions = [asdict(table) for table in view_tables(pipeline)]
    told = canonical_json.encode([version("feast"), pipeline.classification, definitions])
    with session(databases.registry, f"look up the Feast project '{pipeline.name}'") as opened:
        held = None
        if opened.execute("SELECT to_regclass('public.feature_views')").fetchone() != (None,):
            (held,) = opened.execute(_HELD, {"project": pipeline.name}).fetchone() or (None,)
    return f"{hashlib.sha256(told).hexdigest()}-{held}"


@dataclass(frozen=True)
class HistoryRequest:
    """What Feast asks an offline store for: features of the rows of `entity_df` at the moment of each row.

    `options`: what else Feast passes, which changes the question.
    """

    config: Any
    feature_views: list[Any]
    feature_refs: list[str]
    entity_df: Any
    registry: Any
    project: str
    full_feature_names: bool
    options: Mapping[str, Any]

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> HistoryRequest:
        """Return the request in the arguments of `get_historical_features`, which Feast passes by name."""
        own = [field.name for field in fields(cls) if field.name != "options"]
        options = {name: value for name, value in asked.items() if name not in own and value}
        return cls(**{name: asked[name] for name in own}, options=options)

    def moment(self, columns: dict[str, Any]) -> str:
        """Return which of the rows' columns has the moment. Raises Feast's errors if a key is missing."""
        from feast.infra.offline_stores import offline_utils

        moment: str = offline_utils.infer_event_timestamp_from_entity_df(columns)
        keys = offline_utils.get_expected_join_keys(self.project, self.feature_views, self.registry)
        offline_utils.assert_expected_columns_in_entity_df(columns, keys, moment)
        return moment

    def contexts(self, span: tuple[datetime, datetime]) -> list[Any]:
        """Return Feast's context of each view. `span`: first and last moment of the rows."""
        from feast.infra.offline_stores import offline_utils

        views: list[Any] = offline_utils.get_feature_view_query_context(
            self.feature_refs, self.feature_views, self.registry, self.project, span
        )
        return views

    def on_demand(self) -> list[Any]:
        """Return the views whose features are computed after the join."""
        from feast.on_demand_feature_view import OnDemandFeatureView

        views: list[Any] = OnDemandFeatureView.get_requested_odfvs(self.feature_refs, self.project, self.registry)
        return views

    def metadata(self, columns: Iterable[str], moment: str, first: Any, last: Any) -> Any:
        """Return Feast's description of the job. `columns` and `moment`: of the rows; `first`, `last`: their span."""
        from feast.infra.offline_stores.offline_store import RetrievalMetadata

        keys = [column for column in columns if column != moment]
        return RetrievalMetadata(self.feature_refs, keys, first, last)


def apply(store: Any, pipeline: ModelPipeline) -> None:
    """Register the pipeline's entities and views, and create online tables that are missing; drop views that it lost.

    Idempotent. How far the online store is stands in our own table, so nothing that Feast does here can reset it.
    """
    quick_feast.load()
    from feast import Entity, FeatureView, Field
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Bool, Float64, Int64, String
    from feast.value_type import ValueType

    types = {"bigint": Int64, "double precision": Float64, "boolean": Bool, "text": String}
    tables = view_tables(pipeline)
    entities = {
        table.join_key: Entity(
            name=table.join_key,
            join_keys=[table.join_key],
            value_type=ValueType.INT64 if table.join_type == "bigint" else ValueType.STRING,
        )
        for table in tables
    }

    def view(table: ViewTable) -> Any:
        return FeatureView(
            name=table.view,
            entities=[entities[table.join_key]],
            ttl=timedelta(days=table.ttl_days or 0),  # 0 is "for ever"
            schema=[
                Field(name=table.join_key, dtype=types[table.join_type]),
                *(
                    Field(name=field.name, dtype=types[field.type], tags={DEFINITION: field.definition})
                    for field in table.fields
                ),
            ],
            source=PostgreSQLSource(name=table.table, table=table.table, timestamp_field="event_timestamp"),
            online=True,
            tags={"at": table.at, "classification": pipeline.classification},
        )

    lost = [feature_view for feature_view in store.list_feature_views() if feature_view.name not in pipeline.features]
    store.apply([*entities.values(), *map(view, tables)], objects_to_delete=lost, partial=False)


def _server(connection: Connection) -> dict[str, Any]:
    return {
        "host": connection.host,
        "port": connection.port or 5432,
        "database": connection.schema,
        "db_schema": "public",
        "user": connection.login,
        "password": connection.password,
        "sslmode": sslmode(connection),
        **{f"{name}_path": file for name, file in connection.tls().items() if name != "sslmode"},
    }
