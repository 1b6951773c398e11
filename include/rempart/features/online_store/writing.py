"""Writes online tables set by set: blocks of bytes go from one database to the other, then one statement merges them.

No value becomes a Python object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from rempart.features import tables
from rempart.features.databases import Session
from rempart.features.online_store import generations
from rempart.features.online_store.comparison import Content, Span
from rempart.features.plan import Field, OnlineTable, ViewTable

BLOCK = 1 << 18
"""Bytes that are sent at once. PostgreSQL gives each row as a message of its own."""
INCOMING = "incoming"

Copied = Callable[[int], None]
"""Called with the number of rows copied so far."""


@dataclass(frozen=True)
class Comparison:
    """Rows that were sent, the span of all entities of the offline store, its content, and that of the online table."""

    sent: int
    span: Span
    wanted: Content
    found: Content


def write(
    offline: Session, online: Session, view: ViewTable, at: datetime, since: datetime | None, copied: Copied
) -> Comparison:
    """Write the row that holds at `at` of every entity that changed after `since`, None means of all; digest all rows.

    A new table is filled, an existing one changed where it differs. Other sessions see nothing of it before the
    transaction of `online` ends. Each database reads its rows while the other one does.
    """
    table, query = view.online, newest(view, at, since)
    is_new = generations.create(online, table)
    if not is_new:
        with_incoming(online, table)
    sent = pipe(offline, query, online, table.name if is_new else INCOMING, copied, freeze=is_new)
    with ThreadPoolExecutor(1) as side:
        told = side.submit(digest, offline, table, newest(view, at))
        if is_new:
            generations.add_key(online, table)
        generations.watch(online, table)
        if not is_new:
            merge(online, table)
        found, _ = digest(online, table, stored(table))
        wanted, span = told.result()
    return Comparison(sent, span, wanted, found)


def prune(offline: Session, online: Session, view: ViewTable, at: datetime) -> int:
    """Delete entities that have no row in the offline store that holds at `at`. Return their number."""
    key = tables.name(view.join_key)
    online.execute("DROP TABLE IF EXISTS pg_temp.kept")
    online.execute(sql.SQL("CREATE TEMP TABLE kept ({} {}) ON COMMIT DROP").format(key, sql.SQL(view.join_type)))
    keys = sql.SQL("SELECT DISTINCT {} FROM {} WHERE {}").format(key, tables.name(view.table), tables.holds(view, at))
    pipe(offline, keys, online, "kept", lambda rows: None)
    return online.execute(
        sql.SQL("DELETE FROM {} o WHERE NOT EXISTS (SELECT FROM kept k WHERE k.{key} = o.{key})").format(
            tables.name(view.online.name), key=key
        )
    ).rowcount


def update(
    offline: Session, online: Session, view: ViewTable, at: datetime, since: datetime, copied: Copied
) -> tuple[Content, Content]:
    """Write the row that holds at `at` of every entity that changed after `since`, as `write` does.

    Return what the online table contained of these entities before, and what it contains of them after it.
    """
    table = view.online
    with_incoming(online, table)
    pipe(offline, newest(view, at, since), online, INCOMING, copied)
    # the limit has each row looked up by its key: without it the whole table may be read
    there = sql.SQL("SELECT o.* FROM {} i, LATERAL (SELECT * FROM {} t WHERE t.{key} = i.{key} LIMIT 1) o").format(
        tables.name(INCOMING), tables.name(table.name), key=tables.name(table.key)
    )
    before, _ = digest(online, table, there)
    merge(online, table)
    after, _ = digest(online, table, there)
    return before, after


def digest(opened: Session, table: OnlineTable, query: sql.Composable) -> tuple[Content, Span]:
    """Return the content of a query's rows, which have the columns of `table`, and their span.

    PostgreSQL computes each row's hash from its binary values, as it does for hash partitions, so the two databases
    agree.
    """
    found = opened.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(hash_record_extended(ROW({}), 0)), 0), min(event_timestamp),"
            " max(event_timestamp) FROM ({}) digested"
        ).format(tables.names(column for column, _ in table.columns), query)
    ).fetchone()
    assert found is not None  # noqa: S101 - an aggregate gives one row
    return Content(int(found[0]), int(found[1])), Span(int(found[0]), found[2], found[3])


def stored(table: OnlineTable) -> sql.Composed:
    """Return the query of all rows of an online table."""
    return sql.SQL("TABLE {}").format(tables.name(table.name))


def newest(view: ViewTable, at: datetime, since: datetime | None = None) -> sql.Composed:
    """Return the query of the row that holds at `at` of each entity that changed after `since`, by default of all.

    It has the columns of the online table. An entity changed if one of its rows was loaded since, or began to hold.
    """
    key, table, holds = tables.name(view.join_key), tables.name(view.table), tables.holds(view, at)
    columns = tables.names(column for column, _ in view.online.columns)
    changed: sql.Composable = sql.SQL("true") if since is None else sql.SQL("loaded_at > {}").format(sql.Literal(since))
    if since is not None and view.dated:
        begun = sql.SQL("event_timestamp > {} AND {}").format(sql.Literal(view.asked_at(since)), holds)
        changed = sql.SQL("({} OR ({}))").format(changed, begun)
    if not view.dated:
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(columns, table, changed)
    if since is not None:
        changed = sql.SQL("{key} IN (SELECT {key} FROM {table} WHERE {changed})").format(
            key=key, table=table, changed=changed
        )
    # both descending: the order of the primary key, backwards
    return sql.SQL(
        "SELECT DISTINCT ON ({key}) {columns} FROM {table} WHERE {holds} AND {changed}"
        " ORDER BY {key} DESC, event_timestamp DESC"
    ).format(key=key, columns=columns, table=table, holds=holds, changed=changed)


def select(table: OnlineTable, fields: Sequence[Field] | None = None) -> sql.Composed:
    """Return the query of entities: key, features (by default all), event time. Its parameter is an array of keys."""
    features = table.fields if fields is None else fields
    return sql.SQL("SELECT {columns} FROM {table} WHERE {key} = ANY(%s::{type}[])").format(
        columns=tables.names([table.key, *(field.name for field in features), "event_timestamp"]),
        table=tables.name(table.name),
        key=tables.name(table.key),
        type=sql.SQL(table.key_type),
    )


def with_incoming(online: Session, table: OnlineTable) -> None:
    """Create the temporary table `incoming` with the table's columns in the order in which they are sent, empty."""
    online.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(tables.name(INCOMING)))
    online.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
            tables.name(INCOMING), tables.names(column for column, _ in table.columns), tables.name(table.name)
        )
    )


def merge(online: Session, table: OnlineTable) -> int:
    """Insert the rows of `incoming`, and update those that differ. Return the number of rows written."""
    columns = [column for column, _ in table.columns]
    return online.execute(
        sql.SQL(
            "INSERT INTO {table} AS old ({columns}) SELECT {columns} FROM {incoming}"
            " ON CONFLICT ({key}) DO UPDATE SET ({others}) = ROW({new})"
            " WHERE ROW({current}) IS DISTINCT FROM ROW({new})"
        ).format(
            table=tables.name(table.name),
            incoming=tables.name(INCOMING),
            columns=tables.names(columns),
            key=tables.name(table.key),
            others=tables.names(columns[1:]),
            new=tables.names(columns[1:], "excluded"),
            current=tables.names(columns[1:], "old"),
        )
    ).rowcount


def pipe(
    source: Session, query: sql.Composable, target: Session, table: str, copied: Copied, *, freeze: bool = False
) -> int:
    """Copy a query's rows from one session into a table of another, as blocks of bytes. Return the number of rows.

    `freeze`: the table was created in the same transaction, so its rows need no later mark of visibility.
    """
    out = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    into = sql.SQL("COPY {} FROM STDIN (FORMAT binary{})").format(
        tables.name(table), sql.SQL(", FREEZE" if freeze else "")
    )
    block, rows = bytearray(), 0
    with source.cursor() as reading, target.cursor() as writing:
        with reading.copy(out) as given, writing.copy(into) as taken:
            for message in given:
                block += message
                rows += 1
                if len(block) >= BLOCK:
                    taken.write(bytes(block))
                    block.clear()
                    copied(rows)
            taken.write(bytes(block))
        return writing.rowcount
