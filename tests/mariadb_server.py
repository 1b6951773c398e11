"""A MariaDB server of a test's own: Debian's, which .ci/tools unpacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from rempart.settings.config import Connection

PROGRAM = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_mariadb = pytest.mark.skipif(
    PROGRAM is None, reason="there is no mariadbd (.ci/tools brings Debian's), so NOT tested"
)
USERS = """
CREATE DATABASE shop CHARACTER SET utf8mb4;
FLUSH PRIVILEGES;
CREATE USER 'owner'@'127.0.0.1' IDENTIFIED BY 'an owner';
GRANT ALL ON *.* TO 'owner'@'127.0.0.1' WITH GRANT OPTION;
CREATE USER 'reader'@'127.0.0.1' IDENTIFIED BY 'a reader';
GRANT SELECT ON shop.* TO 'reader'@'127.0.0.1';
"""
_FIRST = 24100 + 25 * int((os.environ.get("PYTEST_XDIST_WORKER") or "gw0").removeprefix("gw"))
PORTS = range(_FIRST, _FIRST + 25)


@dataclass
class MariadbServer:
    """A running server with a database `shop`, and the connection of a role that can only read."""

    reader: Connection

    def opened(self) -> Any:
        """A connection of the owner of the database."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.reader.port or 0,
            user="owner",
            password="an owner",
            database="shop",
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )

    def execute(self, statement: str, rows: Sequence[Sequence[Any]] = ()) -> None:
        """Run a statement, or run it for each of some rows."""
        with self.opened() as opened, opened.cursor() as cursor:
            if rows:
                cursor.executemany(statement, rows)
            else:
                cursor.execute(statement)

    @property
    def clerk(self) -> Connection:
        """The connection of a role that a test makes."""
        return replace(self.reader, login="clerk", password="a clerk")


@contextmanager
def running_mariadb(folder: Path) -> Iterator[MariadbServer]:
    """Start a server with its data in a folder, until the end of the block."""
    assert PROGRAM is not None
    share = Path(PROGRAM).resolve().parent.parent / "share" / "mariadb"
    data = folder / "data"
    data.mkdir()
    command = [
        PROGRAM, "--no-defaults", f"--datadir={data}", f"--lc-messages-dir={share}", "--user=root",
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
        until = time.monotonic() + 120  # it makes its socket after it has the port, which another program may answer at
        while running.poll() is None and not (folder / "s").exists() and time.monotonic() < until:
            time.sleep(0.1)
        if running.poll() is None:
            break
    try:
        yield MariadbServer(Connection("shop", "mysql", "127.0.0.1", port, "reader", "a reader", "shop"))
    finally:
        running.terminate()
        running.wait(60)
