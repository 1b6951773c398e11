"""The pipelines whose views a pipeline uses, as the offline store holds them."""

from __future__ import annotations

from collections.abc import Mapping

from rempart.errors import InputMissing
from rempart.features import tables
from rempart.features.databases import Session
from rempart.features.plan import source_of, view_table
from rempart.features.views import definition
from rempart.settings.pipeline import ModelPipeline


def sources(pipeline: ModelPipeline) -> dict[str, ModelPipeline]:
    """Return the pipelines whose views are used, by name and in order of it. Raises PipelineError."""
    found = {view.pipeline: source_of(view) for view in pipeline.used_views().values()}
    return dict(sorted(found.items()))


def take(opened: Session, pipeline: ModelPipeline) -> dict[str, str]:
    """Keep the sources from being loaded until the transaction ends. Return the ids of their loaded snapshots.

    Locks are taken from a user to its sources, which are no circle. Raises InputMissing if a source is not loaded, or
    with another definition of the view.
    """
    found = {}
    for name, source in sources(pipeline).items():
        tables.lock(opened, source, shared=True)
        loaded = opened.execute("SELECT snapshot FROM feature_loads WHERE pipeline = %s", (name,)).fetchone()
        if loaded is None:
            raise _not_loaded(pipeline, name)
        found[name] = str(loaded[0])
    for view in pipeline.used_views().values():
        source = source_of(view)
        made = opened.execute(
            "SELECT made_by FROM feature_views WHERE pipeline = %s AND view = %s", (source.name, view.view)
        ).fetchone()
        if made is None or made[0] != definition(opened, source, view_table(source, view.view)):
            raise InputMissing(
                f"load the features of '{pipeline.name}': it uses the view '{view.from_}', whose definition changed "
                "after its load",
                f"Run materialize_features_{source.name}.",
            )
    return found


def _not_loaded(pipeline: ModelPipeline, source: str) -> InputMissing:
    return InputMissing(
        f"load the features of '{pipeline.name}': it uses a view of '{source}', and the feature store has no snapshot "
        f"of '{source}' yet",
        f"Run `rempart pipeline run {source}`.",
    )


def record(opened: Session, pipeline: ModelPipeline, snapshots: Mapping[str, str]) -> None:
    """Write of which snapshots the used views are."""
    for name, view in pipeline.used_views().items():
        opened.execute(
            "UPDATE feature_views SET used_snapshot = %s WHERE pipeline = %s AND view = %s",
            (snapshots[view.pipeline], pipeline.name, name),
        )


def recorded(opened: Session, pipeline: ModelPipeline) -> dict[str, str]:
    """Return the ids of the snapshots of which the used views are, by pipeline and in order of it.

    Raises InputMissing if a view is not loaded as it is defined now: the remedy is that of its source where that is not
    loaded, too.
    """
    if not (used := pipeline.used_views()):
        return {}
    if opened.execute("SELECT to_regclass('feature_views')").fetchone() == (None,):
        raise _not_loaded(pipeline, next(iter(sources(pipeline))))
    found = opened.execute(
        "SELECT view, made_by, used_snapshot FROM feature_views WHERE pipeline = %s", (pipeline.name,)
    ).fetchall()
    snapshots = {view: str(snapshot) for view, made_by, snapshot in found if snapshot is not None}
    made = {view: made_by for view, made_by, _ in found}
    for name, view in used.items():
        if name not in snapshots or made[name] != definition(opened, pipeline, view_table(pipeline, name)):
            take(opened, pipeline)
            raise InputMissing(
                f"read view '{name}' of '{pipeline.name}': the present values of '{view.from_}' are not loaded",
                f"Run materialize_features_{pipeline.name}.",
            )
    return dict(sorted((view.pipeline, snapshots[name]) for name, view in used.items()))
