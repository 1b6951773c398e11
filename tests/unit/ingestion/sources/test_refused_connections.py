"""Which failures of a database's connection a retry can mend, and which need a person."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import psycopg
import pymysql
import pytest

from rempart.errors import IngestError, SourceUnavailable
from rempart.ingestion.sources import mariadb, postgresql
from rempart.ingestion.sources.database import Relation
from rempart.settings.config import Connection

SHOP = Connection("shop", "postgres", "db.example.eu", 5432, "reader", "secret", "shop")


@pytest.mark.parametrize(
    ("text", "transient"),
    [
        ("connection failed: SSL connection has been closed unexpectedly", True),
        ("SSL SYSCALL error: EOF detected", True),
        ("SSL error: unexpected eof while reading", True),
        ("could not receive data from server: Connection timed out", True),
        ("server does not support SSL, but SSL was required", False),
        ("SSL error: certificate verify failed", False),
        ("SSL error: tlsv1 alert unknown ca", False),
        ('server certificate for "a" does not match host name "b"', False),
        ('root certificate file "/x" does not exist', False),
        ("password authentication failed for user", False),
    ],
)
def test_a_lost_tls_session_of_postgresql_is_tried_again_and_a_wrong_certificate_is_not(
    text: str, transient: bool
) -> None:
    with pytest.raises(IngestError) as caught, postgresql._named(SHOP):
        raise psycopg.OperationalError(text)
    assert caught.value.transient is transient


def test_a_wrong_certificate_of_mariadb_is_not_tried_again() -> None:
    failed = pymysql.err.OperationalError(2003, "Can't connect")
    with pytest.raises(SourceUnavailable), mariadb._named(SHOP):
        raise failed
    failed.original_exception = ssl.SSLCertVerificationError("certificate verify failed")
    with pytest.raises(IngestError, match="certificate is not trusted") as caught, mariadb._named(SHOP):
        raise failed
    assert not caught.value.transient


def test_a_missing_authority_of_mariadb_is_named(tmp_path: Path) -> None:
    extra = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "missing.pem")}
    source = mariadb.Mariadb(Connection("shop", "mysql", "127.0.0.1", 9, extra=extra))
    relation = Relation("t", None, {}, [], None, timedelta(hours=1))
    with pytest.raises(IngestError, match="TLS files cannot be used"), source.reading(relation):
        pass
