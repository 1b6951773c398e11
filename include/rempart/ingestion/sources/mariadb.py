"""MariaDB (and MySQL) as a source: one SELECT, streamed by the driver. A role that can only read is enough."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rempart.errors import IngestError, SourceUnavailable
from rempart.ingestion.sources import database
from rempart.ingestion.sources.csv_deliveries import line
from rempart.ingestion.sources.database import Order, Relation, check_columns
from rempart.ingestion.sources.row_memory import Row, moment
from rempart.settings.config import Connection

if TYPE_CHECKING:
    import pymysql

_RETRIED = {1040, 1053, 1205, 1213, 1317, 1969, 2002, 2003, 2006, 2013, 2055, 3024}
"""Errors that a retry can mend: too many connections, a shutdown, a lock, a long statement, a lost connection."""
_REFUSED = {1045, 1698}
_NO_COLUMN = 1054
_TIMED_OUT = {1317, 1969, 3024}
_FORBIDDEN = {1044, 1142, 1143, 1370}
"""Errors of a right that the role lacks: on a database, a table, a column, a routine."""


class Mariadb:
    """A MariaDB server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def reading(self, relation: Relation) -> Iterator[MariadbReading]:
        """Open a read-only transaction that sees one state of the database."""
        import pymysql
        from pymysql.cursors import SSCursor

        connection = self._connection
        try:
            context = tls_context(connection)
        except OSError as cause:  # an ssl.SSLError is one
            raise IngestError(
                f"extract from MariaDB (connection '{connection.name}'): its TLS files cannot be used "
                f"({type(cause).__name__})",
                "Correct the files that `sslrootcert`, `sslcert` and `sslkey` of the connection name.",
            ) from None
        with _named(connection):
            opened = pymysql.connect(
                host=connection.host,
                port=connection.port or 3306,
                user=connection.login,
                password=connection.password,
                database=connection.schema,
                charset="utf8mb4",
                connect_timeout=10,
                read_timeout=round(relation.timeout.total_seconds()) + 60,
                autocommit=True,
                cursorclass=SSCursor,
                ssl=context,
            )
            try:
                if context is not None and not isinstance(opened._sock, ssl.SSLSocket):  # the driver goes on without
                    raise IngestError(
                        f"extract from MariaDB (connection '{connection.name}'): the server offers no TLS",
                        "Switch TLS on at the server, or change `sslmode` of the connection.",
                    )
                with opened.cursor() as cursor:
                    cursor.execute("SET SESSION time_zone = '+00:00', sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
                    _limit_time(cursor, relation)
                    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
                yield MariadbReading(opened, relation, connection)
            finally:
                opened.close()


def _limit_time(cursor: Any, relation: Relation) -> None:
    """Let the server end a statement that takes too long: MariaDB counts seconds, MySQL milliseconds."""
    import pymysql

    seconds = max(1.0, relation.timeout.total_seconds())
    try:
        cursor.execute(f"SET SESSION max_statement_time = {seconds:.3f}")
    except pymysql.err.Error:
        cursor.execute(f"SET SESSION max_execution_time = {round(seconds * 1000)}")


def tls_context(connection: Connection) -> ssl.SSLContext | None:
    """Return the TLS settings for libpq's names of modes, which all connections of Rempart use; None without TLS."""
    settings = connection.tls()
    mode, root = settings.get("sslmode", "prefer"), settings.get("sslrootcert")
    if mode in ("disable", "allow", "prefer"):
        return None
    context = ssl.create_default_context(cafile=None if root in (None, "system") else root)
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in settings:
        context.load_cert_chain(settings["sslcert"], settings.get("sslkey"))
    return context


class MariadbReading:
    """One transaction of a MariaDB server."""

    def __init__(self, opened: pymysql.Connection[Any], relation: Relation, connection: Connection) -> None:
        from pymysql.constants import FIELD_TYPE
        from pymysql.err import Error

        self._opened, self._relation = opened, relation
        self._from = (
            ".".join(map(_name, relation.table.split("."))) if relation.table else f"({relation.query}) AS source"
        )
        try:
            self._types = self._described(", ".join(map(_name, relation.names)))
        except Error as cause:
            if cause.args[:1] == (_NO_COLUMN,):
                check_columns(relation, self._described("*"), _where(connection))
            raise
        self._instant, self._day = FIELD_TYPE.TIMESTAMP, FIELD_TYPE.DATE

    def _described(self, selected: str) -> dict[str, int]:
        """Return the name and type of each selected column."""
        with self._opened.cursor() as cursor:
            cursor.execute(f"SELECT {selected} FROM {self._from} LIMIT 0")  # noqa: S608 - names only
            described = cursor.description
            cursor.fetchall()
        return {column[0]: column[1] for column in described}

    def rows(self, *, since: int | None = None) -> Iterator[Row]:
        cursor = self._relation.cursor
        if cursor is None or since is None:
            return self._select(list(self._relation.columns), "TRUE", "cursor")
        at = moment(since)
        bound = at.date().isoformat() if self._types[cursor] == self._day else at.strftime("%Y-%m-%d %H:%M:%S.%f")
        where = f"({_name(cursor)} >= {self._opened.literal(bound)} OR {_name(cursor)} IS NULL)"
        return self._select(list(self._relation.columns), where, "cursor")

    def keys(self) -> Iterator[Row]:
        return self._select(list(self._relation.key), "TRUE", "key")

    def chosen(self, keys: Sequence[Sequence[str]]) -> Iterator[Row]:
        wanted = ", ".join(f"({', '.join(map(self._opened.literal, key))})" for key in keys)
        where = f"({', '.join(map(_name, self._relation.key))}) IN ({wanted})"
        return self._select(list(self._relation.columns), where, "key")

    def _select(self, names: Sequence[str], where: str, order: Order) -> Iterator[Row]:
        marker, by = "NULL", [self._sorted(name) for name in self._relation.key]
        if cursor := self._relation.cursor:
            # not UNIX_TIMESTAMP: it reads a local time in the session's zone, and knows no day before 1970
            marker = f"TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', {_name(cursor)})"
            if order == "cursor":
                by = [f"{_name(cursor)} IS NULL", _name(cursor), *by]
        statement = (
            f"SELECT {marker}, {', '.join(map(self._text, names))} FROM {self._from} "  # noqa: S608 - names only
            f"WHERE {where} ORDER BY {', '.join(by)}"
        )
        with _named(None), self._opened.cursor() as reader:
            reader.execute(statement)
            while some := reader.fetchmany(1000):
                for micros, *cells in some:
                    yield (None if micros is None else int(micros)), line(cells)

    def _text(self, name: str) -> str:
        """Return a column as the text that ingestion reads as the column's declared type."""
        text = f"CAST({_name(name)} AS CHAR CHARACTER SET utf8mb4)"
        return f"CONCAT({text}, 'Z')" if self._types[name] == self._instant else text

    def _sorted(self, name: str) -> str:
        """Return what sorts a key column as Python sorts its values."""
        if self._relation.columns[name].type in ("string", "category"):
            return f"CAST(CONVERT({_name(name)} USING utf8mb4) AS BINARY)"
        return _name(name)


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _where(connection: Connection | None) -> str:
    return f"extract from MariaDB (connection '{connection.name}')" if connection else "extract from MariaDB"


@contextmanager
def _named(connection: Connection | None) -> Iterator[None]:
    """Turn errors of the driver into ours, without the server's text: it may hold values."""
    import pymysql

    where = _where(connection)
    try:
        yield
    except pymysql.err.Error as cause:
        number = cause.args[0] if cause.args and isinstance(cause.args[0], int) else 0
        if isinstance(getattr(cause, "original_exception", None), ssl.SSLCertVerificationError):
            raise IngestError(
                f"{where}: the server's certificate is not trusted, or is of another host",
                "Name the authority's file as `sslrootcert` of the connection, and the host as the certificate does.",
            ) from None
        if number in _TIMED_OUT:
            raise SourceUnavailable(
                f"{where}: a statement was ended by the server, or took longer than `source.statement_timeout`",
                "Add an index on the cursor and key, or set a longer `source.statement_timeout`. Then run again.",
            ) from None
        if number in _RETRIED or isinstance(cause, pymysql.err.InterfaceError):
            raise SourceUnavailable(
                f"{where}: no answer, or one that ended early (error {number})",
                "Check that the server runs and can be reached from here, then run again.",
            ) from None
        if number in _FORBIDDEN:
            raise database.forbidden(where, f"error {number}") from None
        if number in _REFUSED:
            raise IngestError(
                f"{where}: the server refused the login or password (error {number})",
                "Correct login and password of the connection. A role that can read the table is enough.",
            ) from None
        raise IngestError(
            f"{where}: the server answered {type(cause).__name__} (error {number})",
            "Check login, password, database and TLS settings of the connection; that the table or query gives all "
            "columns of the pipeline's schema; and that the role may read it.",
        ) from None
