"""Reads a sample of entities from both sides: computed again from the snapshot's rows, and served online.

The views' SQL names the table of the rows. A temporary table of the same name hides that table in the session, so the
same SQL runs over the rows of the sampled entities alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from rempart.features import tables, versions
from rempart.features.databases import Session
from rempart.features.freshness.comparison import Entity, EntitySet, ViewRow
from rempart.features.online_store.reading import ViewReader
from rempart.features.plan import LAST_ROW_AT, ViewTable, rows_table
from rempart.features.views import select_view
from rempart.settings.learning import SINCE_LAST
from rempart.settings.pipeline import ModelPipeline

SAMPLED = "sampled"
"""Temporary table of the sampled entities."""


@dataclass(frozen=True)
class EntitySample:
    """Choice of entities: at most `size` of each side, those whose keys have the smallest hashes under `seed`."""

    seed: int
    size: int


def of_rows(opened: Session, pipeline: ModelPipeline, view: ViewTable, sample: EntitySample) -> list[Entity]:
    """Return the sampled entities of the snapshot's rows."""
    entities = sql.SQL("SELECT DISTINCT {} AS entity FROM {}").format(
        tables.join_key(pipeline, view), _all_rows(pipeline)
    )
    return _smallest(opened, entities, sample)


def of_online(opened: Session, view: ViewTable, sample: EntitySample) -> list[Entity]:
    """Return the sampled entities of the online table."""
    entities = sql.SQL("SELECT {} AS entity FROM {}").format(
        tables.name(view.online.key), tables.name(view.online.name)
    )
    return _smallest(opened, entities, sample)


def _smallest(opened: Session, entities: sql.Composable, sample: EntitySample) -> list[Entity]:
    found = opened.execute(
        sql.SQL(
            "SELECT entity FROM ({}) e WHERE entity IS NOT NULL"
            " ORDER BY hashtextextended(entity::text, {}::bigint), entity LIMIT {}"
        ).format(entities, sql.Literal(sample.seed), sql.Literal(sample.size))
    ).fetchall()
    return [entity for (entity,) in found]


def take_rows(opened: Session, pipeline: ModelPipeline, view: ViewTable, entities: Sequence[Entity]) -> None:
    """Create the temporary tables of the entities, and of the rows that their values are made of.

    A version of a row may belong to another entity than the version before it, and ends that one's validity: of rows
    with versions all versions are taken.
    """
    rows, sampled = tables.name(rows_table(pipeline)), tables.name(SAMPLED)
    opened.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}, pg_temp.{}").format(sampled, rows))
    opened.execute(sql.SQL("CREATE TEMP TABLE {} (entity {}) ON COMMIT DROP").format(sampled, sql.SQL(view.join_type)))
    with (
        opened.cursor() as cursor,
        cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sampled)) as copy,
    ):
        for entity in entities:
            copy.write_row((entity,))
    chosen = sql.SQL("{} IN (SELECT entity FROM {})").format(tables.join_key(pipeline, view), sampled)
    if versions.version_of(pipeline) is not None:
        key = tables.names(pipeline.key)
        chosen = sql.SQL("({}) IN (SELECT {} FROM {} WHERE {})").format(key, key, _all_rows(pipeline), chosen)
    opened.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT * FROM {} WHERE {}").format(
            rows, _all_rows(pipeline), chosen
        )
    )


def computed(
    opened: Session, pipeline: ModelPipeline, view: ViewTable, loaded_at: datetime, at: datetime
) -> dict[Entity, ViewRow]:
    """Return the row of each taken entity that holds at the time of the load, made by the view's SQL.

    `at` is the moment until which `days_since_last` counts.
    """
    query = sql.SQL(
        "SELECT DISTINCT ON ({key}) {columns} FROM ({view}) v ({columns}) WHERE {key} IN (SELECT entity FROM {sampled})"
        " AND {holds} ORDER BY {key}, event_timestamp DESC"
    ).format(
        key=tables.name(view.join_key),
        columns=tables.names(column for column, _ in tables.view_columns(view)),
        view=select_view(pipeline, view),
        sampled=tables.name(SAMPLED),
        holds=tables.holds(view, loaded_at),
    )
    names = [field.name for field in view.fields]
    return {
        row[0]: ViewRow(_as_read(view, dict(zip(names, row[1:-1], strict=True)), at), row[-1])
        for row in opened.execute(query).fetchall()
    }


def _as_read(view: ViewTable, fields: dict[str, Any], at: datetime) -> dict[str, Any]:
    """Return an entity's features as a reader gets them."""
    return fields | {SINCE_LAST: view.age(fields.pop(LAST_ROW_AT), at)} if view.has_age else fields


def keys(opened: Session, pipeline: ModelPipeline, view: ViewTable) -> dict[Entity, Mapping[str, Any]]:
    """Return the key columns of each taken entity."""
    query = sql.SQL(
        'SELECT DISTINCT ON ("the entity") "the entity", {columns} FROM (SELECT {key} AS "the entity", {columns}'
        ' FROM {rows}) r WHERE "the entity" IN (SELECT entity FROM {sampled}) ORDER BY "the entity"'
    ).format(
        columns=tables.names(view.by),
        key=tables.join_key(pipeline, view),
        rows=tables.name(rows_table(pipeline)),
        sampled=tables.name(SAMPLED),
    )
    return {row[0]: dict(zip(view.by, row[1:], strict=True)) for row in opened.execute(query).fetchall()}


def served(
    opened: Session,
    pipeline: ModelPipeline,
    view: ViewTable,
    entities: Sequence[Entity],
    known: Mapping[Entity, Mapping[str, Any]],
    at: datetime,
) -> dict[Entity, ViewRow]:
    """Return the online row of each entity that has one, read as a scorer reads it.

    `known` are the key columns by entity. An entity without them is not in the snapshot, and its row has no features.
    """
    found = opened.execute(
        sql.SQL("SELECT {key}, event_timestamp FROM {table} WHERE {key} = ANY(%s::{type}[])").format(
            key=tables.name(view.online.key),
            table=tables.name(view.online.name),
            type=sql.SQL(view.online.key_type),
        ),
        (list(entities),),
    ).fetchall()
    there: dict[Entity, datetime] = dict(found)
    asked = [entity for entity in there if entity in known]
    rows = ViewReader(opened, pipeline, view.view).read([known[entity] for entity in asked], at)
    features = {entity: {name: row[name] for name in view.features} for entity, row in zip(asked, rows, strict=True)}
    return {entity: ViewRow(features.get(entity, {}), moment) for entity, moment in there.items()}


def all_offline(opened: Session, view: ViewTable, loaded_at: datetime) -> EntitySet:
    """Return the set of all entities of the view's table that have values at the time of the load."""
    entities = sql.SQL("SELECT DISTINCT {} AS entity FROM {} WHERE {}").format(
        tables.name(view.join_key), tables.name(view.table), tables.holds(view, loaded_at)
    )
    return _set(opened, entities)


def all_online(opened: Session, view: ViewTable) -> EntitySet:
    """Return the set of all entities of the online table."""
    return _set(
        opened,
        sql.SQL("SELECT {} AS entity FROM {}").format(tables.name(view.online.key), tables.name(view.online.name)),
    )


def _set(opened: Session, entities: sql.Composable) -> EntitySet:
    row = opened.execute(
        sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(entity::text, 0)), 0) FROM ({}) e").format(entities)
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return EntitySet(int(row[0]), int(row[1]))


def _all_rows(pipeline: ModelPipeline) -> sql.Identifier:
    """Return the table of all rows, also where a temporary table hides it."""
    return sql.Identifier("public", rows_table(pipeline))
