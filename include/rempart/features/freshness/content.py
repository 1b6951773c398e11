"""Reads what the feature store holds: the loaded snapshot, and entities and times of each online table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.freshness.judgement import ViewContent
from rempart.features.online_store import generations
from rempart.features.plan import ViewTable, rows_table, view_tables
from rempart.settings.pipeline import ModelPipeline, TrailingView


@dataclass(frozen=True)
class StoreState:
    """Loaded snapshot, time of its load, and for each view the load up to which it is online.

    `online`: names of the current online tables.
    """

    snapshot: str
    loaded_at: datetime
    watermarks: Mapping[str, datetime | None]
    online: frozenset[str]

    def missing(self, views: tuple[ViewTable, ...]) -> tuple[str, ...]:
        """Return the views without an online table of their present columns."""
        return tuple(view.view for view in views if view.online.name not in self.online)

    def behind(self, views: tuple[ViewTable, ...]) -> tuple[str, ...]:
        """Return the views whose online table is older than the load."""
        return tuple(view.view for view in views if self.watermarks.get(view.view) != self.loaded_at)


def state_in(offline: Session, databases: FeatureDatabases, pipeline: ModelPipeline) -> StoreState | None:
    """Return the state as the transaction of `offline` sees it; None if nothing was loaded."""
    if offline.execute("SELECT to_regclass('feature_loads')").fetchone() == (None,):
        return None
    load = offline.execute(
        "SELECT snapshot, loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)
    ).fetchone()
    if load is None:
        return None
    marks = offline.execute(
        "SELECT view, watermark FROM feature_views WHERE pipeline = %s", (pipeline.name,)
    ).fetchall()
    with session(databases.online, f"list the online tables of '{pipeline.name}'") as online:
        every = set(generations.tables_of(online, pipeline.name))
        former = generations.tables_of(online, pipeline.name, former=True)
    return StoreState(str(load[0]), load[1], dict(marks), frozenset(every.difference(former)))


def read_state(databases: FeatureDatabases, pipeline: ModelPipeline) -> StoreState | None:
    """Return the state of the feature store; None if nothing was loaded. Raises FeatureError, DatabaseUnavailable."""
    with session(databases.offline, f"read the state of '{pipeline.name}'") as opened:
        return state_in(opened, databases, pipeline)


def read_content(
    databases: FeatureDatabases, pipeline: ModelPipeline
) -> tuple[StoreState | None, tuple[ViewContent, ...]]:
    """Return the state of the feature store and the content of each view's online table.

    Raises FeatureError, DatabaseUnavailable.
    """
    newest: dict[str, datetime] = {}
    with session(databases.offline, f"read the state of '{pipeline.name}'") as offline:
        state = state_in(offline, databases, pipeline)
        if state is None:
            return None, ()
        for view in view_tables(pipeline):
            made = pipeline.features[view.view]
            if isinstance(made, TrailingView) and made.windows:
                newest[view.view] = _newest_row(offline, pipeline, view, state.loaded_at)
    with session(databases.online, f"measure the online store of '{pipeline.name}'", autocommit=True) as opened:
        return state, tuple(_content(opened, view, state, newest) for view in view_tables(pipeline))


def _newest_row(offline: Session, pipeline: ModelPipeline, view: ViewTable, loaded_at: datetime) -> Any:
    """Return the newest moment of a row until the load. Values of windows also change when a row leaves one."""
    row = offline.execute(
        sql.SQL("SELECT max({moment}) FROM {rows} WHERE {moment} <= %s").format(
            moment=tables.instant(pipeline, view.at), rows=tables.name(rows_table(pipeline))
        ),
        (loaded_at,),
    ).fetchone()
    return row[0] if row else None


def _content(opened: Session, view: ViewTable, state: StoreState, newest: Mapping[str, datetime]) -> ViewContent:
    if view.online.name not in state.online:
        return ViewContent(view.view, 0, None, None)
    row = opened.execute(
        sql.SQL("SELECT count(*), max(event_timestamp) FROM {}").format(tables.name(view.online.name))
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return ViewContent(view.view, int(row[0]), newest.get(view.view, row[1]), state.watermarks.get(view.view))
