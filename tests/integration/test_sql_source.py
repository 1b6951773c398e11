"""Kind `sql` with a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.errors import IngestError, SourceUnavailable
from rempart.settings.config import Connection, environment_connections
from tests.integration.sql_source_suite import COLUMNS, NOW, Landing, Row, SqlSourceSuite, opened, order, pipeline

pytestmark = pytest.mark.stores
TABLE = """CREATE TABLE orders (id bigint, part text, day date, price numeric(12, 2), weight double precision,
    paid boolean, changed_at timestamptz, note text, PRIMARY KEY (id, part))"""


@dataclass
class PostgresqlServer:
    owner: Connection
    reader: Connection

    def put(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.owner.postgresql_url()) as opened, opened.cursor() as cursor:
            cursor.executemany(f"INSERT INTO orders VALUES ({', '.join(['%s'] * len(COLUMNS))})", rows)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.owner.postgresql_url()) as opened:
            opened.execute(statement.encode())

    def read_columns_alone(self, columns: Sequence[str]) -> Connection:
        reader = self.reader.login
        self.execute(f"REVOKE ALL ON orders FROM {reader}; GRANT SELECT ({', '.join(columns)}) ON orders TO {reader}")
        return self.reader

    def write_as_reader(self) -> None:
        with psycopg.connect(self.reader.postgresql_url()) as opened:
            opened.execute("DELETE FROM orders")


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresqlServer]:
    """A scratch database, and the login of another service as a role that may read one table."""
    drill, name = environment_connections("pg_drill"), f"scratch_{secrets.token_hex(4)}_shop"
    reader = environment_connections("pg_continuity")
    with psycopg.connect(drill.postgresql_url(), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    shop = replace(reader, name="shop", conn_type="postgres", schema=name)
    found = PostgresqlServer(replace(drill, schema=name), shop)
    found.execute(TABLE)
    found.execute(f"GRANT CONNECT ON DATABASE {name} TO {reader.login}")
    yield found
    with psycopg.connect(drill.postgresql_url(), autocommit=True) as server:
        postgresql.drop_database(server, name)


class TestPostgresql(SqlSourceSuite):
    @pytest.fixture
    def server(self, database: PostgresqlServer) -> PostgresqlServer:
        database.execute("TRUNCATE orders")
        database.execute(f"REVOKE ALL ON orders FROM {database.reader.login}")
        database.execute(f"GRANT SELECT ON orders TO {database.reader.login}")
        return database

    def test_rows_that_change_during_the_extraction_do_not_mix(self, server: PostgresqlServer) -> None:
        server.put([order(n, NOW - timedelta(hours=n)) for n in range(10)])

        class Changing(Landing):
            def deliver(self, name, blocks):  # type: ignore[no-untyped-def]
                server.execute("UPDATE orders SET changed_at = changed_at + interval '1 day', note = 'changed'")
                return super().deliver(name, blocks)

        landing = Changing()
        opened(pipeline(), server.reader).extract({}, landing, NOW)
        assert b"changed\n" not in b"".join(landing.stored.values())

    def test_a_statement_that_takes_too_long_ends(self, server: PostgresqlServer) -> None:
        server.execute("CREATE OR REPLACE VIEW slow AS SELECT * FROM orders WHERE pg_sleep(20) IS NOT NULL")
        server.execute(f"GRANT SELECT ON slow TO {server.reader.login}")
        server.put([order(1)])
        with pytest.raises(SourceUnavailable, match="statement_timeout"):
            opened(pipeline("table: slow, statement_timeout: 1s"), server.reader).extract({}, Landing(), NOW)

    def test_a_query_that_writes_is_refused(self, server: PostgresqlServer) -> None:
        server.execute(
            "CREATE OR REPLACE FUNCTION writes() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS "
            "'INSERT INTO orders (id, part) VALUES (1000, ''x'') RETURNING id'"
        )
        server.execute("CREATE OR REPLACE VIEW writing AS SELECT o.* FROM orders o, writes()")
        server.execute(f"GRANT SELECT ON writing TO {server.reader.login}")
        server.put([order(1)])
        with pytest.raises(IngestError, match="SQLSTATE 25006"):
            opened(pipeline("table: writing"), server.reader).extract({}, Landing(), NOW)

    @pytest.mark.parametrize("table", ["hidden", "closed.orders"])
    def test_a_table_or_schema_of_another_role_is_refused(self, server: PostgresqlServer, table: str) -> None:
        server.execute("CREATE TABLE IF NOT EXISTS hidden (LIKE orders)")
        server.execute("CREATE SCHEMA IF NOT EXISTS closed; CREATE TABLE IF NOT EXISTS closed.orders (LIKE orders)")
        server.execute(f"GRANT SELECT ON closed.orders TO {server.reader.login}")
        with pytest.raises(IngestError, match=r"may not read the table or query \(SQLSTATE 42501\)") as caught:
            opened(pipeline(f"table: {table}"), server.reader).extract({}, Landing(), NOW)
        assert not caught.value.transient and "GRANT SELECT" in caught.value.hint
