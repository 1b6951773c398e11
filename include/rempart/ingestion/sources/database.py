"""What kind `sql` asks of a database: rows as CSV, streamed in a stable order within one read-only transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from rempart.errors import IngestError
from rempart.ingestion.sources.row_memory import Row
from rempart.settings.columns import Column

Order = Literal["cursor", "key"]


@dataclass(frozen=True)
class Relation:
    """What is read: a table or the text of a query, the pipeline's columns, its key, and the cursor's column."""

    table: str | None
    query: str | None
    columns: Mapping[str, Column]
    key: Sequence[str]
    cursor: str | None
    timeout: timedelta


class Reading(Protocol):
    """One transaction. All reads see the same rows."""

    def rows(self, *, since: int | None = None) -> Iterator[Row]:
        """Yield the rows from a cursor on (in microseconds since 1970) with all columns, by cursor and key."""
        ...

    def keys(self) -> Iterator[Row]:
        """Yield the key columns of all rows, in ascending order of the key: numbers, dates, code points of text."""
        ...

    def chosen(self, keys: Sequence[Sequence[str]]) -> Iterator[Row]:
        """Yield the rows with these keys (as text) with all columns, by their key."""
        ...


class Database(Protocol):
    """A database server, reached by one connection. No method writes."""

    def reading(self, relation: Relation) -> AbstractContextManager[Reading]:
        """Open a read-only transaction. Raises SourceUnavailable, IngestError."""
        ...


def forbidden(where: str, code: str) -> IngestError:
    """Return the error for a right that the role lacks. `where` names the attempt, `code` the server's answer."""
    return IngestError(
        f"{where}: the role of the connection may not read the table or query ({code})",
        "Grant it the right to read, and no other: `GRANT SELECT ON <table> TO <role>`, on each table that a query "
        "reads. A schema of PostgreSQL also needs `GRANT USAGE ON SCHEMA <schema> TO <role>`.",
    )
