"""Which online tables there are: a view has the current generation, and for a while the former one with other columns.

The online database has its own list of tables. A table is created, listed and dropped in one transaction, so an
interrupted run leaves no table that the list does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import LiteralString

from psycopg import sql

from rempart.features.databases import Session
from rempart.features.plan import OnlineTable
from rempart.features.tables import name

_REGISTER: LiteralString = """
    CREATE TABLE IF NOT EXISTS online_tables (
        name text PRIMARY KEY,
        pipeline text NOT NULL,
        view text NOT NULL,
        is_current boolean NOT NULL
    )"""


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


def is_current(opened: Session, table: OnlineTable) -> bool:
    """Return whether this is the view's current table: a former one may hold old values."""
    return bool(opened.execute("SELECT 1 FROM online_tables WHERE name = %s AND is_current", (table.name,)).fetchone())


def create(opened: Session, table: OnlineTable) -> bool:
    """Create the table without its primary key, listed as not current. Return False if it exists."""
    opened.execute(
        "INSERT INTO online_tables VALUES (%s, %s, %s, false) ON CONFLICT (name) DO NOTHING",
        (table.name, table.pipeline, table.view),
    )
    if opened.execute("SELECT to_regclass(%s)", (f'public."{table.name}"',)).fetchone() != (None,):
        return False
    columns = sql.SQL(", ").join(sql.SQL("{} {}").format(name(c), sql.SQL(declared)) for c, declared in table.columns)
    opened.execute(sql.SQL("CREATE TABLE {} ({})").format(name(table.name), columns))
    return True


def add_key(opened: Session, table: OnlineTable) -> None:
    """Add the primary key: after the rows, since an index is built faster than it is filled."""
    opened.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name(table.name), name(table.key)))


def switch(opened: Session, pipeline: str, current: Sequence[OnlineTable]) -> None:
    """Make these tables the current ones of the pipeline, and all its others former ones."""
    opened.execute(
        "UPDATE online_tables SET is_current = (name = ANY(%(names)s))"
        " WHERE pipeline = %(pipeline)s AND is_current <> (name = ANY(%(names)s))",
        {"names": [table.name for table in current], "pipeline": pipeline},
    )


def drop(opened: Session, tables: Iterable[str]) -> None:
    for table in tables:
        opened.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name(table)))
        opened.execute("DELETE FROM online_tables WHERE name = %s", (table,))
