"""What loading and joining ask of an engine. DuckDB's own connection does it, and that of Spark.

Statements are in DuckDB's dialect: the one description of the rules.
"""

from __future__ import annotations

from typing import Any, Protocol


class Answer(Protocol):
    """The result of a statement."""

    def fetchall(self) -> list[Any]:
        """Return all rows, each a tuple. Only for a few rows."""


class Connection(Protocol):
    """Executes statements over tables that it holds."""

    def execute(self, query: str, /) -> Answer:
        """Execute a statement: a query, or one that creates a table or a view."""

    def register(self, name: str, rows: Any, /) -> Any:
        """Let statements read rows by a name: an Arrow reader, or a relation of the engine."""

    def unregister(self, name: str, /) -> Any:
        """Forget a name that was registered."""
