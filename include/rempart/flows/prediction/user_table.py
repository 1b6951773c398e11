"""Bring predictions into a PostgreSQL table of the user's: the newest of each row and model. Nothing is ever dropped.

The primary key is the key of the rows and `model`, the name of the model's pipeline. A prediction replaces one that was
made before it, and one of another version, since only the champion's come. So a repeated run changes nothing. What the
champion does not answer, such as the ends of intervals that another version gave, becomes null in the row. All rows
come in one transaction: COPY into a temporary table, then one INSERT ... ON CONFLICT.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg import sql

from rempart.errors import FeatureError, PredictionError
from rempart.features.databases import Session, session
from rempart.ingestion.snapshots import SnapshotColumn
from rempart.models import predictions
from rempart.settings.champions.scoring import Into
from rempart.settings.config import Connection

MODEL = "model"
_TYPES = {
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "string": "text",
    "category": "text",
    "date": "date",
    "timestamp": "timestamp with time zone",
}
_BATCH = 1 << 16


def upsert(
    connection: Connection,
    into: Into,
    model: str,
    columns: Mapping[str, SnapshotColumn],
    keys: Sequence[str],
    files: Iterable[Path],
) -> int:
    """Bring the rows of these files of a scoring into the table; return the number of inserted or changed rows.

    `columns`: those of the files; `keys`: the ones that identify a row. Raises PredictionError if the table does not
    fit or PostgreSQL refuses, DatabaseUnavailable.
    """
    table = sql.Identifier(*into.table.split("."))
    types = {name: _type(column) for name, column in columns.items()}
    with _session(connection, into, f"bring predictions into {into.table}") as opened:
        _fit(opened, into, table, types, keys)
        opened.execute(sql.SQL("CREATE TEMPORARY TABLE given ({}) ON COMMIT DROP").format(_declared(types)))
        names = _listed(types)
        for file in files:
            with opened.cursor().copy(sql.SQL("COPY given ({}) FROM STDIN (FORMAT csv)").format(names)) as copy:
                for block in _csv(file, list(types)):
                    copy.write(block)
        rest = [name for name in types if name not in keys]
        others = [name for name in _columns(opened, into) if predictions.is_reserved(name) and name not in types]
        merged = opened.execute(
            sql.SQL(
                "INSERT INTO {table} AS old ({names}, model) SELECT {names}, {model} FROM given "
                "ON CONFLICT ({keys}, model) DO UPDATE SET {rest} "
                "WHERE old.sha256 IS DISTINCT FROM excluded.sha256 OR old.scored_at < excluded.scored_at"
            ).format(
                table=table,
                names=names,
                model=sql.Literal(model),
                keys=_listed(keys),
                rest=sql.SQL(", ").join(
                    [
                        *(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in rest),
                        *(sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in others),
                    ]
                ),
            )
        )
        return int(merged.rowcount)


def strike(
    connection: Connection,
    into: Into,
    model: str,
    keys: Sequence[str],
    gone: Callable[[Sequence[Any]], bool],
    *,
    dry_run: bool = False,
) -> int:
    """Delete a model's rows whose key was erased; return their number. A missing table has none.

    Raises PredictionError, DatabaseUnavailable.
    """
    table = sql.Identifier(*into.table.split("."))
    with _session(connection, into, f"erase rows of {into.table}") as opened:
        if opened.execute("SELECT to_regclass(%s)", [into.table]).fetchone() == (None,):
            return 0
        selected = sql.SQL("SELECT {} FROM {} WHERE model = {}").format(_listed(keys), table, sql.Literal(model))
        with opened.cursor(name="keys") as cursor:
            cursor.itersize = _BATCH
            struck = [row for row in cursor.execute(selected) if gone(row)]
        if struck and not dry_run:
            matched = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in keys)
            deleted = sql.SQL("DELETE FROM {} WHERE model = {} AND {}").format(table, sql.Literal(model), matched)
            opened.cursor().executemany(deleted, struck)
        return len(struck)


def strike_others(connection: Connection, into: Into, model: str, snapshots: Iterable[str]) -> int:
    """Delete a model's rows that were not predicted from one of these snapshots; return their number.

    Raises PredictionError, DatabaseUnavailable.
    """
    table = sql.Identifier(*into.table.split("."))
    with _session(connection, into, f"erase rows of {into.table}") as opened:
        if opened.execute("SELECT to_regclass(%s)", [into.table]).fetchone() == (None,):
            return 0
        query = sql.SQL("DELETE FROM {} WHERE model = %s AND snapshot <> ALL(%s)").format(table)
        return int(opened.execute(query, [model, sorted(snapshots)]).rowcount)


def count_of_others(connection: Connection, into: Into, model: str, sha256: str) -> int:
    """Return the number of a model's rows that another version than that with this file predicted.

    Raises PredictionError, DatabaseUnavailable.
    """
    table = sql.Identifier(*into.table.split("."))
    with _session(connection, into, f"count rows of {into.table}") as opened:
        if not {MODEL, "sha256"} <= set(_columns(opened, into)):
            return 0  # it has no prediction yet
        query = sql.SQL("SELECT count(*) FROM {} WHERE model = %s AND sha256 IS DISTINCT FROM %s").format(table)
        ((count,),) = opened.execute(query, [model, sha256]).fetchall()
        return int(count)


def _fit(opened: Session, into: Into, table: sql.Composable, types: Mapping[str, str], keys: Sequence[str]) -> None:
    """Create the table if it is missing, and add the columns that it lacks. Raises PredictionError."""
    constraint = sql.SQL("PRIMARY KEY ({}, model)").format(_listed(keys))
    if opened.execute("SELECT to_regclass(%s)", [into.table]).fetchone() == (None,):
        opened.execute(
            sql.SQL("CREATE TABLE {} ({}, model text NOT NULL, {})").format(table, _declared(types), constraint)
        )
    found = _columns(opened, into)
    wanted = {**types, MODEL: "text"}
    wrong = [name for name, kind in wanted.items() if found.get(name, kind) != kind]
    wrong += [name for name in (*keys, MODEL) if name not in found]
    if wrong:
        raise PredictionError(
            f"bring predictions into {into.table} through connection '{into.connection}': its column '{wrong[0]}' is "
            f"{found.get(wrong[0], 'missing')}, and {wanted[wrong[0]]} is needed",
            "Name another table under `scoring.into.table`: it is created if it is missing.",
        )
    for name in wanted:
        if name not in found:
            opened.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {}").format(table, _declared({name: wanted[name]})))


def _columns(opened: Session, into: Into) -> dict[str, str]:
    """Return the columns of the table with their types; none if it is missing."""
    found = opened.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [into.table],
    )
    return dict(found.fetchall())


def _declared(types: Mapping[str, str]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in types.items()
    )


def _listed(names: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _type(column: SnapshotColumn) -> str:
    if found := re.fullmatch(r"decimal\((\d+),(\d+)\)", column.type):
        return f"numeric({found[1]},{found[2]})"
    return _TYPES[column.type]


def _csv(file: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the rows of a Parquet file as CSV: null is an empty field without quotes."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(_BATCH, columns=list(names)):
            sink = io.BytesIO()
            csv.write_csv(pa.Table.from_batches([batch]).select(list(names)), sink, options)
            yield sink.getvalue()


@contextmanager
def _session(connection: Connection, into: Into, doing: str) -> Iterator[Session]:
    try:
        with session(connection, doing) as opened:
            yield opened
    except FeatureError as refused:
        raise PredictionError(
            refused.what,
            f"Check that the role of connection '{into.connection}' may write the table, that its schema exists, and "
            "that its primary key is the key of the rows and `model`.",
        ) from None
