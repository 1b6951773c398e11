"""Open DuckDB on a file in a scratch folder, within limits. Nothing outside of the folder is read or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import FeatureError

if TYPE_CHECKING:
    import duckdb

_POSTGRESQL = """
    CREATE MACRO make_interval(days := 0, hours := 0, mins := 0, secs := 0) AS
        to_days(days::integer) + to_hours(hours) + to_minutes(mins) + to_seconds(secs);
    CREATE MACRO numeric_mul(a, b) AS a::DOUBLE * b::DOUBLE;
    CREATE MACRO to_char(moment, form) AS strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ');
"""
"""Functions of PostgreSQL that the views' SQL calls, and DuckDB lacks."""


@dataclass(frozen=True)
class ScratchDatabase:
    """A folder for the database and for what exceeds its memory; memory in MiB, and threads.

    `kept`: the database is a file of the folder, so that it may be larger than the memory, and be opened again.
    """

    folder: Path
    memory: int = 512
    threads: int = 2
    kept: bool = True

    @property
    def spill(self) -> Path:
        """Return the folder for what exceeds the memory."""
        return self.folder / "spill"

    @property
    def database(self) -> str:
        return str(self.folder / "rows.duckdb") if self.kept else ":memory:"


@contextmanager
def created(scratch: ScratchDatabase, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Create the database, which knows PostgreSQL's functions. Raises FeatureError, which never quotes a value."""
    with _connected(scratch, doing, read_only=False) as connection:
        connection.execute(_POSTGRESQL)
        yield connection


@contextmanager
def reopened(scratch: ScratchDatabase, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a kept database to read. Raises FeatureError, which never quotes a value."""
    with _connected(scratch, doing, read_only=True) as connection:
        yield connection


@contextmanager
def _connected(scratch: ScratchDatabase, doing: str, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    try:
        with duckdb.connect(
            scratch.database,
            read_only=read_only,
            config={
                "memory_limit": f"{scratch.memory}MiB",
                "threads": scratch.threads,
                "temp_directory": str(scratch.spill),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            },
        ) as connection:
            folder = str(scratch.folder.absolute()).replace("'", "''")
            connection.execute(f"SET allowed_directories = ['{folder}']")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection
    except duckdb.OutOfMemoryException:
        raise FeatureError(
            f"{doing}: its {scratch.memory} MiB of memory do not suffice, or the disk of {scratch.folder} is full",
            "Raise `training.join_memory` in rempart.yaml, or make space in the folder for temporary files.",
        ) from None
    except duckdb.Error as cause:
        raise FeatureError(
            f"{doing}: DuckDB answered {type(cause).__name__}",
            "Check that the snapshot matches the pipeline's schema: `rempart pipeline check`.",
        ) from None
