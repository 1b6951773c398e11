"""Each message with which PostgreSQL refuses a connection has its own remedy."""

from __future__ import annotations

import psycopg
import pytest

from rempart.backup.databases.postgresql import named
from rempart.errors import DatabaseUnavailable
from rempart.settings.config import Connection

CONNECTION = Connection("pg_backup", "postgres", host="db.example.eu", login="backup", schema="ledger")


@pytest.mark.parametrize(
    ("fatal", "remedy"),
    [
        ('password authentication failed for user "backup"', "password of 'pg_backup'"),
        ("empty password returned by client", "password of 'pg_backup'"),
        ('role "backup" does not exist', "Create role 'backup'"),
        ('role "backup" is not permitted to log in', "LOGIN to role 'backup'"),
        ('database "ledger" does not exist', "Create database 'ledger'"),
        ('permission denied for database "ledger"', "GRANT CONNECT ON DATABASE"),
        ("sorry, too many clients already", "max_connections"),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", "max_connections"),
        ('too many connections for role "backup"', "max_connections"),
        ('no pg_hba.conf entry for host "10.0.0.9", user "backup", database "ledger", SSL encryption', "pg_hba.conf"),
        ('no pg_hba.conf entry for host "10.0.0.9", user "backup", database "ledger", no encryption', "`sslmode`"),
        ('pg_hba.conf rejects connection for host "10.0.0.9", user "backup", database "ledger"', "pg_hba.conf"),
        ("connection requires a valid client certificate", "client certificate"),
        ("the database system is starting up", "run again"),
        ("the database system is in recovery mode", "run again"),
        ("terminating connection due to administrator command", "run again"),
        ("something that nobody has seen", "PostgreSQL's log"),
    ],
)
def test_each_refusal_has_its_own_remedy(fatal: str, remedy: str) -> None:
    with pytest.raises(DatabaseUnavailable) as refused, named(CONNECTION, "back up"):
        raise psycopg.OperationalError(f'connection to server at "10.0.0.9", port 5432 failed: FATAL:  {fatal}')
    assert remedy in refused.value.hint
    assert "refused: " in refused.value.what and "10.0.0.9" not in refused.value.what
    if "password" not in fatal:
        assert "password" not in refused.value.hint


@pytest.mark.parametrize(
    "message",
    [
        "SSL error: certificate verify failed",
        'server certificate for "x" does not match host name "db.example.eu"',
    ],
)
def test_a_certificate_that_is_not_believed_is_no_password(message: str) -> None:
    with pytest.raises(DatabaseUnavailable) as refused, named(CONNECTION, "back up"):
        raise psycopg.OperationalError(f"connection failed: {message}")
    assert "`sslrootcert`" in refused.value.hint and "password" not in refused.value.hint


def test_no_answer_is_no_refusal() -> None:
    with pytest.raises(DatabaseUnavailable, match="no answer"), named(CONNECTION, "back up"):
        raise psycopg.OperationalError("connection refused")
