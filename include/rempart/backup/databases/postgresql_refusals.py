"""The remedy for each refusal of a connection by PostgreSQL. Pure.

libpq gives no SQLSTATE for a connection that failed, so the server's text decides. A server whose messages are not in
English gets the last remedy. Source of the texts: PostgreSQL 18, src/backend/{libpq,utils/init,postmaster,tcop}.
"""

from __future__ import annotations

import re

from rempart.settings.config import Connection

_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"SSL error|server certificate", "Correct `sslrootcert` or the host of '{name}', or the server's certificate."),
    (r"password", "Correct the password of '{name}', or that of role '{login}' in PostgreSQL."),
    (r"role .*does not exist", "Create role '{login}', or correct the login of '{name}'."),
    (r"not permitted to log in", "Give LOGIN to role '{login}': ALTER ROLE {login} LOGIN."),
    (r"database .*does not exist", "Create database '{schema}', or correct the database of '{name}'."),
    (
        r"permission denied for database",
        "Give role '{login}' the right: GRANT CONNECT ON DATABASE {schema} TO {login}.",
    ),
    (
        r"too many (clients|connections)|connection slots are reserved",
        "End unused connections, or raise max_connections (or the limit of the role).",
    ),
    (
        r"valid client certificate",
        ("The server requires a client certificate. Change its pg_hba.conf to scram-sha-256."),
    ),
    (
        r"no encryption",
        (
            "Set `sslmode` of '{name}' to require or verify-full, because the server accepts no unencrypted "
            "connection (pg_hba.conf)."
        ),
    ),
    (
        r"pg_hba\.conf",
        ("Allow role '{login}' to connect from this machine to database '{schema}' in the server's pg_hba.conf."),
    ),
    (
        r"starting up|shutting down|recovery|not (yet )?accepting connections|terminating connection",
        "Wait until PostgreSQL accepts connections, then run again.",
    ),
)
OTHER = "Find the cause in PostgreSQL's log."


def remedy(message: str, connection: Connection) -> str:
    """Return the remedy for a refusal; `said` is the server's message without quoted values."""
    found = next((told for pattern, told in _REMEDIES if re.search(pattern, message)), OTHER)
    return found.format(name=connection.name, login=connection.login, schema=connection.schema)
