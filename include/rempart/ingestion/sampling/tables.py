"""Sample a table of PostgreSQL. Types, enumerations and the primary key come from its catalogue."""

from __future__ import annotations

import re
from typing import Any

from rempart.errors import DatabaseUnavailable, PipelineError
from rempart.ingestion.sampling.files import check_names
from rempart.ingestion.sampling.sample import MOST_ROWS, Declared, Sample
from rempart.settings.config import Connection
from rempart.settings.sources import Dialect

_COLUMNS = """
    SELECT a.attname, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE a.atttypid END::regtype::text,
           CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = a.atttypid ORDER BY e.enumsortorder),
           coalesce(a.attnum = ANY (i.indkey), false)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_PLAIN = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "real": "number",
    "double precision": "number",
    "boolean": "boolean",
    "date": "date",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamp",
}
_NUMBERS = ("smallint[]", "integer[]", "bigint[]", "real[]", "double precision[]", "numeric[]")
_TEXTS = ("text[]", "character varying[]", "character[]")


def of_table(table: str, name: str, connection: Connection) -> Sample:
    """Return a sample of a table (`schema.name`), read in one read-only transaction.

    `name`: of the connection. Raises DatabaseUnavailable; PipelineError if there is no such table or it may not be
    read. A message of PostgreSQL may quote values and is never passed on.
    """
    import psycopg

    doing = f"draft a pipeline from table {table[:120]} by connection '{name}'"
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", table):
        raise PipelineError(f"{doing}: this is no name of a table", "Pass it as schema.name, such as sales.orders.")
    try:
        with psycopg.connect(
            connection.postgresql_url(),
            connect_timeout=10,
            application_name="rempart",
            options="-c timezone=UTC -c datestyle=ISO -c default_transaction_read_only=on -c statement_timeout=60s",
        ) as opened:
            return _read(opened, table, name, doing)
    except psycopg.errors.InsufficientPrivilege:
        raise PipelineError(
            f"{doing}: the role may not read it", f"Run GRANT SELECT ON {table} for the role."
        ) from None
    except psycopg.OperationalError as cause:
        raise DatabaseUnavailable(
            f"{doing}: no answer of {connection.host}:{connection.port or 5432}",
            "Check that the server runs, and host, port, login and password of the connection.",
        ) from cause
    except psycopg.Error as cause:
        raise PipelineError(
            f"{doing}: PostgreSQL answered {type(cause).__name__} (SQLSTATE {cause.sqlstate})",
            "Check the table with psql and the same role.",
        ) from None


def _read(opened: Any, table: str, connection: str, doing: str) -> Sample:
    import pyarrow as pa
    from psycopg import sql

    found = opened.execute(
        "SELECT c.oid, c.relkind, c.reltuples FROM pg_class c WHERE c.oid = to_regclass(%s)",
        (".".join(f'"{part}"' for part in table.split(".")),),
    ).fetchone()
    if found is None:
        raise PipelineError(f"{doing}: there is no such table", "Pass it as schema.name. Upper case counts.")
    oid, kind, about = found
    columns = opened.execute(_COLUMNS, (oid,)).fetchall()
    check_names(table, [column[0] for column in columns], "Make a view with lower case names, and pass the view.")
    shown = sql.SQL(", ").join(_text(name, type_) for name, type_, *_ in columns)
    place = sql.Identifier(*table.split("."))
    some: Any = sql.SQL("")
    if kind == "r" and about > 4 * MOST_ROWS:
        some = sql.SQL(" TABLESAMPLE SYSTEM ({}) REPEATABLE (0)").format(sql.Literal(120 * MOST_ROWS / about))
    query = sql.SQL("SELECT {} FROM {}{} LIMIT {}").format(shown, place, some, sql.Literal(MOST_ROWS + 1))
    rows = opened.execute(query).fetchall()
    if not rows:
        raise PipelineError(f"{doing}: the table has no rows", "Pass a table with some ordinary rows.")
    whole = not some.as_string(opened) and len(rows) <= MOST_ROWS
    rows = rows[:MOST_ROWS]
    text = {c[0]: pa.array([row[i] for row in rows], pa.string()) for i, c in enumerate(columns)}
    declared = {name: _declared(type_, size, labels) for name, type_, size, labels, _ in columns}
    lines = {"kind": "sql", "connection": connection, "table": table}
    grows = [c[0] for c in columns if c[1].startswith("timestamp") and re.search(r"updat|modif|chang", c[0])]
    if grows:
        lines["# cursor"] = f"{{column: {grows[0]}}}"
    asks = {"# cursor": "does each change set it? Then uncomment the line below, to read only changed rows"}
    size = len(rows) if whole else max(int(about), len(rows))
    key = [name for name, *_, primary in columns if primary]
    return Sample(table, pa.table(text), Dialect(), lines, size, whole, declared, key, text=False, questions=asks)


def _text(name: str, type_: str) -> Any:
    """Return the SQL of a column as text that Rempart reads: instants in UTC, arrays as JSON."""
    from psycopg import sql

    column = sql.Identifier(name)
    if type_ == "timestamp with time zone":
        form = sql.SQL("""to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""")
    elif type_ == "timestamp without time zone":
        form = sql.SQL("""to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US')""")
    elif type_.endswith("[]"):
        form = sql.SQL("to_json({})::text")
    else:
        form = sql.SQL("{}::text")
    return form.format(column)


def _declared(type_: str, size: int, labels: list[str]) -> Declared:
    if labels:
        return Declared("category", tuple(labels))
    if type_ in _PLAIN:
        return Declared(_PLAIN[type_])
    if type_ == "numeric":
        precision, scale = (size - 4) >> 16, (size - 4) & 0x7FF
        sized = size >= 4 and precision <= 38 and scale <= precision
        return Declared(f"decimal({precision},{scale})" if sized else "number")
    if type_ in _NUMBERS:
        return Declared("array(number)")
    return Declared("array(string)" if type_ in _TEXTS else "string")
