"""A real PostgreSQL refuses a session for each reason that a test can cause: the error has that reason's remedy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from rempart.backup.databases import postgresql
from rempart.errors import DatabaseUnavailable
from rempart.settings.config import Connection
from tests.integration.own_servers import Servers, own_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL of the module's own."""
    with own_servers(tmp_path_factory.mktemp("refusals"), ("postgresql",)) as made:
        yield made


def refused(connection: Connection) -> DatabaseUnavailable:
    with pytest.raises(DatabaseUnavailable, match="refused: ") as found, postgresql.session(connection, "look"):
        pass
    return found.value


def test_each_reason_has_its_remedy(servers: Servers) -> None:
    backup = postgresql.for_database(servers.connections("pg_backup"), "ledger")
    role = backup.login
    assert "password of 'pg_backup'" in refused(dataclasses.replace(backup, password="wrong")).hint
    assert "Create database 'nowhere'" in refused(postgresql.for_database(backup, "nowhere")).hint
    with postgresql.session(servers.superuser, "prepare the test") as opened:
        opened.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        assert "max_connections" in refused(backup).hint
        opened.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1 NOLOGIN")
        assert f"LOGIN to role '{role}'" in refused(backup).hint
        opened.execute(f"ALTER ROLE {role} LOGIN")
        opened.execute("CREATE DATABASE closed")
        opened.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    closed = postgresql.for_database(backup, "closed")
    assert f"GRANT CONNECT ON DATABASE closed TO {role}" in refused(closed).hint
    with postgresql.session(backup, "look"):
        pass
