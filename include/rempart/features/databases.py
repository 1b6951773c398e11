"""The feature store's three databases, and sessions on them whose errors never carry a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg

from rempart.errors import DatabaseUnavailable, FeatureError, RempartError
from rempart.settings.config import Connection

Session = psycopg.Connection[tuple[Any, ...]]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class FeatureDatabases:
    """Connections to Feast's registry, the offline store (history) and the online store (newest values)."""

    registry: Connection
    offline: Connection
    online: Connection


def sslmode(connection: Connection) -> str:
    """Return libpq's sslmode: the connection's own, else `disable` on the loopback and `prefer` elsewhere."""
    return str(connection.tls().get("sslmode", "")) or ("disable" if connection.host in _LOOPBACK else "prefer")


def registry_url(connection: Connection) -> str:
    """Return the registry's SQLAlchemy URL. It holds the password: never log it."""
    tls = urlencode(connection.tls() | {"sslmode": sslmode(connection)})
    plain = connection.postgresql_url("postgresql+psycopg").partition("?")[0]
    return f"{plain}?{tls}&connect_timeout=10"


@contextmanager
def session(
    connection: Connection, doing: str, *, autocommit: bool = False, patience: int | None = None
) -> Iterator[Session]:
    """Open one transaction in UTC, committed at the end; with `autocommit` each statement is one.

    `patience`: seconds after which a statement is cancelled, and a silent server counts as away; None sets no limit.
    Raises DatabaseUnavailable if PostgreSQL does not answer, FeatureError for refusals, without a cause: PostgreSQL
    quotes the offending values in its messages, and these may be personal.
    """
    where = f"{doing} in {connection.schema} ({connection.host}:{connection.port or 5432})"
    try:
        with psycopg.connect(
            host=connection.host,
            port=connection.port or 5432,
            user=connection.login,
            password=connection.password,
            dbname=connection.schema,
            **(connection.tls() | {"sslmode": sslmode(connection)}),
            **_limits(patience),
            connect_timeout=patience or 10,
            autocommit=autocommit,
            application_name="rempart",
            options=f"-c timezone=UTC -c datestyle=ISO -c search_path=public -c statement_timeout={patience or 0}s",
        ) as opened:
            yield opened
    except psycopg.OperationalError as cause:
        raise DatabaseUnavailable(
            f"{where}: no answer", "`rempart status` shows whether PostgreSQL runs; `rempart up` starts it."
        ) from cause
    except psycopg.Error as cause:
        raise FeatureError(
            f"{where}: PostgreSQL answered {type(cause).__name__} (SQLSTATE {cause.sqlstate})",
            "Check that the snapshot matches the pipeline's schema and that the role owns its database.",
        ) from None


def _limits(patience: int | None) -> dict[str, Any]:
    """Return libpq's limits for a network that is cut: for what was sent, and while an answer is awaited."""
    if patience is None:
        return {}
    return {
        "tcp_user_timeout": 1000 * patience,
        "keepalives_idle": patience,
        "keepalives_interval": 1,
        "keepalives_count": 3,
    }


@contextmanager
def feast_errors(doing: str) -> Iterator[None]:
    """Translate whatever Feast raises; its messages quote values and connection settings, so none is passed on.

    Raises FeatureError naming the kind of error and the line of code where it arose.
    """
    try:
        yield
    except RempartError:
        raise
    except Exception as cause:
        trace = cause.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown place"
        # SQLAlchemy wraps the driver's error in its own
        unavailable = isinstance(getattr(cause, "orig", cause), psycopg.OperationalError)
        raise (DatabaseUnavailable if unavailable else FeatureError)(
            f"{doing}: Feast failed with {type(cause).__name__} at {place}",
            "Check that PostgreSQL runs (`rempart status`), then run the materialization again.",
        ) from None
