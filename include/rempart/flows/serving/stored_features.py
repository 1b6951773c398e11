"""Features of entities from the online store, through a session that stays open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import psycopg

from rempart.errors import DatabaseUnavailable, FeatureError
from rempart.features.databases import Session, session
from rempart.features.plan import LAST_ROW_AT
from rempart.features.prediction.lookup import select_shown
from rempart.features.prediction.plan import StoredView
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline

PATIENCE = 5
"""Seconds after which the online store counts as away."""


class StoredFeatures:
    """Reads a pipeline's online tables. `online` tells the connection when a session is opened."""

    def __init__(self, online: Callable[[], Connection], pipeline: ModelPipeline) -> None:
        self._online, self._pipeline = online, pipeline
        self._session: Session | None = None
        self._open = ExitStack()

    def of(self, view: StoredView, keys: Sequence[Any], at: datetime) -> list[dict[str, Any] | None]:
        """Return the features of each key, by their names in a training set; None for an unknown entity.

        The time since the last row counts up to `at`. A session that was lost is opened anew once. Raises FeatureError,
        DatabaseUnavailable.
        """
        wanted = list({key for key in keys if key is not None})
        try:
            found = self._read(view, wanted, at)
        except psycopg.errors.QueryCanceled:
            raise self._away(view, f"it took longer than {PATIENCE} s") from None
        except psycopg.OperationalError:  # such as a restart of the server
            self.close()
            try:
                found = self._read(view, wanted, at)
            except psycopg.OperationalError:
                self.close()
                raise self._away(view, "no answer") from None
        known = {row[0]: self._features(view, row[1:-1], at) for row in found}
        return [known.get(key) for key in keys]

    def _features(self, view: StoredView, values: Sequence[Any], at: datetime) -> dict[str, Any]:
        table, made = view.table, dict[str, Any]()
        for field, value in zip(view.fields, values, strict=True):
            if table.feature(field.name) != field.name and field.name == LAST_ROW_AT:
                value = table.age(value, at)
            made[f"{table.view}__{table.feature(field.name)}"] = value
        return made

    def _read(self, view: StoredView, keys: Sequence[Any], at: datetime) -> list[tuple[Any, ...]]:
        doing = self._doing(view)
        if not keys:
            return []
        if self._session is None:
            opened = session(self._online(), doing, autocommit=True, patience=PATIENCE)
            self._session = self._open.enter_context(opened)
        try:
            return self._session.execute(select_shown(view, at), (list(keys),)).fetchall()
        except psycopg.errors.UndefinedTable:
            raise FeatureError(
                f"{doing}: the online store has no table with its columns",
                f"Run materialize_features_{self._pipeline.name}.",
            ) from None
        except psycopg.OperationalError:
            raise
        except psycopg.Error as cause:  # it quotes a value
            raise FeatureError(
                f"{doing}: PostgreSQL answered {type(cause).__name__} (SQLSTATE {cause.sqlstate})",
                "Check that the key's values are in the range of their columns.",
            ) from None

    def _doing(self, view: StoredView) -> str:
        return f"read view '{view.table.view}' of '{self._pipeline.name}'"

    def _away(self, view: StoredView, why: str) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"{self._doing(view)} in the online store: {why}", "`rempart status` shows whether PostgreSQL runs."
        )

    def close(self) -> None:
        """Close the session."""
        self._session = None
        try:
            self._open.close()
        except (psycopg.Error, DatabaseUnavailable):  # it is lost
            return
