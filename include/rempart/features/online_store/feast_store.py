"""Feast's online store on our tables. Only Feast imports this module, by its dotted name.

The platform writes through `features.online`; these methods are for `get_online_features` and for programs that use
Feast's own API. A view has one join key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import psycopg
from feast.infra.online_stores.online_store import OnlineStore  # noqa: TID253 - Feast is there when it loads this
from feast.infra.utils.postgres.connection_utils import _get_conn  # noqa: TID253
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig  # noqa: TID253
from feast.protos.feast.types.Value_pb2 import Value  # noqa: TID253
from feast.types import Bool, Float64, Int64, String  # noqa: TID253
from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import tables
from rempart.features.online_store import generations, writing
from rempart.features.plan import DEFINITION, Field, OnlineTable, SqlType

_NAME = "rempart.features.online_store.feast_store.RowOnlineStore"
_TYPES: dict[Any, SqlType] = {Int64: "bigint", Float64: "double precision", Bool: "boolean", String: "text"}
_VALUES = {"bigint": "int64_val", "double precision": "double_val", "boolean": "bool_val", "text": "string_val"}

Written = tuple[Any, dict[str, Any], datetime, datetime | None]
"""What Feast writes of an entity: its key and values in Feast's messages, event time, and time of creation."""


class RowOnlineStoreConfig(PostgreSQLConfig):
    """Settings of Feast's PostgreSQL connections."""

    type: Literal[_NAME] = _NAME  # type: ignore[valid-type] # a constant, which mypy does not follow


class RowOnlineStore(OnlineStore):
    """One typed row for each entity and view."""

    _conn: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def _session(self, config: Any) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Provide the connection, which stays open and is in no transaction between calls."""
        if self._conn is None or self._conn.closed:
            self._conn = _get_conn(config.online_store)
            self._conn.autocommit = True
        yield self._conn

    def online_read(
        self, config: Any, table: Any, entity_keys: Sequence[Any], requested_features: list[str] | None = None
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """Return event time and values of each entity, in one round trip; (None, None) if it is unknown."""
        online = online_table(config.project, table)
        query, made = _selected(online, None if requested_features is None else tuple(requested_features))
        keys = [_key(online, entity) for entity in entity_keys]
        with self._session(config) as opened, opened.cursor(binary=True) as cursor:
            found = {row[0]: row for row in cursor.execute(query, (keys,), prepare=True)}
        return [_answer(made, found.get(key)) for key in keys]

    def online_write_batch(
        self, config: Any, table: Any, data: Sequence[Written], progress: Callable[[int], Any] | None
    ) -> None:
        """Write the newest values of entities; of an entity that comes twice, the last. Absent features become NULL."""
        online = online_table(config.project, table)
        rows = {}
        for entity, values, timestamp, _ in data:
            at = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
            key = _key(online, entity)
            rows[key] = (key, *(_value(field, values.get(field.name)) for field in online.fields), at)
        with self._session(config) as opened, opened.transaction(), opened.cursor() as cursor:
            writing.with_incoming(opened, online)
            into = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(tables.name(writing.INCOMING))
            with cursor.copy(into) as stream:
                stream.set_types([declared for _, declared in online.columns])
                for row in rows.values():
                    stream.write_row(row)
            writing.merge(opened, online)
        if progress is not None:
            progress(len(data))

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Create the tables of views that have none, and drop every generation of deleted views."""
        with self._session(config) as opened, opened.transaction():
            generations.ensure_register(opened)
            for table in tables_to_keep:
                online = online_table(config.project, table)
                if generations.create(opened, online):
                    generations.add_key(opened, online)
                    generations.watch(opened, online)
            self._drop(opened, config, tables_to_delete)

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Drop every generation of these views."""
        with self._session(config) as opened, opened.transaction():
            self._drop(opened, config, tables)

    @staticmethod
    def _drop(opened: psycopg.Connection[tuple[Any, ...]], config: Any, views: Sequence[Any]) -> None:
        for view in views:
            generations.drop(opened, generations.tables_of(opened, config.project, view.name))


def online_table(project: str, view: Any) -> OnlineTable:
    """Return the online table of one of Feast's feature views. Raises FeatureError for what our tables do not hold."""
    if len(view.entity_columns) != 1:
        raise FeatureError(
            f"find the online table of view '{view.name}': it has {len(view.entity_columns)} join keys",
            "Give the view one join key: rempart makes one of several columns.",
        )
    (key,) = (_field(view.name, field) for field in view.entity_columns)
    return OnlineTable(
        project, view.name, key.name, key.type, tuple(_field(view.name, field) for field in view.features)
    )


def _field(view: str, field: Any) -> Field:
    declared = _TYPES.get(field.dtype)
    if declared is None:
        raise FeatureError(
            f"find the online table of view '{view}': '{field.name}' has the type {field.dtype}",
            f"Use one of {', '.join(map(str, _TYPES))}.",
        )
    return Field(field.name, declared, field.tags.get(DEFINITION, ""))


def _key(table: OnlineTable, entity: Any) -> Any:
    (value,) = entity.entity_values
    return getattr(value, value.WhichOneof("val"))


def _value(field: Field, value: Any) -> Any:
    return None if value is None or value.WhichOneof("val") is None else getattr(value, _VALUES[field.type])


@lru_cache(maxsize=256)
def _selected(table: OnlineTable, features: tuple[str, ...] | None) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Return the query of some features, by default all, and the name of each with the part of Feast's message."""
    fields = [field for field in table.fields if features is None or field.name in features]
    return writing.select(table, fields).as_bytes(None), tuple((field.name, _VALUES[field.type]) for field in fields)


def _answer(
    made: Sequence[tuple[str, str]], row: Sequence[Any] | None
) -> tuple[datetime | None, dict[str, Any] | None]:
    if row is None:
        return None, None
    values = {}
    for (name, part), value in zip(made, row[1:-1], strict=True):
        values[name] = message = Value()
        if value is not None:
            setattr(message, part, value)
    return row[-1], values
