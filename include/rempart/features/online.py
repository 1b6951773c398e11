"""The online store: the newest values of each entity, kept up to date with the offline store, and read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from rempart.errors import FeatureError
from rempart.features import repository, tables
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.online_store import generations, writing
from rempart.features.online_store.progress import Reporter
from rempart.features.plan import LAST_ROW_AT, Span, Step, ViewState, ViewTable, entity_key, next_step, view_tables
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materialized:
    """Result: entity rows written, entity rows in the online store, and the span of the written rows' event times."""

    written: int
    online: int
    start: datetime | None
    end: datetime | None


def materialize(databases: FeatureDatabases, pipeline: ModelPipeline, *, keep_former: bool = True) -> Materialized:
    """Write to the online store the newest row of every entity that changed since the watermark; then move that.

    All views are written in one transaction, so a reader sees the values of one materialization. If the columns of a
    view changed, its former table stays until the next materialization, unless `keep_former` is false. Raises
    FeatureError when nothing was loaded, when the online store does not end up with exactly the rows of the offline
    store, and DatabaseUnavailable. In both cases the online store and the watermark stay as they were.
    """
    with session(databases.offline, f"materialize '{pipeline.name}'") as offline:
        tables.lock(offline, pipeline)
        load = offline.execute("SELECT loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)).fetchone()
        if load is None:
            raise FeatureError(
                f"read the feature store of '{pipeline.name}': it contains no snapshot",
                f"Run materialize_features_{pipeline.name}.",
            )
        views, counted, steps = view_tables(pipeline), 0, []
        with session(databases.online, f"write the online store of '{pipeline.name}'") as online:
            generations.ensure_register(online)
            former = set(generations.tables_of(online, pipeline.name, former=True))
            for view in views:
                entities, done = _materialize_view(pipeline, view, offline, online, load[0])
                counted += entities
                steps += done
            generations.switch(online, pipeline.name, [view.online for view in views])
            left = generations.tables_of(online, pipeline.name, former=True)
            generations.drop(online, [table for table in left if table in former or not keep_former])
        # after the tables have their rows: Feast would create them empty
        with repository.feature_store(databases, pipeline) as store:
            repository.apply(store, pipeline)
        offline.execute(
            "UPDATE feature_views SET watermark = %s WHERE pipeline = %s AND view = ANY(%s)",
            (load[0], pipeline.name, [view.view for view in views]),
        )
    return Materialized(
        sum(step.entities for step in steps),
        counted,
        min((step.start for step in steps), default=None),
        max((step.end for step in steps), default=None),
    )


def online_rows(
    databases: FeatureDatabases,
    pipeline: ModelPipeline,
    view: str,
    keys: Sequence[Mapping[str, Any]],
    at: datetime | None = None,
) -> list[dict[str, Any]]:
    """Return the newest features of entities, one dict per key in order: the key's columns and the view's features.

    `at` is the moment of the prediction, until which `days_since_last` counts; default: now. Features of an unknown
    entity are None. Raises FeatureError and DatabaseUnavailable.
    """
    with _reading(databases, pipeline, view) as opened:
        return read_rows(opened, pipeline, view, keys, at)


def read_rows(
    opened: Session, pipeline: ModelPipeline, view: str, keys: Sequence[Mapping[str, Any]], at: datetime | None = None
) -> list[dict[str, Any]]:
    """Return what `online_rows` returns, in one round trip of a session of the online database that stays open.

    The session must be in autocommit: a transaction left open would keep the tables of former views from being dropped.
    """
    table, rows = _stored(opened, pipeline, view, keys)
    if table.has_age:
        moment = at or datetime.now(UTC)
        for row in rows:
            row[SINCE_LAST] = table.age(row.pop(LAST_ROW_AT), moment)
    return rows


def stored_rows(
    databases: FeatureDatabases, pipeline: ModelPipeline, view: str, keys: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return `online_rows` with the fields of the store in place of what is made when a row is read."""
    with _reading(databases, pipeline, view) as opened:
        return _stored(opened, pipeline, view, keys)[1]


def _reading(databases: FeatureDatabases, pipeline: ModelPipeline, view: str) -> AbstractContextManager[Session]:
    return session(databases.online, f"read view '{view[:60]}' of '{pipeline.name}'", autocommit=True)


def _stored(
    opened: Session, pipeline: ModelPipeline, view: str, keys: Sequence[Mapping[str, Any]]
) -> tuple[ViewTable, list[dict[str, Any]]]:
    table = next((table for table in view_tables(pipeline) if table.view == view), None)
    if table is None:
        raise FeatureError(
            f"'{pipeline.name}' has no view '{view[:60]}'", f"Use one of {', '.join(pipeline.features)}."
        )
    entities = [entity_key(table, pipeline, key) for key in keys]
    if not entities:
        return table, []
    try:
        with opened.cursor(binary=True) as cursor:
            rows = cursor.execute(writing.select(table.online), (entities,)).fetchall()
    except psycopg.errors.UndefinedTable:
        raise FeatureError(
            f"read view '{view}' of '{pipeline.name}': the online store has no table with its columns",
            f"Run materialize_features_{pipeline.name}.",
        ) from None
    features = [field.name for field in table.fields]
    found = {row[0]: dict(zip(features, row[1:-1], strict=True)) for row in rows}
    unknown = dict.fromkeys(features)
    return table, [
        {column: key[column] for column in table.by} | found.get(entity, unknown)
        for key, entity in zip(keys, entities, strict=True)
    ]


def _materialize_view(
    pipeline: ModelPipeline, view: ViewTable, offline: Session, online: Session, at: datetime
) -> tuple[int, list[Step]]:
    """Write changed entities; if the online table then differs (it was restored or altered), compare all.

    `at` is the time of the load: values that hold only later are not written. Return the number of entities in the
    table and the steps.
    """
    state = _state(offline, pipeline, view, at, is_current=generations.is_current(online, view.online))
    wanted = writing.digest(offline, view.online, sql.SQL("({})").format(writing.newest(view, at)))
    what, done, count = f"view '{view.view}' of '{pipeline.name}'", [], 0
    for everything in (False, True):
        step = next_step(state, everything=everything)
        report = Reporter(f"copied to the online store, {what}:", step.entities if step else 0)
        written = writing.write(offline, online, view, at, step.since if step else state.watermark, report)
        if step is not None:
            done.append(step)
        found = writing.digest(online, view.online, tables.name(view.online.name))
        if found[0] > wanted[0] or (everything and found != wanted):
            writing.prune(offline, online, view, at)
            found = writing.digest(online, view.online, tables.name(view.online.name))
        logger.info("%s: wrote %s rows in %.1f s, %s online", what, f"{written:,}", report.seconds, f"{found[0]:,}")
        count = found[0]
        if found == wanted:
            return count, done
    raise FeatureError(
        f"materialize {what}: the online store has {count} entities, the offline store {wanted[0]}, and their rows "
        "differ",
        "The online store and the watermark stayed as they were. Run the materialization again. If it fails again, "
        "look for another program that writes to the online store.",
    )


def _state(offline: Session, pipeline: ModelPipeline, view: ViewTable, at: datetime, *, is_current: bool) -> ViewState:
    """Return the state of a view. A table that is not the current one may hold anything: it has no watermark."""
    loaded = offline.execute(
        "SELECT watermark FROM feature_views WHERE pipeline = %s AND view = %s", (pipeline.name, view.view)
    ).fetchone()
    watermark = loaded[0] if loaded and is_current else None
    row = offline.execute(
        sql.SQL(
            "WITH entities AS ({entities}), told AS (SELECT newest, {changed} AS changed FROM entities"
            " WHERE newest IS NOT NULL)"
            " SELECT count(*), min(newest), max(newest), count(*) FILTER (WHERE changed),"
            " min(newest) FILTER (WHERE changed), max(newest) FILTER (WHERE changed) FROM told"
        ).format(
            entities=_entities(view, at),
            changed=writing.changed(view, watermark, sql.SQL("loaded"), sql.SQL("newest")),
        )
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return ViewState(watermark, Span(*row[:3]), Span(*row[3:]))


def _entities(view: ViewTable, at: datetime) -> sql.Composed:
    """Return the query of each entity's newest event time among the rows that hold at `at`, and its newest load."""
    query = (
        "SELECT max(event_timestamp) FILTER (WHERE {holds}) AS newest, max(loaded_at) AS loaded"
        " FROM {table} GROUP BY {key}"
        if view.dated
        else "SELECT event_timestamp AS newest, loaded_at AS loaded FROM {table}"
    )
    return sql.SQL(query).format(
        table=tables.name(view.table), key=tables.name(view.join_key), holds=tables.holds(view, at)
    )
