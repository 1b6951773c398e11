"""The ledger in PostgreSQL; the role that writes it can insert and select, nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg

from rempart.config import Connection
from rempart.errors import DatabaseUnavailable, LedgerError
from rempart.ledger.port import Evidence, Kind


class PostgresqlLedger:
    """Evidence in the `ledger` database; each append is one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def _session(self, doing: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        where = f"{doing} in the ledger ({self._connection.host}:{self._connection.port})"
        try:
            with psycopg.connect(self._connection.postgresql_url(), connect_timeout=10) as session:
                yield session
        except psycopg.OperationalError as cause:
            raise DatabaseUnavailable(
                f"{where}: no answer", "Check that PostgreSQL runs (`rempart status`)."
            ) from cause
        except psycopg.Error as cause:
            raise LedgerError(
                f"{where}: {type(cause).__name__}", "Check the ledger's table (include/sql/ledger.sql)."
            ) from cause

    def append(self, kind: Kind, subject: str, body: Mapping[str, Any]) -> Evidence:
        with self._session(f"append {kind} {subject}") as session:
            row = session.execute(
                "INSERT INTO evidence (kind, subject, body) VALUES (%s, %s, %s) RETURNING seq, at",
                (kind, subject, json.dumps(body, sort_keys=True, allow_nan=False)),
            ).fetchone()
        assert row is not None  # noqa: S101 - INSERT ... RETURNING gives one row or raises
        return Evidence(row[0], row[1], kind, subject, body)

    def find(self, kind: Kind, subject: str | None = None, *, limit: int = 100) -> list[Evidence]:
        with self._session(f"find {kind} {subject or ''}") as session:
            rows = session.execute(
                "SELECT seq, at, kind, subject, body FROM evidence WHERE kind = %(kind)s"
                " AND (%(subject)s::text IS NULL OR subject = %(subject)s) ORDER BY seq DESC LIMIT %(limit)s",
                {"kind": kind, "subject": subject, "limit": limit},
            ).fetchall()
        return [Evidence(*row) for row in rows]
