"""Airflow's schema, migrated by one process of tests and copied by the others of the same run.

The migration takes a quarter of a minute of processor time and gives each stack the same tables: it writes nothing of
the stack itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from rempart.backup.databases import postgresql
from rempart.errors import StackError
from rempart.settings.config import Connection

RUN = "PYTEST_XDIST_TESTRUNUID"
"""Names a run of several processes of tests; a process that is alone has none."""


def copied(folder: Path, database: Connection, migrate: Callable[[], None]) -> None:
    """Give an empty database the schema that `migrate` makes: from another process of this run, if one has made it.

    `folder` is that of all processes of tests. What an earlier run left there is removed.
    """
    if not (run := os.environ.get(RUN)):
        migrate()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dump = folder / run / "airflow.sql"
        if dump.is_file():
            _run(database, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "-1", f"--file={dump}")
            return
        for left in (found for found in folder.iterdir() if found.is_dir()):
            shutil.rmtree(left)
        migrate()
        part = folder / "part.sql"
        _run(database, "pg_dump", "--no-owner", "--no-privileges", f"--file={part}")
        dump.parent.mkdir()
        part.rename(dump)


def _run(database: Connection, program: str, *arguments: str) -> None:
    tools = postgresql.find_tools()
    environment = {**os.environ, **postgresql.libpq_environment(database)}
    command = tools.command(program, *arguments)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(
            f"copy Airflow's schema: {program} ended with {done.returncode}: {done.stderr[-300:]}", "None."
        )
