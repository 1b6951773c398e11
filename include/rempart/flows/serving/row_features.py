"""Features of single rows, by the shortest way that gives what the feature store's SQL gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rempart.errors import PredictionError
from rempart.features.expressions import across, rendering
from rempart.features.plan import SQL_TYPES, entity_key, view_tables
from rempart.features.prediction.plan import FeaturePlan, StoredView, plan
from rempart.features.tables import join_key
from rempart.flows.serving.direct_features import direct_features
from rempart.flows.serving.row_sql import RowSql
from rempart.models.inputs import Input
from rempart.serving.scorer.rows import Key, Row, typed_rows
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView

_PLAIN_KEYS = ("integer", "string", "category", "boolean", "date")
"""Types of columns whose text as a key is the same in Python and in SQL."""
Stored = Callable[[StoredView, Sequence[Any], datetime], Sequence[Mapping[str, Any] | None]]
"""Returns the features of each entity that the online store has, by their names in a training set."""


class RowFeatures:
    """Makes the features `names` of rows. `stored` is asked for the features of trailing views, as of `clock`."""

    def __init__(
        self,
        pipeline: ModelPipeline,
        names: Sequence[str],
        inputs: Sequence[Input],
        stored: Stored,
        clock: Callable[[], datetime],
    ) -> None:
        self._pipeline, self._names, self._stored, self._clock = pipeline, names, stored, clock
        self._plan: FeaturePlan = plan(pipeline, names)
        self._places = {column.name: place for place, column in enumerate(inputs)}
        self._direct = direct_features(pipeline, self._plan.row, self._places)
        made = {name: each for name, each in self._plan.row.items() if name not in self._direct}
        made |= {_key(view): view.key for view in self._plan.stored if not self._is_plain(view)}
        self._made = list(made)
        kinds = {column.name: SQL_TYPES[column.type] for column in inputs}
        self._row_sql = RowSql(kinds, made, f"make the features of '{pipeline.name}'") if made else None
        self._across = _Across(self._plan) if self._plan.pipeline.expressions else None
        self._by_key = _stored_rows(self._plan)

    def _is_plain(self, view: StoredView) -> bool:
        """Return whether Python makes a view's key: of another pipeline's view, columns have other names here."""
        return isinstance(self._pipeline.features[view.table.view], TrailingView) and all(
            self._pipeline.columns[column].type in _PLAIN_KEYS for column in view.table.by
        )

    def of(self, rows: Sequence[Row | Key]) -> list[list[Any]]:
        """Return the features of each row in the order of the names; of a key as the online store has them.

        Raises PredictionError, FeatureError, DatabaseUnavailable.
        """
        given = [row for row in rows if isinstance(row, tuple)]
        keys = [row for row in rows if not isinstance(row, tuple)]
        of_rows, of_keys = iter(self._of_rows(given)), iter(self._of_keys(keys))
        made = (next(of_rows) if isinstance(row, tuple) else next(of_keys) for row in rows)
        return [[features[name] for name in self._names] for features in made]

    def _of_rows(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        if not rows:
            return []
        features = [{name: each.of(row) for name, each in self._direct.items()} for row in rows]
        if self._row_sql:
            for made, values in zip(features, self._row_sql.rows(rows), strict=True):
                made |= zip(self._made, values, strict=True)
        at = self._clock()
        for view in self._plan.stored:
            keys = [self._entity(view, row, made) for row, made in zip(rows, features, strict=True)]
            unknown = dict.fromkeys(_features(view))
            for made, found in zip(features, self._stored(view, keys, at), strict=True):
                made |= unknown if found is None else found
        if self._across:
            self._across.add(features)
        return features

    def _entity(self, view: StoredView, row: Row, made: Mapping[str, Any]) -> Any:
        if (name := _key(view)) in made:
            return made[name]
        key = {column: row[self._places[column]] for column in view.table.by}
        return None if None in key.values() else entity_key(view.table, self._pipeline, key)

    def _of_keys(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        if not keys:
            return []
        features: list[dict[str, Any]] = [{} for _ in keys]
        at, pipeline = self._clock(), self._pipeline
        for view in self._by_key:
            name = view.table.view
            if any(column not in pipeline.columns for column in view.table.by):
                raise PredictionError(
                    f"predict by key: view '{name}' has the key of another pipeline", "Pass rows in place of keys."
                )
            by = [Input(column, pipeline.columns[column].type) for column in view.table.by]
            entities = [
                entity_key(view.table, pipeline, dict(zip(view.table.by, values, strict=True)))
                for values in typed_rows(by, keys)
            ]
            found = self._stored(view, entities, at)
            if isinstance(pipeline.features[name], RowView) and (missing := sum(each is None for each in found)):
                raise PredictionError(
                    f"predict {len(keys)} keys: the online store has no row of {missing} in view '{name}'",
                    f"Pass rows in place of keys, or wait for materialize_features_{pipeline.name}.",
                )
            for made, each in zip(features, found, strict=True):
                made |= dict.fromkeys(_features(view)) if each is None else each
        if self._across:
            self._across.add(features)
        return features

    def close(self) -> None:
        """Close the databases."""
        for opened in (self._row_sql, self._across and self._across.sql):
            if opened:
                opened.close()


def _stored_rows(made: FeaturePlan) -> list[StoredView]:
    """Return the views to read if only keys are given: those of rows, too."""
    views = list(made.stored)
    for table in view_tables(made.pipeline):
        fields = tuple(field for field in table.fields if f"{table.view}__{field.name}" in made.row)
        if fields:
            views.append(StoredView(table, fields, join_key(made.pipeline, table)))
    return views


def _features(view: StoredView) -> list[str]:
    return [f"{view.table.view}__{view.table.feature(field.name)}" for field in view.fields]


def _key(view: StoredView) -> str:
    return f"key of {view.table.view}"


class _Across:
    """Expressions over features of several views."""

    def __init__(self, made: FeaturePlan) -> None:
        pipeline, trees = made.pipeline, made.pipeline.across()
        self._read = list(dict.fromkeys(name for tree in trees.values() for name in rendering.columns(tree)))
        self._names = [across.feature(name) for name in trees]
        types = {
            f"{name}__{feature}": column
            for name, view in pipeline.features.items()
            for feature, column in view.types(pipeline.columns).items()
        }
        expressions = {across.feature(name): across.select(pipeline, tree) for name, tree in trees.items()}
        kinds = {name: SQL_TYPES[types[name].type] for name in self._read}
        self.sql = RowSql(kinds, expressions, f"compute the expressions of '{pipeline.name}'")

    def add(self, features: Sequence[dict[str, Any]]) -> None:
        """Add the expressions to the features of rows."""
        values = self.sql.rows([[made[name] for name in self._read] for made in features])
        for made, found in zip(features, values, strict=True):
            made |= zip(self._names, found, strict=True)
