"""List the feature views of all pipelines with owner, key, moment, features, their origin, and their users. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rempart.errors import FeatureError, PipelineError
from rempart.features.catalogue import origins
from rempart.features.catalogue.origins import Lineage
from rempart.features.plan import SqlType, ViewTable, view_tables
from rempart.settings.pipeline import ModelPipeline, Pipeline, View
from rempart.settings.sections import Classification

_TYPES: Mapping[SqlType, str] = {
    "bigint": "integer",
    "double precision": "number",
    "boolean": "boolean",
    "text": "text",
    "date": "date",
    "timestamptz": "timestamp",
}
"""Name of the type of a computed feature in the catalogue. One that has a column's values has the column's type."""


@dataclass(frozen=True)
class ChampionInputs:
    """A model's champion: its version, the snapshot on which it was trained, its run in MLflow, and references
    (`view__feature`) of all features that it reads.
    """

    model: str
    version: str
    snapshot: str
    run_id: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueFacts:
    """Facts of the catalogue that are not in the pipeline files.

    `owner`: of pipelines that name none. `snapshots`: id of the newest snapshot on record, by pipeline. `champions` is
    None if the ledger did not answer. `derived`: lineage of each derived pipeline, as far as it is known.
    """

    owner: str
    snapshots: Mapping[str, str] = field(default_factory=dict)
    champions: tuple[ChampionInputs, ...] | None = ()
    derived: Mapping[str, Lineage] = field(default_factory=dict)


@dataclass(frozen=True)
class CatalogueFeature:
    """A feature. `columns`: of which columns of the pipeline's rows it is made.

    `sources`: of which delivered columns (`pipeline.column`) these are made; of a derived pipeline they are others'.
    Both are None where it cannot be told.
    """

    name: str
    type: str
    columns: tuple[str, ...] | None
    sources: tuple[str, ...] | None


@dataclass(frozen=True)
class ViewUser:
    """A champion that reads features of a view, the snapshot on which it was trained, and its run in MLflow."""

    model: str
    version: str
    snapshot: str
    run_id: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueView:
    """A feature view. `key`: type of each column that identifies its entity. `snapshot`: newest of the pipeline's rows.

    `moment_columns`: columns of which its moment is made. `users`: champions that read at least one feature of it; None
    if the ledger did not answer. `is_derived`: whether the pipeline's rows are derived from others.
    """

    name: str
    pipeline: str
    view: str
    kind: str
    is_derived: bool
    description: str
    owner: str
    classification: Classification
    key: Mapping[str, str]
    moment: str
    moment_columns: tuple[str, ...]
    snapshot: str | None
    features: tuple[CatalogueFeature, ...]
    users: tuple[ViewUser, ...] | None


@dataclass(frozen=True)
class Catalogue:
    """Every feature view, by pipeline and in the order of its file. `faults`: pipelines whose views are not known, and
    why.
    """

    views: tuple[CatalogueView, ...]
    faults: Mapping[str, str]

    def named(self, name: str) -> CatalogueView | None:
        """Return the view that is called `pipeline.view`, or None."""
        return next((view for view in self.views if view.name == name), None)


def catalogue(pipelines: Mapping[str, Pipeline | PipelineError], facts: CatalogueFacts) -> Catalogue:
    """Return the catalogue of all pipelines. A pipeline without a model has no view."""
    views: list[CatalogueView] = []
    faults: dict[str, str] = {}
    for name, pipeline in sorted(pipelines.items()):
        if isinstance(pipeline, PipelineError):
            faults[name] = pipeline.what
        elif isinstance(pipeline, ModelPipeline):
            try:
                views += [_entry(pipeline, table, facts) for table in view_tables(pipeline)]
            except FeatureError as error:
                faults[name] = error.what
    return Catalogue(tuple(views), faults)


def _entry(pipeline: ModelPipeline, table: ViewTable, facts: CatalogueFacts) -> CatalogueView:
    view = pipeline.features[table.view]
    columns = origins.columns_of(pipeline, table.view)
    return CatalogueView(
        name=f"{pipeline.name}.{table.view}",
        pipeline=pipeline.name,
        view=table.view,
        kind=view.kind,
        is_derived=pipeline.source.kind == "derived",
        description=view.description,
        owner=pipeline.owner or facts.owner,
        classification=pipeline.classification,
        key={column: pipeline.columns[column].full_type for column in table.by},
        moment=table.at,
        moment_columns=tuple(pipeline.moments[table.at].columns),
        snapshot=facts.snapshots.get(pipeline.name),
        features=tuple(
            CatalogueFeature(
                name, _type(pipeline, view, name, kind), made := columns.get(name), _sources(pipeline, made, facts)
            )
            for name, kind in table.features.items()
        ),
        users=None if facts.champions is None else tuple(_users(pipeline, table.view, facts.champions)),
    )


def _type(pipeline: ModelPipeline, view: View, feature: str, stored: SqlType) -> str:
    column = pipeline.columns.get(view.column_of(feature) or "")
    return column.full_type if column else _TYPES[stored]


def _sources(pipeline: ModelPipeline, columns: Iterable[str] | None, facts: CatalogueFacts) -> tuple[str, ...] | None:
    if columns is None:
        return None
    derived = facts.derived
    if pipeline.source.kind == "derived":
        derived = {pipeline.name: {}, **derived}
    return origins.delivered((f"{pipeline.name}.{column}" for column in columns), derived)


def _users(pipeline: ModelPipeline, view: str, champions: Iterable[ChampionInputs]) -> Iterable[ViewUser]:
    """Yield the champions that read a view. A model reads views of its own pipeline."""
    for champion in champions:
        if champion.model == pipeline.name:
            prefix = f"{view}__"
            read = tuple(name.removeprefix(prefix) for name in champion.references if name.startswith(prefix))
            if read:
                yield ViewUser(champion.model, champion.version, champion.snapshot, champion.run_id, read)
