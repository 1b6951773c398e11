"""Find MLflow artifact locations that bypass the tracking server and so do not switch sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rempart.errors import DatabaseUnavailable
from rempart.settings.config import Connection

PROXIED = "mlflow-artifacts:"
_TABLES = (("experiments", "artifact_location", "experiment_id"), ("runs", "artifact_uri", "run_uuid"))


@dataclass(frozen=True)
class Location:
    """A row of MLflow's database that names where artifacts are."""

    table: str
    column: str
    key: str
    value: str
    location: str


@dataclass(frozen=True)
class Unproxied:
    """A location at one site, and the SQL statement that replaces it by one of the MLflow server.

    None if objects must move first.
    """

    row: Location
    statement: str | None

    def line(self) -> str:
        where = (
            f"{self.row.table} {self.row.value}: {self.row.location} is at one site, so a failover would not move it"
        )
        if self.statement is None:
            return f"{where}; first copy its objects below the server's artifact root (docs/adr/0016-active-site.md)"
        return f"{where}; run in database mlflow: {self.statement}"


def unproxied(rows: Iterable[Location], root: str) -> Iterator[Unproxied]:
    """Return the locations that do not switch. `root` is what the server serves: `s3://artifacts/mlflow`. Pure."""
    for row in rows:
        if row.location.startswith(PROXIED):
            continue
        below = row.location.removeprefix(f"{root}/")
        if below == row.location:
            yield Unproxied(row, None)
            continue
        to, key = (text.replace("'", "''") for text in (f"{PROXIED}/{below}", row.value))
        yield Unproxied(row, f"UPDATE {row.table} SET {row.column} = '{to}' WHERE {row.key} = '{key}';")  # noqa: S608 # for a person


def read(connection: Connection) -> list[Location]:
    """Return every location in MLflow's database. Raises DatabaseUnavailable."""
    import psycopg

    found: list[Location] = []
    try:
        with psycopg.connect(connection.postgresql_url(), connect_timeout=10) as opened:
            for table, column, key in _TABLES:
                query = f"SELECT {key}::text, {column} FROM {table} WHERE {column} NOT LIKE %s ORDER BY 1"  # noqa: S608
                rows = opened.execute(query.encode(), [f"{PROXIED}%"]).fetchall()
                found += [Location(table, column, key, str(value), str(location)) for value, location in rows]
    except psycopg.Error as cause:
        raise DatabaseUnavailable(
            f"read MLflow's artifact locations: {type(cause).__name__}",
            "`rempart status` shows whether PostgreSQL runs; `rempart up` starts it.",
        ) from cause
    return found
