"""Compare the tables of our own databases with their scripts in include/sql/platform: a script only creates tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rempart.backup.databases.postgresql import session
from rempart.settings.config import Connection

_TABLE = re.compile(r"^CREATE TABLE [A-Z ]+ public\.(\w+) \((.*?)^\);", re.M | re.S)
_COLUMN = re.compile(r"^ +([a-z]\w*) ", re.M)
_FOUND = """
SELECT c.relname::text, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1
"""
Columns = Mapping[str, frozenset[str]]
"""Names of columns by table."""


@dataclass(frozen=True)
class OtherTable:
    """A table that another release made: it `lacks` columns of this release, or `has` others."""

    database: str
    name: str
    lacks: tuple[str, ...]
    has: tuple[str, ...]


def of_script(root: Path, database: str) -> Columns:
    """Return the columns that the script of a database creates, by table."""
    text = (root / "include" / "sql" / "platform" / f"{database}.sql").read_text(encoding="utf-8")
    return {name: frozenset(_COLUMN.findall(body)) for name, body in _TABLE.findall(text)}


def read(connection: Connection) -> Columns:
    """Return the columns of every table in a database. Raises BackupError, DatabaseUnavailable."""
    with session(connection, "read its tables") as opened:
        return {name: frozenset(columns) for name, columns in opened.execute(_FOUND).fetchall()}


def compare(database: str, wanted: Columns, existing: Columns) -> tuple[OtherTable, ...]:
    """Return the tables that exist with other columns than this release's. Pure."""
    return tuple(
        OtherTable(database, name, tuple(sorted(columns - existing[name])), tuple(sorted(existing[name] - columns)))
        for name, columns in sorted(wanted.items())
        if name in existing and existing[name] != columns
    )
