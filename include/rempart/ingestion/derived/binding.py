"""Bind a query on empty tables: columns and types are known before any run, and no statement can reach outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from rempart.errors import PipelineError
from rempart.ingestion.derived.rules import Fault, Functions, faults
from rempart.ingestion.engine.identity import quote
from rempart.ingestion.snapshots import SnapshotColumn

if TYPE_CHECKING:
    import duckdb

Columns = Mapping[str, SnapshotColumn]
LONGEST = 100_000
"""Bytes of a query."""
SHOWN = 5
"""Faults that an error names."""
_TO_SQL = {
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "string": "VARCHAR",
    "category": "VARCHAR",
    "date": "DATE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "array(number)": "DOUBLE[]",
    "array(string)": "VARCHAR[]",
}
_OF_SQL = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "number"),
    "BOOLEAN": "boolean",
    "VARCHAR": "string",
    "DATE": "date",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
    **dict.fromkeys(("FLOAT[]", "DOUBLE[]"), "array(number)"),
    "VARCHAR[]": "array(string)",
}
_REMEDIES = {
    "HUGEINT": "write CAST(... AS BIGINT)",
    "UHUGEINT": "write CAST(... AS BIGINT)",
    "UBIGINT": "write CAST(... AS BIGINT)",
    "TIMESTAMP": "it has no time zone; write ... AT TIME ZONE 'UTC' or another zone",
}


@dataclass(frozen=True)
class Query:
    """A bound query. `text` is in DuckDB's own form, without comments. `columns` are its result's, in order.

    `used`: inputs that it names.
    """

    text: str
    columns: Columns
    used: frozenset[str]


def sql_type(declared: str) -> str:
    """Return the SQL type of a snapshot's column."""
    return declared.upper() if declared.startswith("decimal") else _TO_SQL[declared]


def bind(name: str, text: str, inputs: Mapping[str, Columns]) -> Query:
    """Return the bound query of the SQL file `name` over inputs by name. Nothing is executed.

    Raises PipelineError naming each fault with its line.
    """
    if len(text.encode()) > LONGEST:
        raise _refused(name, text, [Fault(f"it is longer than {LONGEST} bytes")])
    with _empty(inputs) as connection:
        tree = _tree(connection, name, text)
        if found := list(faults(tree, inputs, _functions())):
            raise _refused(name, text, found)
        canonical = str(_one(connection, "SELECT json_deserialize_sql(CAST(? AS JSON))", json.dumps(tree)))
        described = _describe(connection, name, canonical)
    columns: dict[str, SnapshotColumn] = {}
    wrong: list[Fault] = []
    for column, type_ in described:
        found_type = type_.lower() if re.fullmatch(r"DECIMAL\(\d+,\d+\)", type_) else _OF_SQL.get(type_)
        if column in columns:
            wrong.append(Fault(f"it gives two columns '{column}'; name one of them by AS"))
        elif not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", column):
            wrong.append(Fault(f"column '{column[:60]}' needs a name of lower case letters, digits and _; write AS"))
        elif found_type is None:
            remedy = _REMEDIES.get(type_, "cast it to a type of a pipeline's schema")
            wrong.append(Fault(f"column '{column}' is {type_[:60]}: {remedy}"))
        columns[column] = SnapshotColumn(found_type or "string", True)
    if wrong:
        raise _refused(name, text, wrong)
    return Query(canonical, columns, frozenset(_named(tree["statements"][0], inputs)))


@contextmanager
def _empty(inputs: Mapping[str, Columns]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database with an empty table for each input, without files, network, Python or changes of settings."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": "256MB",
        "threads": 1,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, columns in inputs.items():
            fields = ", ".join(
                f"{quote(column)} {sql_type(spec.type)}{'' if spec.nullable else ' NOT NULL'}"
                for column, spec in columns.items()
            )
            connection.execute(f"CREATE TABLE {quote(table)} ({fields})")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


@cache
def _functions() -> Functions:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        rows = connection.execute("SELECT lower(function_name), function_type, stability FROM duckdb_functions()")
        found = rows.fetchall()
        views = connection.execute(
            "SELECT lower(view_name) FROM duckdb_views() WHERE schema_name <> 'information_schema'"
        ).fetchall()
    return Functions(
        frozenset(name for name, type_, stability in found if type_ == "scalar" and stability == "CONSISTENT"),
        frozenset(name for name, type_, _ in found if type_ == "macro"),
        frozenset(name for name, type_, _ in found if type_ == "aggregate"),
        frozenset(name for name, type_, _ in found if type_ == "table" and name.startswith(("duckdb_", "pragma_")))
        | frozenset(name for (name,) in views),
    )


def _tree(connection: duckdb.DuckDBPyConnection, name: str, text: str) -> dict[str, Any]:
    import duckdb

    try:
        tree: dict[str, Any] = json.loads(str(_one(connection, "SELECT json_serialize_sql(?)", text)))
    except duckdb.Error as cause:
        raise _refused(name, text, [Fault(_first_line(cause))]) from cause
    if tree.get("error"):
        why = str(tree.get("error_message", ""))
        if "Only SELECT" in why:
            why = "it is not a SELECT (a PIVOT needs its columns: PIVOT ... ON ... IN (...))"
        raise _refused(name, text, [Fault(why.splitlines()[0] if why else "it cannot be parsed")])
    return tree


def _describe(connection: duckdb.DuckDBPyConnection, name: str, text: str) -> list[tuple[str, str]]:
    import duckdb

    try:
        rows = connection.execute(f"DESCRIBE {text}").fetchall()
    except duckdb.Error as cause:
        raise _refused(name, text, [Fault(_first_line(cause))]) from cause
    return [(str(row[0]), str(row[1])) for row in rows]


def _one(connection: duckdb.DuckDBPyConnection, query: str, value: str) -> object:
    row = connection.execute(query, [value]).fetchone()
    return row[0] if row else None


def _named(node: object, inputs: Mapping[str, Columns]) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _named(item, inputs)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            yield from (name for name in inputs if name.lower() == str(node["table_name"]).lower())
        for value in node.values():
            yield from _named(value, inputs)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _refused(name: str, text: str, found: list[Fault]) -> PipelineError:
    lines = [None if fault.place is None else text.encode()[: fault.place].count(b"\n") + 1 for fault in found]
    shown = [
        fault.why if line is None else f"line {line}: {fault.why}" for fault, line in zip(found, lines, strict=True)
    ]
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return PipelineError(
        f"{name}: {'; '.join(shown[:SHOWN])}{more}",
        "Correct the SQL file. A derived pipeline is one SELECT over its inputs whose result depends on their rows "
        "alone: no files, no current time, no random values, no LIMIT without ORDER BY.",
    )
