"""Kind `sql` with a real MariaDB: Debian's, which .ci/tools unpacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

import pytest

from rempart.errors import IngestError, SourceUnavailable
from rempart.settings.config import Connection
from tests.integration.sql_source_suite import COLUMNS, Landing, Row, SqlSourceSuite, opened, order, pipeline
from tests.mariadb_server import Mariadb, mariadb, needs_mariadb

pytestmark = [pytest.mark.full, needs_mariadb]
READER = (
    "CREATE DATABASE shop CHARACTER SET utf8mb4",
    "CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'a reader'",
    "GRANT SELECT ON shop.* TO 'reader'@'127.0.0.1'",
)
TABLE = """CREATE TABLE orders (id bigint, part varchar(50), day date, price decimal(12, 2), weight double,
    paid boolean, changed_at timestamp(6) NOT NULL, note text, PRIMARY KEY (id, part))
    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""


@dataclass
class MariadbServer:
    server: Mariadb
    reader: Connection

    def put(self, rows: Sequence[Row]) -> None:
        with self.server.opened("shop") as opened, opened.cursor() as cursor:
            values = [(*row[:6], row[6].astimezone(UTC).replace(tzinfo=None), row[7]) for row in rows]
            cursor.executemany(f"INSERT INTO orders VALUES ({', '.join(['%s'] * len(COLUMNS))})", values)

    def execute(self, statement: str) -> None:
        self.server.execute(statement, database="shop")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    with mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        server.execute(*READER)
        reader = Connection("shop", "mysql", "127.0.0.1", server.port, "reader", "a reader", "shop")
        found = MariadbServer(server, reader)
        found.execute(TABLE)
        yield found


class TestMariadb(SqlSourceSuite):
    @pytest.fixture
    def server(self, database: MariadbServer) -> MariadbServer:
        database.execute("DELETE FROM orders")
        return database

    def test_a_statement_that_takes_too_long_ends(self, server: MariadbServer) -> None:
        server.execute("CREATE OR REPLACE VIEW slow AS SELECT * FROM orders WHERE sleep(20) = 0")
        server.put([order(n) for n in range(3)])
        with pytest.raises(SourceUnavailable, match="statement_timeout"):
            opened(pipeline("table: slow, statement_timeout: 1s"), server.reader).extract({}, Landing(), order(1)[6])

    def test_a_table_that_the_role_may_not_read_is_refused(self, server: MariadbServer) -> None:
        with pytest.raises(IngestError, match="error 1142"):
            opened(pipeline("table: mysql.user"), server.reader).extract({}, Landing(), order(1)[6])
