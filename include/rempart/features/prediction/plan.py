"""Which columns of a row a model's features are made of, and by which SQL: that of the feature store. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.expressions import across, rendering
from rempart.features.plan import Field, ViewTable, view_tables
from rempart.features.views import row_features
from rempart.models.inputs import Input
from rempart.settings.learning import RowView
from rempart.settings.pipeline import ModelPipeline


@dataclass(frozen=True)
class StoredView:
    """A trailing view, whose features are looked up in the online store. `key`: SQL of a row's entity."""

    table: ViewTable
    fields: tuple[Field, ...]
    key: sql.Composable


@dataclass(frozen=True)
class FeaturePlan:
    """How the wanted features of a row are made.

    `row`: SQL over the row's columns, by the name that a training set gives the feature. `stored`: views to look up.
    `pipeline`: the pipeline, of whose expressions over several views only the wanted ones are left.
    """

    pipeline: ModelPipeline
    row: Mapping[str, sql.Composable]
    stored: tuple[StoredView, ...]

    @property
    def columns(self) -> list[str]:
        """Return the columns of the pipeline's schema that the SQL reads, in the schema's order."""
        read = {name for made in (*self.row.values(), *(view.key for view in self.stored)) for name in _names(made)}
        return [column for column in self.pipeline.columns if column in read]


def plan(pipeline: ModelPipeline, features: Iterable[str]) -> FeaturePlan:
    """Return how features, by their names in a training set, are made for a row. Unknown names are passed over."""
    wanted = set(features)
    trees = {name: tree for name, tree in pipeline.across().items() if across.feature(name) in wanted}
    wanted |= {column for tree in trees.values() for column in rendering.columns(tree)}
    row: dict[str, sql.Composable] = {}
    stored: list[StoredView] = []
    for table in view_tables(pipeline):
        view = pipeline.features[table.view]
        fields = [field for field in table.fields if f"{table.view}__{table.feature(field.name)}" in wanted]
        if isinstance(view, RowView):
            made = row_features(pipeline, table, view)
            row |= {f"{table.view}__{field.name}": _known(pipeline, view, made[field.name]) for field in fields}
        elif fields:
            stored.append(StoredView(table, tuple(fields), tables.join_key(pipeline, table)))
    needed = pipeline.model_copy(update={"expressions": {name: pipeline.expressions[name] for name in trees}})
    return FeaturePlan(needed, row, tuple(stored))


def inputs_of(pipeline: ModelPipeline, features: Iterable[str]) -> tuple[Input, ...]:
    """Return the columns of the source from which features are made, in the schema's order."""
    return tuple(
        Input(name, column.type, column.nullable, tuple(column.values or ()), column.precision, column.scale)
        for name, column in ((name, pipeline.columns[name]) for name in plan(pipeline, features).columns)
    )


def _known(pipeline: ModelPipeline, view: RowView, made: sql.Composable) -> sql.Composable:
    """Return a feature that is null, as in a training set, if the view's moment is later than the prediction's.

    A version of a row is given as it is valid now, so its moments do not matter.
    """
    if view.at == pipeline.prediction.at or versions.version_of(pipeline) is not None:
        return made
    moments = (tables.instant(pipeline, at) for at in (view.at, pipeline.prediction.at))
    return sql.SQL("CASE WHEN {} <= {} THEN {} END").format(*moments, made)


def _names(made: sql.Composable) -> Iterator[str]:
    """Yield the names in a piece of SQL."""
    if isinstance(made, sql.Composed):
        for part in made:
            yield from _names(part)
    elif isinstance(made, sql.Identifier):
        yield made.as_string(None).strip('"')
