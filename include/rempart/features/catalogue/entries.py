"""List the feature views of all pipelines with owner, key, moment, features, their origin, and their users. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rempart.errors import FeatureError, PipelineError
from rempart.features.catalogue import origins
from rempart.features.catalogue.origins import Lineage
from rempart.features.plan import SqlType, ViewTable, source_of, view_table, view_tables
from rempart.models import definitions
from rempart.settings.pipeline import ModelPipeline, Pipeline, RowView, TrailingView, UsedView
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
    """A model's champion: its version, the snapshot on which it was trained, its run in MLflow, and the definition of
    each feature that it reads, by reference (`view__feature`); None if the record of its training is not read.

    `used`: snapshot of each pipeline whose views its training set has.
    """

    model: str
    version: str
    snapshot: str
    run_id: str
    definitions: Mapping[str, str] | None
    used: Mapping[str, str] = field(default_factory=dict)


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
    """A feature. `columns`: of which columns of the pipeline's rows it is made; of a used view those of its source, as
    `pipeline.column`.

    `sources`: of which delivered columns (`pipeline.column`) these are made; of a derived pipeline they are others'.
    Both are None where it cannot be told.
    """

    name: str
    type: str
    columns: tuple[str, ...] | None
    sources: tuple[str, ...] | None


@dataclass(frozen=True)
class ViewUser:
    """A champion that reads features of a view, the snapshot of the view's rows in its training set, and its run in
    MLflow. `through`: its own view, if it uses the view from another pipeline. `former`: features of these names that
    it reads by another definition than the present one, which `features` leaves out.
    """

    model: str
    version: str
    snapshot: str
    run_id: str
    features: tuple[str, ...]
    through: str = ""
    former: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogueView:
    """A feature view. `key`: type of each column that identifies its entity. `snapshot`: newest of the pipeline's rows.

    `moment_columns`: columns of which its moment is made. `users`: champions that read at least one feature of it; None
    if that is not known. `is_derived`: whether the pipeline's rows are derived from others. `uses`: the view of
    another pipeline whose values it has. `used_by`: views of other pipelines that have its values.
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
    uses: str | None = None
    used_by: tuple[str, ...] = ()


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
    used_by: dict[str, list[CatalogueView]] = {}
    for view in views:
        if view.uses:
            used_by.setdefault(view.uses, []).append(view)
    return Catalogue(tuple(_with_users(view, used_by.get(view.name, ()), facts) for view in views), faults)


def _with_users(view: CatalogueView, others: Sequence[CatalogueView], facts: CatalogueFacts) -> CatalogueView:
    """Return a view with the champions that read it through views of other pipelines."""
    if view.users is None or not others:
        return replace(view, used_by=tuple(other.name for other in others))
    users = [*view.users]
    for other in others:
        used = {champion.model: champion.used.get(view.pipeline, "") for champion in facts.champions or ()}
        users += (replace(user, snapshot=used[user.model], through=other.name) for user in other.users or ())
    return replace(view, used_by=tuple(other.name for other in others), users=tuple(users))


def _entry(pipeline: ModelPipeline, table: ViewTable, facts: CatalogueFacts) -> CatalogueView:
    view = pipeline.features[table.view]
    if isinstance(view, UsedView):
        return _used_entry(pipeline, table, view, facts)
    columns = origins.columns_of(pipeline, view)
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
        users=_users(pipeline, table.view, facts),
    )


def _used_entry(pipeline: ModelPipeline, table: ViewTable, view: UsedView, facts: CatalogueFacts) -> CatalogueView:
    """Return a view with the values of another pipeline's view: moment and origin are those that they have there."""
    source = source_of(view)
    of = _entry(source, view_table(source, view.view), facts)
    return replace(
        of,
        name=f"{pipeline.name}.{table.view}",
        pipeline=pipeline.name,
        view=table.view,
        kind=view.kind,
        description=view.description or of.description,
        owner=pipeline.owner or facts.owner,
        classification=pipeline.classification,
        key={column: pipeline.columns[column].full_type for column in table.by},
        features=tuple(replace(each, columns=_of_source(source, each.columns)) for each in of.features),
        users=_users(pipeline, table.view, facts),
        uses=view.from_,
    )


def _of_source(source: ModelPipeline, columns: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if columns is None else tuple(f"{source.name}.{column}" for column in columns)


def _type(pipeline: ModelPipeline, view: RowView | TrailingView, feature: str, stored: SqlType) -> str:
    column = pipeline.columns.get(view.column_of(feature) or "")
    return column.full_type if column else _TYPES[stored]


def _sources(pipeline: ModelPipeline, columns: Iterable[str] | None, facts: CatalogueFacts) -> tuple[str, ...] | None:
    if columns is None:
        return None
    derived = facts.derived
    if pipeline.source.kind == "derived":
        derived = {pipeline.name: {}, **derived}
    return origins.delivered((f"{pipeline.name}.{column}" for column in columns), derived)


def _users(pipeline: ModelPipeline, view: str, facts: CatalogueFacts) -> tuple[ViewUser, ...] | None:
    """Return the champions that read a view. A model reads views of its own pipeline."""
    if facts.champions is None:
        return None
    found, prefix, present = [], f"{view}__", definitions.of_view(pipeline, view)
    for champion in facts.champions:
        if champion.model != pipeline.name:
            continue
        if champion.definitions is None:
            return None
        of_view = {
            name.removeprefix(prefix): of for name, of in champion.definitions.items() if name.startswith(prefix)
        }
        read = tuple(name for name, of in of_view.items() if present.get(name) == of)
        former = tuple(name for name in of_view if name not in read)
        if of_view:
            user = ViewUser(champion.model, champion.version, champion.snapshot, champion.run_id, read, former=former)
            found.append(user)
    return tuple(found)
