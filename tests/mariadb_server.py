"""A real MariaDB for tests: Debian's, which .ci/tools unpacks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

MARIADBD = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_mariadb = pytest.mark.skipif(
    MARIADBD is None, reason="there is no mariadbd (.ci/tools brings Debian's), so NOT tested"
)
USERS = """
FLUSH PRIVILEGES;
CREATE USER 'owner'@'127.0.0.1' IDENTIFIED BY 'an owner';
GRANT ALL ON *.* TO 'owner'@'127.0.0.1' WITH GRANT OPTION;
"""
PORTS = range(24100, 24200)


@dataclass(frozen=True)
class Mariadb:
    """A running server. Its owner may do everything."""

    port: int

    def opened(self, database: str | None = None) -> Any:
        """Connect as the owner."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="owner",
            password="an owner",
            database=database,
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )

    def execute(self, *statements: str, database: str | None = None) -> None:
        """Run statements as the owner."""
        with self.opened(database) as opened, opened.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def mariadb(folder: Path) -> Iterator[Mariadb]:
    """Run a server with its data in a folder until the end of the block."""
    assert MARIADBD is not None
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
        yield Mariadb(port)
    finally:
        running.terminate()
        running.wait(60)
