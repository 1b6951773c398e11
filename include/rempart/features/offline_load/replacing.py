"""Make a table of the offline store equal to fresh rows: only rows that differ are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from rempart.features.databases import Session
from rempart.features.tables import Columns, name, names


@dataclass(frozen=True)
class Replaced:
    """Rows written and deleted, and whether an entity has no row left that holds at the time of the load."""

    written: int
    deleted: int
    vanished: bool

    @property
    def changed(self) -> int:
        return self.written + self.deleted


FORMER, DIFFERING = "former", "differing"
"""Temporary tables of `replace_differing`: rows as they were, and as they are."""


def replace_differing(
    session: Session,
    table: str,
    columns: Columns,
    key: Sequence[str],
    fresh: str,
    at: Any,
    among: sql.Composable | None = None,
) -> int:
    """Make `table` equal to `fresh`, as `replace_rows` does, and keep what differed. Return the number of such rows.

    With `among`, a condition of rows of `table`, other rows stay as they are, and none of `fresh` equals one of them.
    Creates the temporary tables `former`, of rows that were changed or deleted, and `differing`, of rows that were
    changed or added.
    """
    every = [column for column, _ in columns]
    others = [column for column in every if column not in key]
    same = sql.SQL(" AND ").join(sql.SQL("n.{c} = old.{c}").format(c=name(column)) for column in key)
    count = 0
    every_row = sql.SQL("")
    stored = sql.SQL("WHERE {}").format(among) if among else every_row
    for made, of, alias, chosen, other, against, compared in (
        (FORMER, table, "old", stored, fresh, "n", every_row),
        (DIFFERING, fresh, "n", every_row, table, "old", stored),
    ):
        count += session.execute(
            sql.SQL(
                "CREATE TEMP TABLE {made} ON COMMIT DROP AS SELECT {columns} FROM (SELECT * FROM {of} {chosen}) {alias}"
                " WHERE NOT EXISTS (SELECT FROM (SELECT * FROM {other} {compared}) {against}"
                " WHERE {same} AND ROW({left}) IS NOT DISTINCT FROM ROW({right}))"
            ).format(
                made=name(made),
                columns=names(every),
                of=name(of),
                alias=name(alias),
                chosen=chosen,
                other=name(other),
                compared=compared,
                against=name(against),
                same=same,
                left=names(others, "old"),
                right=names(others, "n"),
            )
        ).rowcount
    session.execute(sql.SQL("DELETE FROM {} old USING {} n WHERE {}").format(name(table), name(FORMER), same))
    session.execute(
        sql.SQL("INSERT INTO {} ({columns}, loaded_at) SELECT {columns}, {} FROM {}").format(
            name(table), sql.Literal(at), name(DIFFERING), columns=names(every)
        )
    )
    return count


def replace_rows(
    session: Session,
    table: str,
    columns: Columns,
    key: Sequence[str],
    fresh: str,
    at: Any,
    touched: sql.Composable | None = None,
    held: sql.Composable | None = None,
) -> Replaced:
    """Make `table` equal to `fresh` (same columns), touching only rows that differ; these get `loaded_at = at`.

    With `touched`, a relation of values of the key's first column (`entity`) and of instants (`since`), only rows of
    these, from then on, are deleted. A vanished row also marks its entity's newest remaining row, so that the online
    store gets it. `held`: condition of rows that hold now; by default all.
    """
    every = [column for column, _ in columns]
    others = [column for column in every if column not in key]
    written = session.execute(
        sql.SQL(
            "INSERT INTO {table} AS old ({columns}, loaded_at) SELECT {columns}, {at} FROM {fresh}"
            " ON CONFLICT ({key}) DO UPDATE SET ({others}, loaded_at) = ROW({new}, EXCLUDED.loaded_at)"
            " WHERE ({current}) IS DISTINCT FROM ({new})"
        ).format(
            table=name(table),
            columns=names(every),
            at=sql.Literal(at),
            fresh=name(fresh),
            key=names(key),
            others=names(others),
            new=names(others, "excluded"),
            current=names(others, "old"),
        )
    ).rowcount
    same = sql.SQL(" AND ").join(sql.SQL("n.{c} = old.{c}").format(c=name(column)) for column in key)
    using: sql.Composable = sql.SQL("WHERE")
    if touched is not None:
        using = sql.SQL("USING {} t WHERE t.entity = old.{} AND old.event_timestamp >= t.since AND").format(
            touched, name(key[0])
        )
    gone = sql.SQL("DELETE FROM {} old {} NOT EXISTS (SELECT FROM {} n WHERE {})").format(
        name(table), using, name(fresh), same
    )
    if len(key) == 1 or "event_timestamp" not in key:
        deleted = session.execute(gone).rowcount
        return Replaced(written, deleted, deleted > 0)
    entity, held = name(key[0]), held or sql.SQL("true")
    counted = session.execute(
        sql.SQL(
            "WITH gone AS ({gone} RETURNING old.{entity}, old.event_timestamp), newest AS ("
            "  SELECT n.{entity}, max(n.event_timestamp) AS event_timestamp, bool_or({held}) AS held"
            "  FROM {table} n WHERE n.{entity} IN (SELECT {entity} FROM gone) AND NOT EXISTS (SELECT FROM gone g"
            "  WHERE g.{entity} = n.{entity} AND g.event_timestamp = n.event_timestamp) GROUP BY 1),"
            " marked AS (UPDATE {table} old SET loaded_at = {at} FROM newest n WHERE {same})"
            " SELECT count(*), count(DISTINCT {entity}) > (SELECT count(*) FROM newest WHERE held) FROM gone"
        ).format(gone=gone, entity=entity, table=name(table), at=sql.Literal(at), same=same, held=held)
    ).fetchone()
    assert counted is not None  # noqa: S101 - an aggregate gives one row
    return Replaced(written, int(counted[0]), bool(counted[1]))
