"""PostgreSQL as a source: COPY of one SELECT, streamed by the server as CSV. A role that can only read is enough."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from rempart.errors import IngestError, SourceUnavailable
from rempart.ingestion.sources import csv_deliveries, database
from rempart.ingestion.sources.database import Order, Relation, check_columns
from rempart.ingestion.sources.row_memory import Row, moment
from rempart.settings.columns import Column
from rempart.settings.config import Connection

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

_REFUSED = re.compile(
    r"password authentication|pg_hba\.conf|does not exist|not permitted|permission denied|certif"
    r"|does not support SSL|SSL error: (?:tlsv1|sslv3|ssl/tls)"
)
"""Texts of a server or of libpq that no retry changes. A TLS session that was lost is not among them."""
_RETRIED = ("08", "40", "53", "57")
"""Classes of SQLSTATE that a retry can mend: connection, rollback, resources, and an operator's intervention."""
_TIMED_OUT, _FORBIDDEN = "57014", "42501"
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_MARKER = 32
"""Most bytes of the cursor that stands before a row, with its line end."""


class Postgresql:
    """A PostgreSQL server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def reading(self, relation: Relation) -> Iterator[PostgresqlReading]:
        """Open a read-only transaction that sees one state of the database."""
        import psycopg

        connection = self._connection
        with _named(connection):
            opened = psycopg.connect(
                host=connection.host,
                port=connection.port or 5432,
                user=connection.login,
                password=connection.password,
                dbname=connection.schema,
                connect_timeout=10,
                autocommit=True,
                client_encoding="utf8",
                **connection.tls(),
            )
        with closing(opened), _named(connection):  # not its own exit: a rollback within COPY waits for ever
            opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            milliseconds = max(1, round(relation.timeout.total_seconds() * 1000))
            for setting, value in (
                ("statement_timeout", str(milliseconds)),
                ("timezone", "UTC"),
                ("datestyle", "ISO, YMD"),
                ("intervalstyle", "postgres"),
                ("extra_float_digits", "1"),
                ("bytea_output", "hex"),
            ):
                opened.execute("SELECT set_config(%s, %s, true)", [setting, value])
            yield PostgresqlReading(opened, relation, connection)


class PostgresqlReading:
    """One transaction of a PostgreSQL server."""

    def __init__(self, opened: psycopg.Connection[Any], relation: Relation, connection: Connection) -> None:
        from psycopg import errors, sql

        self._opened, self._relation = opened, relation
        if relation.table is not None:
            self._from: sql.Composable = sql.Identifier(*relation.table.split("."))
        else:
            self._from = sql.SQL("({}) AS source").format(sql.SQL(relation.query or ""))
        selected = sql.SQL(", ").join(map(sql.Identifier, relation.names))
        try:
            found = opened.execute(sql.SQL("SELECT {} FROM {} LIMIT 0").format(selected, self._from))
        except errors.UndefinedColumn:
            opened.execute("ROLLBACK")
            described = opened.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(self._from)).description
            check_columns(relation, [column.name for column in described or ()], _where(connection))
            raise
        kinds = opened.adapters.types
        self._types = {
            column.name: (kind.name if (kind := kinds.get(column.type_code)) else "", column.type_code)
            for column in found.description or ()
        }

    def rows(self, *, since: int | None = None) -> Iterator[Row]:
        from psycopg import sql

        cursor = self._relation.cursor
        if cursor is None or since is None:
            return self._copy(list(self._relation.columns), sql.SQL("TRUE"), "cursor")
        column = sql.Identifier(cursor)
        bound = sql.Literal(self._bound(since))
        return self._copy(
            list(self._relation.columns), sql.SQL("({0} >= {1} OR {0} IS NULL)").format(column, bound), "cursor"
        )

    def keys(self) -> Iterator[Row]:
        from psycopg import sql

        return self._copy(list(self._relation.key), sql.SQL("TRUE"), "key")

    def chosen(self, keys: Sequence[Sequence[str]]) -> Iterator[Row]:
        from psycopg import sql

        columns = sql.SQL(", ").join(map(sql.Identifier, self._relation.key))
        wanted = sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, key))) for key in keys)
        return self._copy(list(self._relation.columns), sql.SQL("({}) IN ({})").format(columns, wanted), "key")

    def _bound(self, since: int) -> str:
        """Return a cursor as the text of the column's type."""
        at = moment(since)
        kind = self._types[self._relation.cursor or ""][0]
        return at.date().isoformat() if kind == "date" else at.strftime("%Y-%m-%d %H:%M:%S.%f") + _offset(kind)

    def _copy(self, names: Sequence[str], where: sql.Composable, order: Order) -> Iterator[Row]:
        """Yield rows: the cursor in microseconds stands before the columns, and is cut off here."""
        from psycopg import sql

        marker: sql.Composable = sql.SQL("NULL")
        by = [self._sorted(name) for name in self._relation.key]
        if cursor := self._relation.cursor:
            column = sql.Identifier(cursor)
            marker = sql.SQL("CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::bigint END").format(
                column
            )
            if order == "cursor":
                by = [sql.SQL("{} NULLS LAST").format(column), *by]  # as an index has it
        # a text that kept its column's name would be what ORDER BY sorts by
        texts = [sql.SQL("{} AS {}").format(self._text(name), sql.Identifier(f"text of {name}")) for name in names]
        statement = sql.SQL("COPY (SELECT {}, {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT csv)").format(
            marker, sql.SQL(", ").join(texts), self._from, where, sql.SQL(", ").join(by)
        )
        with _named(None), self._opened.cursor() as reader, reader.copy(statement) as copy:
            for row in _rows(copy):
                micros, _, rest = row.partition(b",")
                yield (int(micros) if micros else None), rest

    def _text(self, name: str) -> sql.Composable:
        """Return a column as the text that ingestion reads as the column's declared type."""
        from psycopg import sql

        column, (kind, oid) = sql.Identifier(name), self._types[name]
        declared: Column = self._relation.columns[name]
        if self._is_array(oid):  # the name of its kind is that of its items
            if declared.separator:
                return sql.SQL("array_to_string({}, {})").format(column, sql.Literal(declared.separator))
            return sql.SQL("to_json({})::text").format(column)
        if kind == "timestamptz":
            return sql.SQL("({} AT TIME ZONE 'UTC')::text || 'Z'").format(column)
        return sql.SQL("{}::text").format(column)

    def _is_array(self, oid: int) -> bool:
        kind = self._opened.adapters.types.get(oid)
        return kind is not None and oid == kind.array_oid

    def _sorted(self, name: str) -> sql.Composable:
        """Return what sorts a key column as Python sorts its values."""
        from psycopg import sql

        column, declared = sql.Identifier(name), self._relation.columns[name].type
        if declared in ("string", "category"):
            return sql.SQL("convert_to({}::text, 'UTF8')").format(column)
        return column


def _offset(kind: str) -> str:
    return "+00" if kind == "timestamptz" else ""


def _rows(blocks: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Yield whole rows: a quoted value may hold line ends, and a block may end anywhere.

    Raises IngestError for a row that is longer than a delivery can hold, before all of it came.
    """
    pieces: list[bytes] = []
    size = quotes = 0
    for block in blocks:
        for piece in _LINES.findall(bytes(block)):
            pieces.append(piece)
            size, quotes = size + len(piece), quotes + piece.count(b'"')
            if piece.endswith(b"\n") and quotes % 2 == 0:
                yield b"".join(pieces)[:-1]
                pieces, size, quotes = [], 0, 0
            elif size > csv_deliveries.LONGEST_ROW + _MARKER:
                raise csv_deliveries.too_long()


def _where(connection: Connection | None) -> str:
    return f"extract from PostgreSQL (connection '{connection.name}')" if connection else "extract from PostgreSQL"


@contextmanager
def _named(connection: Connection | None) -> Iterator[None]:
    """Turn errors of PostgreSQL into ours, without the server's text: it may hold values."""
    import psycopg

    where = _where(connection)
    try:
        yield
    except psycopg.OperationalError as cause:
        if cause.sqlstate is None and (refusal := _REFUSED.search(str(cause))):
            raise IngestError(
                f"{where}: the server refused the connection ({refusal[0].replace(chr(92), '')})",
                "Correct the login, password, database or TLS settings of the connection. A role that can read "
                "the table is enough.",
            ) from None
        raise _unavailable(where, cause) from None
    except psycopg.Error as cause:
        if (cause.sqlstate or "").startswith(_RETRIED):
            raise _unavailable(where, cause) from None
        if cause.sqlstate == _FORBIDDEN:
            raise database.forbidden(where, f"SQLSTATE {_FORBIDDEN}") from None
        raise IngestError(
            f"{where}: the server answered {type(cause).__name__} (SQLSTATE {cause.sqlstate})",
            "Check that the table or query gives all columns of the pipeline's schema, and that the role may read it.",
        ) from None


def _unavailable(where: str, cause: psycopg.Error) -> SourceUnavailable:
    if cause.sqlstate == _TIMED_OUT:
        return SourceUnavailable(
            f"{where}: a statement was ended by the server, or took longer than `source.statement_timeout`",
            "Add an index on the cursor and key, or set a longer `source.statement_timeout`. Then run again.",
        )
    code = f"SQLSTATE {cause.sqlstate}" if cause.sqlstate else "no answer"
    return SourceUnavailable(
        f"{where}: {code}", "Check that the server runs and can be reached from here, then run again."
    )
