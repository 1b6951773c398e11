"""Feast's PostgreSQL online store, written by COPY. Only Feast imports this module, by its dotted name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from feast.infra.key_encoding_utils import serialize_entity_key  # noqa: TID253 - Feast is there when it loads this
from feast.infra.online_stores.helpers import compute_table_id  # noqa: TID253
from feast.infra.online_stores.postgres_online_store.postgres import (  # noqa: TID253
    PostgreSQLOnlineStore,
    PostgreSQLOnlineStoreConfig,
)
from feast.infra.utils.postgres.connection_utils import _get_conn  # noqa: TID253
from psycopg import sql

_NAME = "rempart.features.copy_online_store.CopyOnlineStore"


class CopyOnlineStoreConfig(PostgreSQLOnlineStoreConfig):
    """Settings of Feast's PostgreSQL online store."""

    type: Literal[_NAME] = _NAME  # type: ignore[valid-type] # a constant, which mypy does not follow


class CopyOnlineStore(PostgreSQLOnlineStore):
    """Same tables and same reads; a batch is copied into a temporary table, then merged in the same transaction.

    `value_text`, which only serves full-text search, stays empty: it would hold each value a second time, and an index
    of its words.
    """

    @contextmanager
    def _get_conn(self, config: Any, autocommit: bool = False) -> Iterator[psycopg.Connection[Any]]:
        if self._conn is None or self._conn.closed:
            self._conn = _get_conn(config.online_store)
        self._conn.set_autocommit(autocommit)
        yield self._conn

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: list[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write the newest values of entities. A value that already exists is left unchanged."""
        target = sql.Identifier(compute_table_id(config.project, table))
        version = config.entity_key_serialization_version
        columns = sql.SQL("entity_key, feature_name, value, event_ts")
        with self._get_conn(config) as session, session.transaction(), session.cursor() as cursor:
            cursor.execute(
                "CREATE TEMP TABLE incoming"
                " (entity_key bytea, feature_name text, value bytea, event_ts timestamptz) ON COMMIT DROP"
            )
            with cursor.copy(sql.SQL("COPY incoming ({}) FROM STDIN (FORMAT binary)").format(columns)) as stream:
                stream.set_types(["bytea", "text", "bytea", "timestamptz"])
                for entity, values, timestamp, _ in data:
                    key = serialize_entity_key(entity, entity_key_serialization_version=version)
                    at = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
                    for feature, value in values.items():
                        stream.write_row((key, feature, value.SerializeToString(), at))
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {target} AS old ({columns}) SELECT {columns} FROM incoming"
                    " ON CONFLICT (entity_key, feature_name)"
                    " DO UPDATE SET value = EXCLUDED.value, event_ts = EXCLUDED.event_ts"
                    " WHERE (old.value, old.event_ts) IS DISTINCT FROM (EXCLUDED.value, EXCLUDED.event_ts)"
                ).format(target=target, columns=columns)
            )
        if progress is not None:
            progress(len(data))
