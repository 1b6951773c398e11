"""Kind `sql` with a real MariaDB: Debian's, which .ci/tools unpacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

import pymysql
import pytest

from rempart.errors import IngestError, SourceUnavailable
from rempart.settings.config import Connection
from tests import mariadb_server
from tests.integration.sql_source_suite import COLUMNS, NOW, Landing, Row, SqlSourceSuite, opened, order, pipeline

pytestmark = [pytest.mark.full, mariadb_server.needs_mariadb]
TABLE = """CREATE TABLE orders (id bigint, part varchar(50), day date, price decimal(12, 2), weight double,
    paid boolean, changed_at timestamp(6) NOT NULL, note mediumtext, PRIMARY KEY (id, part))
    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""


@dataclass
class Shop:
    """A server with a table `orders`."""

    mariadb: mariadb_server.MariadbServer

    @property
    def reader(self) -> Connection:
        return self.mariadb.reader

    def execute(self, statement: str) -> None:
        self.mariadb.execute(statement)

    def put(self, rows: Sequence[Row]) -> None:
        values = [(*row[:6], row[6].astimezone(UTC).replace(tzinfo=None), row[7]) for row in rows]
        self.mariadb.execute(f"INSERT INTO orders VALUES ({', '.join(['%s'] * len(COLUMNS))})", values)

    def read_columns_alone(self, columns: Sequence[str]) -> Connection:
        self.execute("CREATE OR REPLACE USER 'clerk'@'127.0.0.1' IDENTIFIED BY 'a clerk'")
        self.execute(f"GRANT SELECT ({', '.join(columns)}) ON orders TO 'clerk'@'127.0.0.1'")
        return self.mariadb.clerk

    def write_as_reader(self) -> None:
        reader = self.reader
        with pymysql.connect(
            host=reader.host, port=reader.port or 0, user="reader", password=reader.password, database="shop"
        ) as opened:
            opened.cursor().execute("DELETE FROM orders")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with mariadb_server.running_mariadb(tmp_path_factory.mktemp("mariadb")) as running:
        found = Shop(running)
        found.execute(TABLE)
        yield found


class TestMariadb(SqlSourceSuite):
    @pytest.fixture
    def server(self, database: Shop) -> Shop:
        database.execute("DELETE FROM orders")
        return database

    def test_a_statement_that_takes_too_long_ends(self, server: Shop) -> None:
        server.execute("CREATE OR REPLACE VIEW slow AS SELECT * FROM orders WHERE sleep(20) = 0")
        server.put([order(n) for n in range(3)])
        with pytest.raises(SourceUnavailable, match="statement_timeout"):
            opened(pipeline("table: slow, statement_timeout: 1s"), server.reader).extract({}, Landing(), order(1)[6])

    def test_a_table_that_the_role_may_not_read_is_refused(self, server: Shop) -> None:
        with pytest.raises(IngestError, match=r"may not read the table or query \(error 1142\)") as caught:
            opened(pipeline("table: mysql.user"), server.reader).extract({}, Landing(), NOW)
        assert not caught.value.transient and "GRANT SELECT" in caught.value.hint
