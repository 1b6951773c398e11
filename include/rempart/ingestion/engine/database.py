"""Open DuckDB for one piece of work: in memory, within limits, on the files of some folders only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.engine_connection import EngineConnection
from rempart.ingestion.engine.limits import Resources

if TYPE_CHECKING:
    import duckdb


@contextmanager
def opened(resources: Resources, folders: Sequence[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database that reads and writes only these folders. What exceeds its memory goes to the spill folder.

    `preserve_insertion_order` keeps its default: without it, a sorted result arrives in any order of its chunks.
    Nothing is downloaded: extensions that are not in the package are not loaded. No statement can change this.
    """
    import duckdb

    resources.spill.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{resources.memory}B",
            "threads": resources.threads,
            "temp_directory": str(resources.spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        },
    ) as connection:
        allowed = ", ".join(literal(str(folder.absolute())) for folder in (*folders, resources.spill))
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET TimeZone = 'UTC'")  # calendar functions would follow the machine's zone
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def batches(connection: EngineConnection, query: str, rows: int) -> Iterator[Any]:
    """Yield the result of a query as Arrow record batches of `rows` rows, as it is made."""
    reader: Any = connection.sql(query).to_arrow_reader(rows)
    yield from reader


def literal(text: str) -> str:
    """Return a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def parquet(files: Sequence[Path], *, named: str | None = None) -> str:
    """Return the relation (SQL) of the rows of some Parquet files, at least one.

    `named`: a column with the path of a row's file.
    """
    option = f", filename = {literal(named)}" if named else ""
    return f"read_parquet([{', '.join(literal(str(file.absolute())) for file in files)}]{option})"
