"""Compares what the online store serves with what the loaded snapshot's rows give, on a sample of entities.

The offline side is computed again by the views' SQL from the table of the rows, and not read from the view tables, of
which the online store is a copy. So a defect of a view table, of the copy or of the reader is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rempart.errors import LoadedMeanwhile
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.freshness import sampling
from rempart.features.freshness.comparison import ViewSkew, compare
from rempart.features.freshness.content import StoreState, read_state, state_in
from rempart.features.freshness.sampling import EntitySample
from rempart.features.plan import ViewTable, view_tables
from rempart.settings.pipeline import ModelPipeline

ATTEMPTS = 3


@dataclass(frozen=True)
class PipelineSkew:
    """Comparison of a pipeline's views with the loaded snapshot."""

    snapshot: str
    views: tuple[ViewSkew, ...]


def compare_stores(
    databases: FeatureDatabases, pipeline: ModelPipeline, sample: EntitySample, at: datetime
) -> PipelineSkew | None:
    """Compare each view's online rows with those of the loaded snapshot; None if nothing was loaded.

    Used views are not among them: their values are computed, and compared, in the pipeline that makes them.
    `at` (UTC) is the moment until which `days_since_last` counts, on both sides. Raises LoadedMeanwhile if the two
    stores did not hold one load during any of three attempts, FeatureError, DatabaseUnavailable.
    """
    used = pipeline.used_views()
    views, why = tuple(view for view in view_tables(pipeline) if view.view not in used), ""
    for _ in range(ATTEMPTS):
        with session(databases.offline, f"compute a sample of '{pipeline.name}'") as offline:
            offline.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            before = state_in(offline, databases, pipeline)
            if before is None:
                return None
            if why := _unsettled(before, views):
                continue
            with session(databases.online, f"read a sample of '{pipeline.name}'", autocommit=True) as online:
                found = tuple(_compare_view(offline, online, pipeline, view, sample, before, at) for view in views)
        if read_state(databases, pipeline) == before:
            return PipelineSkew(before.snapshot, found)
        why = "the feature store was loaded meanwhile"
    raise LoadedMeanwhile(
        f"compare the online store of '{pipeline.name}' with its snapshot: {why}",
        f"Wait until materialize_features_{pipeline.name} is done; if it failed, run it. Then compare again.",
    )


def _unsettled(state: StoreState, views: tuple[ViewTable, ...]) -> str:
    """Return why the two stores cannot be compared now; empty if they can."""
    if missing := state.missing(views):
        return f"the online store has no table with the present columns of {', '.join(missing)}"
    if behind := state.behind(views):
        return f"the newest load is not online yet in {', '.join(behind)}"
    return ""


def _compare_view(
    offline: Session,
    online: Session,
    pipeline: ModelPipeline,
    view: ViewTable,
    sample: EntitySample,
    state: StoreState,
    at: datetime,
) -> ViewSkew:
    asked = dict.fromkeys(
        [*sampling.of_rows(offline, pipeline, view, sample), *sampling.of_online(online, view, sample)]
    )
    sampling.take_rows(offline, pipeline, view, [*asked])
    known = sampling.keys(offline, pipeline, view)
    return compare(
        view.view,
        sampling.computed(offline, pipeline, view, state.loaded_at, at),
        sampling.served(online, pipeline, view, [*asked], known, at),
        sampling.all_offline(offline, view, state.loaded_at),
        sampling.all_online(online, view),
    )
