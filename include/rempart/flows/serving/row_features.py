"""Features of single rows, by the shortest way that gives what the feature store's SQL gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rempart.counts import counted
from rempart.errors import PredictionError
from rempart.features.expressions import across, rendering
from rempart.features.plan import SQL_TYPES, ViewTable, entity_key, view_tables
from rempart.features.prediction.plan import FeaturePlan, StoredView, plan
from rempart.features.tables import join_key
from rempart.flows.serving.direct_features import direct_features
from rempart.flows.serving.row_sql import RowSql
from rempart.models.inputs import Input
from rempart.serving.scorer.rows import Key, Row, typed_rows
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView

_PLAIN_KEYS = ("integer", "string", "category", "boolean", "date")
"""Types of columns whose text as a key is the same in Python and in SQL."""
_Columns = dict[str, Sequence[Any]]
"""A feature's values of all rows, by its name."""
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
        places = {name: place for place, name in enumerate(names)}
        read = [(view.table.view, [places[n] for n in _features(view) if n in places]) for view in self._plan.stored]
        self._looked_up = [(view, found) for view, found in read if found]

    def _is_plain(self, view: StoredView) -> bool:
        """Return whether Python makes a view's key: of another pipeline's view, columns have other names here."""
        return isinstance(self._pipeline.features[view.table.view], TrailingView) and all(
            self._pipeline.columns[column].type in _PLAIN_KEYS for column in view.table.by
        )

    def of(self, rows: Sequence[Row | Key]) -> list[tuple[Any, ...]]:
        """Return the features of each row in the order of the names; of a key as the online store has them.

        Raises PredictionError, FeatureError, DatabaseUnavailable.
        """
        given = [row for row in rows if isinstance(row, tuple)]
        keys = [row for row in rows if not isinstance(row, tuple)]
        if not keys:
            return self._of_rows(given)
        of_rows, of_keys = iter(self._of_rows(given)), iter(self._of_keys(keys))
        return [next(of_rows) if isinstance(row, tuple) else next(of_keys) for row in rows]

    def _of_rows(self, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        if not rows:
            return []
        columns = list(zip(*rows, strict=True))
        made: _Columns = {name: each.of(columns) for name, each in self._direct.items()}
        if self._row_sql:
            made |= zip(self._made, zip(*self._row_sql.rows(rows), strict=True), strict=True)
        at = self._clock()
        for view in self._plan.stored:
            _add(made, view, self._stored(view, self._entities(view, columns, made), at))
        return self._finished(made)

    def _finished(self, made: _Columns) -> list[tuple[Any, ...]]:
        if self._across:
            self._across.add(made)
        return list(zip(*(made[name] for name in self._names), strict=True))

    def _entities(self, view: StoredView, columns: Sequence[Sequence[Any]], made: _Columns) -> Sequence[Any]:
        if (name := _key(view)) in made:
            return made[name]
        by = view.table.by
        return [
            None if None in values else entity_key(view.table, self._pipeline, dict(zip(by, values, strict=True)))
            for values in zip(*(columns[self._places[column]] for column in by), strict=True)
        ]

    def _of_keys(self, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
        """Return the features of keys: first those of rows, whose columns tell the groups that a key leaves out."""
        made: _Columns = {}
        at, pipeline = self._clock(), self._pipeline
        self._check_groups()
        columns: _Columns = {}
        for view in (each for each in self._by_key if _is_of_rows(pipeline, each)):
            found = self._stored(view, self._entities_of_keys(view.table, keys), at)
            if missing := sum(each is None for each in found):
                name = view.table.view
                raise PredictionError(
                    f"predict {counted(len(keys), 'key')}: the online store has no row in view '{name}' for "
                    f"{counted(missing, 'key')}",
                    "Pass rows in place of keys: a row whose target is not known yet has no features there "
                    f"(docs/how-to/target-comes-later.md). Others come with materialize_features_{pipeline.name}.",
                )
            _add(made, view, found)
            fields = {field.name: f"{view.table.view}__{field.name}" for field in view.fields}
            columns |= {
                column: made[name] for column, name in fields.items() if _is_group(pipeline, view.table.view, column)
            }
        groups = [view for view in self._by_key if not _is_of_rows(pipeline, view)]
        by = dict.fromkeys(column for view in groups for column in view.table.by)
        lacking = [_asked(pipeline, column, keys) for column in by if column not in columns]
        told = [Input(column, pipeline.columns[column].type, nullable=True) for column in by if column in columns]
        filled = [{name: values[i] for name, values in columns.items()} | dict(key) for i, key in enumerate(keys)]
        typed = zip(typed_rows(lacking, keys, "key"), typed_rows(told, filled, "key"), strict=True)
        names = [column.name for column in (*lacking, *told)]
        given = [dict(zip(names, (*theirs, *stored), strict=True)) for theirs, stored in typed]
        for view in groups:
            entities = [
                None if any(key[column] is None for column in view.table.by) else entity_key(view.table, pipeline, key)
                for key in given
            ]
            _add(made, view, self._stored(view, entities, at))
        return self._finished(made)

    def _check_groups(self) -> None:
        """Raise PredictionError if a view is of another pipeline, whose columns may have other names here."""
        for table in (view.table for view in self._by_key):
            if any(column not in self._pipeline.columns for column in table.by):
                raise PredictionError(
                    f"predict by key: view '{table.view}' has the key of another pipeline",
                    "Pass rows in place of keys.",
                )

    def _entities_of_keys(self, table: ViewTable, keys: Sequence[Key]) -> Sequence[Any]:
        by = [Input(column, self._pipeline.columns[column].type) for column in table.by]
        typed = typed_rows(by, keys, "key")
        return [entity_key(table, self._pipeline, dict(zip(table.by, values, strict=True))) for values in typed]

    def without(self, made: Sequence[tuple[Any, ...]]) -> list[tuple[str, ...]]:
        """Return for each row the views that are looked up by a key and gave none of its features; `made` by `of`."""
        if not self._looked_up:
            return []
        return [
            tuple(view for view, places in self._looked_up if all(row[place] is None for place in places))
            for row in made
        ]

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


def _add(made: _Columns, view: StoredView, found: Sequence[Mapping[str, Any] | None]) -> None:
    """Add the features of a view; they are null for an entity that the store does not have."""
    for name in _features(view):
        made[name] = [None if each is None else each[name] for each in found]


def _key(view: StoredView) -> str:
    return f"key of {view.table.view}"


def _is_of_rows(pipeline: ModelPipeline, view: StoredView) -> bool:
    return isinstance(pipeline.features[view.table.view], RowView)


def _is_group(pipeline: ModelPipeline, view: str, feature: str) -> bool:
    """Return whether a feature of a row is a column as it is, by which a trailing view may group rows.

    A calendar part may have the name of another column: the month of `arrival` that of `arrival_month`.
    """
    spec = pipeline.features[view]
    return isinstance(spec, RowView) and feature in spec.columns and pipeline.columns[feature].type in _PLAIN_KEYS


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

    def add(self, made: _Columns) -> None:
        """Add the expressions to the features of rows."""
        values = self.sql.rows(list(zip(*(made[name] for name in self._read), strict=True)))
        made |= zip(self._names, zip(*values, strict=True), strict=True)


def _asked(pipeline: ModelPipeline, column: str, keys: Sequence[Key]) -> Input:
    """Return a column that keys must name. Null is a value of it where the pipeline file allows null."""
    spec = pipeline.columns[column]
    return Input(column, spec.type, nullable=spec.nullable and all(column in key for key in keys))
