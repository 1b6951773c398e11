"""The SQL of the point-in-time join, in DuckDB's dialect. The form of a view's join depends on what its rows share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql

from rempart.engine_connection import EngineConnection
from rempart.features.plan import view_tables
from rempart.features.training_set import learned_fields
from rempart.settings.pipeline import ModelPipeline

Unique = Literal["entity", "moment", "none"]
"""A view has at most one row of an entity, at most one of an entity and a moment, or any number of rows."""


@dataclass(frozen=True)
class JoinedView:
    """What a join takes from a view: `features` are its columns by the names that they get.

    `relation`: SQL. `keys`: columns of the same names on both sides. A row older than `ttl` seconds is not shown; 0 is
    for ever. `created`: column that decides between two rows for one moment.
    """

    relation: str
    keys: tuple[str, ...]
    features: Mapping[str, str]
    moment: str = "event_timestamp"
    ttl: int = 0
    created: str | None = None


def of_feast(context: Any, *, full_names: bool) -> JoinedView:
    """Return a view from Feast's context of it."""
    shown = {context.field_mapping.get(feature, feature): feature for feature in context.features}
    return JoinedView(
        relation=context.table_subquery,
        keys=tuple(context.entities),
        features={f"{context.name}__{name}" if full_names else name: column for name, column in shown.items()},
        moment=context.timestamp_field,
        ttl=context.ttl,
        created=context.created_timestamp_column or None,
    )


def of_pipeline(pipeline: ModelPipeline) -> list[JoinedView]:
    """Return the views from which the model learns, as Feast would ask for them."""
    fields = learned_fields(pipeline)
    return [
        JoinedView(
            relation=_identifier(view.table),
            keys=(view.join_key,),
            features={f"{view.view}__{name}": name for name in fields[view.view]},
            ttl=(view.ttl_days or 0) * 24 * 3600,
        )
        for view in view_tables(pipeline)
        if fields[view.view]
    ]


def uniqueness(connection: EngineConnection, view: JoinedView) -> Unique:
    """Return what rows of a view can share. Reads all keys of the view."""
    keys = list(map(sql.Identifier, view.keys))
    for found, columns in (("entity", keys), ("moment", [*keys, sql.Identifier(view.moment)])):
        repeated = sql.SQL("SELECT 1 FROM {} AS stored GROUP BY {} HAVING count(*) > 1 LIMIT 1").format(
            sql.SQL(view.relation),  # of Feast's registry or of a pipeline's file
            sql.SQL(", ").join(columns),
        )
        if not connection.execute(repeated.as_string(None)).fetchall():
            return "entity" if found == "entity" else "moment"
    return "none"


def joined(entities: str, columns: Iterable[str], moment: str, views: Sequence[tuple[JoinedView, Unique]]) -> str:
    """Return the query of entity rows with the newest row of each view at or before their moment. Pure.

    `entities`: a query with `columns`, of which `moment` is one. Two rows for one moment give two rows, so whoever
    counts sees them.
    """
    asked = sql.Identifier("entities", moment)
    selected: list[sql.Composable] = [sql.Identifier("entities", column) for column in columns]
    joins: list[sql.Composable] = []
    for number, (view, unique) in enumerate(views):
        alias = f"view {number}"
        at = sql.Identifier(alias, view.moment)
        young: sql.Composable = sql.SQL("true")
        if view.ttl:
            young = sql.SQL("{} >= {} - to_seconds({})").format(at, asked, sql.Literal(view.ttl))
        shown = sql.SQL("CASE WHEN {young} THEN {column} END" if unique == "moment" else "{column}")
        selected += [
            sql.SQL("{} AS {}").format(
                shown.format(young=young, column=sql.Identifier(alias, column)), sql.Identifier(name)
            )
            for name, column in view.features.items()
        ]
        place = len(joins) if unique == "entity" else 0  # `ASOF` sorts all columns that joins before it bring
        joins[place:place] = _joins(view, unique, alias, asked, young)
    return (
        (
            sql.SQL("SELECT {} FROM ({}) AS entities").format(
                sql.SQL(", ").join(selected),
                sql.SQL(entities),
            )
            + sql.Composed(joins)
        )
        .as_string(None)
        .strip()
    )


def _joins(
    view: JoinedView, unique: Unique, alias: str, asked: sql.Composable, young: sql.Composable
) -> Iterator[sql.Composable]:
    """Yield the joins of one view, whose row is `alias`."""
    relation = sql.SQL(view.relation)
    at = sql.Identifier(alias, view.moment)
    if unique == "entity":  # no order is needed to find the newest row
        yield sql.SQL(" LEFT JOIN {} AS {} ON {} AND {} <= {} AND {}").format(
            relation, sql.Identifier(alias), _same(view.keys, "entities", alias), at, asked, young
        )
        return
    if unique == "moment":
        yield sql.SQL(" ASOF LEFT JOIN {} AS {} ON {} AND {} >= {}").format(
            relation, sql.Identifier(alias), _same(view.keys, "entities", alias), asked, at
        )
        return
    newest = f"moment of {alias}"
    keyed = [*view.keys, view.moment]
    yield sql.SQL(" ASOF LEFT JOIN (SELECT DISTINCT {} FROM {} AS stored) AS {} ON {} AND {} >= {}").format(
        sql.SQL(", ").join(map(sql.Identifier, keyed)),
        relation,
        sql.Identifier(newest),
        _same(view.keys, "entities", newest),
        asked,
        sql.Identifier(newest, view.moment),
    )
    rows = sql.SQL("{} AS {}").format(relation, sql.Identifier(alias))
    if view.created:
        rows = sql.SQL(
            "(SELECT * FROM {} AS stored QUALIFY rank() OVER (PARTITION BY {} ORDER BY {} DESC NULLS FIRST) = 1) AS {}"
        ).format(
            relation,
            sql.SQL(", ").join(map(sql.Identifier, keyed)),
            sql.Identifier(view.created),
            sql.Identifier(alias),
        )
    yield sql.SQL(" LEFT JOIN {} ON {} AND {}").format(rows, _same(keyed, newest, alias), young)


def _same(columns: Iterable[str], left: str, right: str) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column)) for column in columns
    )


def _identifier(name: str) -> str:
    return sql.Identifier(name).as_string(None)
