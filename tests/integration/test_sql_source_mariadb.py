"""Kind `sql` with a real MariaDB: Debian's, which .ci/tools unpacks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import pymysql
import pytest

from rempart.errors import IngestError, SourceUnavailable
from rempart.settings.config import Connection
from tests.integration.sql_source_suite import COLUMNS, Landing, Row, SqlSourceSuite, opened, order, pipeline

MARIADBD = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(MARIADBD is None, reason="there is no mariadbd (.ci/tools brings Debian's), so NOT tested"),
]
USERS = """
CREATE DATABASE shop CHARACTER SET utf8mb4;
FLUSH PRIVILEGES;
CREATE USER 'owner'@'127.0.0.1' IDENTIFIED BY 'an owner';
GRANT ALL ON shop.* TO 'owner'@'127.0.0.1';
CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'a reader';
GRANT SELECT ON shop.* TO 'reader'@'127.0.0.1';
"""
TABLE = """CREATE TABLE orders (id bigint, part varchar(50), day date, price decimal(12, 2), weight double,
    paid boolean, changed_at timestamp(6) NOT NULL, note text, PRIMARY KEY (id, part))
    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"""
PORTS = range(24100, 24200)


@dataclass
class MariadbServer:
    reader: Connection

    def _opened(self) -> Any:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.reader.port or 0,
            user="owner",
            password="an owner",
            database="shop",
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )

    def put(self, rows: Sequence[Row]) -> None:
        with self._opened() as opened, opened.cursor() as cursor:
            values = [(*row[:6], row[6].astimezone(UTC).replace(tzinfo=None), row[7]) for row in rows]
            cursor.executemany(f"INSERT INTO orders VALUES ({', '.join(['%s'] * len(COLUMNS))})", values)

    def execute(self, statement: str) -> None:
        with self._opened() as opened, opened.cursor() as cursor:
            cursor.execute(statement)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    assert MARIADBD is not None
    folder = tmp_path_factory.mktemp("mariadb")
    share = Path(MARIADBD).resolve().parent.parent / "share" / "mariadb"
    data = folder / "data"
    data.mkdir()
    command = [
        MARIADBD, "--no-defaults", f"--datadir={data}", f"--lc-messages-dir={share}", "--user=root",
        "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M",
    ]  # fmt: skip
    tables = [
        (share / f"mariadb_{name}.sql").read_bytes()
        for name in ("system_tables", "performance_tables", "system_tables_data")
    ]
    made = b"CREATE DATABASE mysql;\nUSE mysql;\n" + b"".join(tables) + USERS.encode()
    subprocess.run([*command, "--bootstrap"], input=made, check=True, capture_output=True, timeout=120)
    for port in PORTS:  # the next one where another program takes the port first
        place = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 's'}", "--skip-name-resolve=ON"]
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen([*command, *place], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while running.poll() is None and not _answers(port) and time.monotonic() < until:
            time.sleep(0.1)
        if running.poll() is None:
            break
    try:
        found = MariadbServer(Connection("shop", "mysql", "127.0.0.1", port, "reader", "a reader", "shop"))
        found.execute(TABLE)
        yield found
    finally:
        running.terminate()
        running.wait(60)


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
