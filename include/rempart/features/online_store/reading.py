"""Reads online tables: what a read needs is made once, so each read is one round trip of a prepared statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from rempart.errors import FeatureError
from rempart.features.databases import Session
from rempart.features.online_store import writing
from rempart.features.plan import LAST_ROW_AT, entity_key, view_tables
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline


class ViewReader:
    """Reads the newest features of a view's entities through a session that stays open.

    The session must be in autocommit: a transaction left open would keep the tables of former views from being dropped.
    Raises FeatureError if the pipeline has no such view.
    """

    def __init__(self, opened: Session, pipeline: ModelPipeline, view: str) -> None:
        table = next((table for table in view_tables(pipeline) if table.view == view), None)
        if table is None:
            raise FeatureError(
                f"'{pipeline.name}' has no view '{view[:60]}'", f"Use one of {', '.join(pipeline.features)}."
            )
        self._opened, self._pipeline, self._table = opened, pipeline, table
        self._fields = [field.name for field in table.fields]
        self._query = writing.select(table.online).as_bytes(opened)
        self._cursor = opened.cursor(binary=True)

    def read(self, keys: Sequence[Mapping[str, Any]], at: datetime | None = None) -> list[dict[str, Any]]:
        """Return the newest features, one dict per key in order: the key's columns and the view's features.

        `at` is the moment of the prediction, until which `days_since_last` counts; default: now. Features of an unknown
        entity are None. Raises FeatureError.
        """
        rows = self.stored(keys)
        if self._table.has_age:
            moment = at or datetime.now(UTC)
            for row in rows:
                row[SINCE_LAST] = self._table.age(row.pop(LAST_ROW_AT), moment)
        return rows

    def stored(self, keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return what `read` returns, with the fields of the store in place of what is made when a row is read."""
        table = self._table
        entities = [entity_key(table, self._pipeline, key) for key in keys]
        if not entities:
            return []
        try:
            found = self._cursor.execute(self._query, (entities,), prepare=True).fetchall()
        except psycopg.errors.UndefinedTable:
            raise FeatureError(
                f"read view '{table.view}' of '{self._pipeline.name}': the online store has no table with its columns "
                "and definitions",
                f"Run materialize_features_{self._pipeline.name}.",
            ) from None
        values = {row[0]: row[1:-1] for row in found}
        unknown = (None,) * len(self._fields)
        return [
            {column: key[column] for column in table.by}
            | dict(zip(self._fields, values.get(entity, unknown), strict=True))
            for key, entity in zip(keys, entities, strict=True)
        ]
