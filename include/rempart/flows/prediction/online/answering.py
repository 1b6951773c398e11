"""A verified version that answers rows: features by the shortest way that gives what the feature store's SQL gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rempart.errors import ModelRefused, PredictionError
from rempart.features.expressions import across, rendering
from rempart.features.plan import SQL_TYPES, entity_key
from rempart.features.prediction.plan import FeaturePlan, StoredView, plan
from rempart.flows.prediction.champion import check_definitions
from rempart.flows.prediction.online.direct_features import direct_features
from rempart.flows.prediction.online.row_sql import RowSql
from rempart.flows.prediction.online.stored_features import StoredFeatures
from rempart.models import predictions
from rempart.models.encoding import encode_rows
from rempart.models.loading import LoadedModel
from rempart.serving.scorer.batches import Answer
from rempart.serving.scorer.rows import Key, Row
from rempart.settings.pipeline import ModelPipeline, TrailingView

_PLAIN_KEYS = ("integer", "string", "category", "boolean", "date")
"""Types of columns whose text as a key is the same in Python and in SQL."""


class AnsweringVersion:
    """A version with the features of its pipeline. It implements `serving.scorer.deployments.OpenedVersion`.

    Raises PredictionError if the pipeline file gives other features than those that the model learned from.
    """

    def __init__(
        self, model: LoadedModel, pipeline: ModelPipeline, stored: StoredFeatures, clock: Callable[[], datetime]
    ) -> None:
        check_definitions(pipeline, model)
        self.version, self.sha256, self.inputs = model.version, model.sha256, model.inputs
        self.is_broken = False
        self.outputs: Mapping[str, str] = predictions.columns(model.task, model.target)
        self._model, self._pipeline, self._stored, self._clock = model, pipeline, stored, clock
        self._names = [feature.name for feature in model.features]
        self._plan: FeaturePlan = plan(pipeline, self._names)
        self._places = {column.name: place for place, column in enumerate(model.inputs)}
        self._direct = direct_features(pipeline, self._plan.row, self._places)
        made = {name: each for name, each in self._plan.row.items() if name not in self._direct}
        made |= {_key(view): view.key for view in self._plan.stored if not self._is_plain(view)}
        self._made = list(made)
        kinds = {column.name: SQL_TYPES[column.type] for column in model.inputs}
        self._row_sql = RowSql(kinds, made, f"make the features of '{pipeline.name}'") if made else None
        self._across = _Across(self._plan) if self._plan.pipeline.expressions else None

    def _is_plain(self, view: StoredView) -> bool:
        """Return whether Python makes a view's key: of another pipeline's view, columns have other names here."""
        return isinstance(self._pipeline.features[view.table.view], TrailingView) and all(
            self._pipeline.columns[column].type in _PLAIN_KEYS for column in view.table.by
        )

    def answer(self, rows: Sequence[Row | Key]) -> Answer:
        """Return a prediction for each row. Raises TrainingError, FeatureError, DatabaseUnavailable, ModelRefused."""
        features = self._features([row for row in rows if isinstance(row, tuple)])
        if len(features) < len(rows):
            raise PredictionError("predict by key: it is not supported yet", "Pass rows.")
        matrix = encode_rows(self._model.features, [[made[name] for name in self._names] for made in features])
        try:
            figures = self._model.figures(matrix)
        except ModelRefused:
            self.is_broken = True
            raise
        outputs = predictions.named_rows(self._model.task, self._model.target, figures)
        return Answer([{name: made[name] for name in self._names} for made in features], outputs)

    def _features(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return the features of rows, in order, by their names in a training set."""
        if not rows:
            return []
        features = [{name: each.of(row) for name, each in self._direct.items()} for row in rows]
        if self._row_sql:
            for made, values in zip(features, self._row_sql.rows(rows), strict=True):
                made |= zip(self._made, values, strict=True)
        at = self._clock()
        for view in self._plan.stored:
            keys = [self._entity(view, row, made) for row, made in zip(rows, features, strict=True)]
            self._add(view, features, keys, at)
        if self._across:
            self._across.add(features)
        return features

    def _add(self, view: StoredView, features: Sequence[dict[str, Any]], keys: Sequence[Any], at: datetime) -> None:
        """Add the stored features of entities; null if the store has none."""
        unknown = dict.fromkeys(f"{view.table.view}__{view.table.feature(field.name)}" for field in view.fields)
        for made, found in zip(features, self._stored.of(view, keys, at), strict=True):
            made |= unknown if found is None else found

    def _entity(self, view: StoredView, row: Row, made: Mapping[str, Any]) -> Any:
        if (name := _key(view)) in made:
            return made[name]
        key = {column: row[self._places[column]] for column in view.table.by}
        return None if None in key.values() else entity_key(view.table, self._pipeline, key)

    def close(self) -> None:
        """End the model's process, and close the connections."""
        self._model.close()
        self._stored.close()
        for opened in (self._row_sql, self._across and self._across.sql):
            if opened:
                opened.close()


class _Across:
    """Expressions over features of several views."""

    def __init__(self, made: FeaturePlan) -> None:
        pipeline, trees = made.pipeline, made.pipeline.across()
        self._read = list(dict.fromkeys(name for tree in trees.values() for name in rendering.columns(tree)))
        self._names = [across.feature(name) for name in trees]
        types = {f"{name}__{feature}": column for name, view in pipeline.features.items()
                 for feature, column in view.types(pipeline.columns).items()}  # fmt: skip
        expressions = {across.feature(name): across.select(pipeline, tree) for name, tree in trees.items()}
        kinds = {name: SQL_TYPES[types[name].type] for name in self._read}
        self.sql = RowSql(kinds, expressions, f"compute the expressions of '{pipeline.name}'")

    def add(self, features: Sequence[dict[str, Any]]) -> None:
        values = self.sql.rows([[made[name] for name in self._read] for made in features])
        for made, found in zip(features, values, strict=True):
            made |= zip(self._names, found, strict=True)


def _key(view: StoredView) -> str:
    return f"key of {view.table.view}"
