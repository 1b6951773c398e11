"""Sessions in the database `continuity` (include/sql/platform/continuity.sql)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from rempart.errors import DatabaseUnavailable, ReplicationError
from rempart.settings.config import Connection

Session = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def session(connection: Connection, doing: str) -> Iterator[Session]:
    """Open a session in UTC; each `with session.transaction()` commits separately.

    Raises DatabaseUnavailable if PostgreSQL does not answer, ReplicationError for refusals.
    """
    where = f"{doing} in {connection.schema} ({connection.host}:{connection.port})"
    try:
        with psycopg.connect(
            connection.postgresql_url(), connect_timeout=10, autocommit=True, options="-c timezone=UTC"
        ) as opened:
            yield opened
    except psycopg.OperationalError as cause:
        raise DatabaseUnavailable.during(where, str(cause)) from cause
    except psycopg.Error as cause:
        raise ReplicationError(
            f"{where}: PostgreSQL answered {type(cause).__name__} (SQLSTATE {cause.sqlstate})",
            "Check the tables of include/sql/platform/continuity.sql, and that the role owns its database.",
        ) from cause
