"""Which online tables there are: a view has the current generation, and for a while the former one.

The former one has other columns, or values of other definitions.

The online database has its own list of tables. A table is created, listed and dropped in one transaction, so an
interrupted run leaves no table that the list does not name. The list also has the mark of each table: what the last
materialization left in it. A trigger takes the mark away before anything is written, whoever writes; a materialization
sets it last. What no trigger sees (an altered table, a trigger that was switched off) leaves a trace in PostgreSQL's
catalogue, and a mark counts only with the same one. So a table with a mark is as a materialization left it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg import sql

from rempart.features.databases import Session
from rempart.features.online_store.comparison import Content, Mark
from rempart.features.plan import OnlineTable
from rempart.features.tables import name

_REGISTER: LiteralString = """
    CREATE TABLE IF NOT EXISTS online_tables (
        name text PRIMARY KEY,
        pipeline text NOT NULL,
        view text NOT NULL,
        is_current boolean NOT NULL,
        definition text,
        written_at timestamptz,
        entities bigint,
        hashes numeric,
        compared_at timestamptz
    );
    COMMENT ON COLUMN online_tables.definition IS
        'What the catalogue says of the table that the mark describes. A table that was restored, made again or'
        ' altered, or whose trigger was switched off, has another one.';
    CREATE OR REPLACE FUNCTION online_table_written() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        UPDATE public.online_tables SET written_at = NULL WHERE name = TG_TABLE_NAME;
        RETURN NULL;
    END $$"""
_TRIGGER = "written"
_DEFINITION: LiteralString = """(
    SELECT encode(sha256(convert_to(string_agg(part, ' ' ORDER BY part COLLATE "C"), 'UTF8')), 'hex') FROM (
        SELECT concat_ws(',', 'table', oid, relfilenode, xmin) FROM pg_class WHERE oid = to_regclass(%(table)s)
        UNION ALL
        SELECT concat_ws(',', 'column', attnum, xmin) FROM pg_attribute WHERE attrelid = to_regclass(%(table)s)
        UNION ALL
        SELECT concat_ws(',', 'trigger', t.oid, t.tgenabled, t.xmin, f.xmin)
        FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid WHERE t.tgrelid = to_regclass(%(table)s)
    ) AS parts (part)
)"""
"""Hash of what the catalogue says of a table, its columns and triggers; NULL if there is no such table.

`relfilenode` is another one after the table was rewritten, and `xmin`, the transaction that wrote an entry of the
catalogue, after each statement that changed the entry. Neither changes when PostgreSQL vacuums or analyzes the table.
"""


@dataclass(frozen=True)
class TableEntry:
    """What the list says of a table: whether it is its view's current one, its mark, and its last full comparison."""

    is_current: bool
    mark: Mark | None
    compared_at: datetime | None


def has_register(opened: Session) -> bool:
    return opened.execute("SELECT to_regclass('public.online_tables')").fetchone() != (None,)


def ensure_register(opened: Session) -> None:
    """Create the list of tables if the database has none."""
    if not has_register(opened):
        opened.execute("SELECT pg_advisory_xact_lock(hashtextextended('rempart online tables', 0))")
        opened.execute(_REGISTER)


def tables_of(opened: Session, pipeline: str, view: str | None = None, *, former: bool = False) -> list[str]:
    """Return the names of a pipeline's online tables, or of one view's; with `former` only those that are not current.

    Sorted by name.
    """
    if not has_register(opened):
        return []
    found = opened.execute(
        "SELECT name FROM online_tables WHERE pipeline = %(pipeline)s AND (%(view)s::text IS NULL OR view = %(view)s)"
        " AND NOT (%(former)s AND is_current) ORDER BY name",
        {"pipeline": pipeline, "view": view, "former": former},
    ).fetchall()
    return [str(table) for (table,) in found]


def lock(opened: Session, pipeline: str) -> None:
    """Let no other program write to the pipeline's online tables until the transaction ends; readers feel nothing."""
    opened.execute("SELECT FROM online_tables WHERE pipeline = %s ORDER BY name FOR UPDATE", (pipeline,))


def entry(opened: Session, table: OnlineTable) -> TableEntry:
    """Return what the list says of a table. One that was altered, or took the place of the listed one, has no mark."""
    found = opened.execute(
        f"SELECT is_current, definition = {_DEFINITION}, written_at, entities, hashes, compared_at"  # noqa: S608 - a constant
        " FROM online_tables WHERE name = %(name)s",
        {"table": _qualified(table), "name": table.name},
    ).fetchone()
    if found is None:
        return TableEntry(is_current=False, mark=None, compared_at=None)
    is_current, is_same, written_at, entities, hashes, compared_at = found
    mark = Mark(written_at, Content(entities, int(hashes))) if is_same and written_at else None
    return TableEntry(is_current, mark, compared_at)


def create(opened: Session, table: OnlineTable) -> bool:
    """Create the table without its primary key, listed as not current. Return False if it exists."""
    opened.execute(
        "INSERT INTO online_tables VALUES (%s, %s, %s, false) ON CONFLICT (name) DO NOTHING",
        (table.name, table.pipeline, table.view),
    )
    if opened.execute("SELECT to_regclass(%s)", (_qualified(table),)).fetchone() != (None,):
        return False
    columns = sql.SQL(", ").join(sql.SQL("{} {}").format(name(c), sql.SQL(declared)) for c, declared in table.columns)
    opened.execute(sql.SQL("CREATE TABLE {} ({})").format(name(table.name), columns))
    return True


def add_key(opened: Session, table: OnlineTable) -> None:
    """Add the primary key: after the rows, since an index is built faster than it is filled."""
    opened.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name(table.name), name(table.key)))


def watch(opened: Session, table: OnlineTable) -> None:
    """Have every later write take the table's mark away."""
    watched = opened.execute(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = %s AND tgenabled = 'A'",
        (_qualified(table), _TRIGGER),
    ).fetchone()
    if watched is None:
        opened.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION online_table_written();"
                " ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"
            ).format(trigger=name(_TRIGGER), table=name(table.name))
        )


def switch(opened: Session, pipeline: str, current: Mapping[OnlineTable, tuple[Mark, datetime]]) -> None:
    """Make these tables the current ones of the pipeline, and all its others former ones.

    Each has a mark and the time of its last full comparison. Nothing may be written after this.
    """
    opened.execute(
        "UPDATE online_tables SET is_current = (name = ANY(%(names)s))"
        " WHERE pipeline = %(pipeline)s AND is_current <> (name = ANY(%(names)s))",
        {"names": [table.name for table in current], "pipeline": pipeline},
    )
    for table, (mark, compared_at) in current.items():
        opened.execute(
            f"UPDATE online_tables SET definition = {_DEFINITION}, written_at = %(at)s, entities = %(entities)s,"  # noqa: S608
            " hashes = %(hashes)s, compared_at = %(compared_at)s WHERE name = %(name)s",
            {
                "table": _qualified(table),
                "name": table.name,
                "at": mark.at,
                "entities": mark.content.rows,
                "hashes": mark.content.hashes,
                "compared_at": compared_at,
            },
        )


def drop(opened: Session, tables: Iterable[str]) -> None:
    for table in tables:
        opened.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name(table)))
        opened.execute("DELETE FROM online_tables WHERE name = %s", (table,))


def _qualified(table: OnlineTable) -> str:
    return f'public."{table.name}"'
