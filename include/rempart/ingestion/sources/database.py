"""What kind `sql` asks of a database: rows as CSV, streamed in a stable order within one read-only transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
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

    @property
    def names(self) -> list[str]:
        """Return the columns that are read: those of the pipeline, and the cursor's."""
        return list(dict.fromkeys([*self.columns, *([self.cursor] if self.cursor else [])]))


def check_columns(relation: Relation, found: Collection[str], where: str) -> None:
    """Check that a table or query has every column that is read. `where`: what failed, on what. Raises IngestError."""
    if missing := [name for name in relation.names if name not in found]:
        named = ", ".join(f"'{name}'" for name in missing)
        close = {name: get_close_matches(name, found, n=1) for name in missing}
        meant = "".join(f"Did you mean '{other[0]}' for '{name}'? " for name, other in close.items() if other)
        raise IngestError(
            f"{where}: the table or query has no column {named}",
            f"{meant}Give it that name by a SELECT in `source.query`, or correct `schema` in the pipeline file.",
        )


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
