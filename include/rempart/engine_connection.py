"""What the rules of ingestion and features ask of an engine: DuckDB's own connection does it, and that of Spark.

Statements are in DuckDB's dialect: the one description of the rules.
"""

from __future__ import annotations

from typing import Any, Protocol


class EngineConnection(Protocol):
    """Takes statements. A view or table that one statement creates is there for the next one."""

    def execute(self, query: str, /) -> Any:
        """Run a statement. The result has `fetchall()`: its rows as tuples, only for a few rows."""

    def sql(self, query: str, /) -> Any:
        """Return a query's result. It has `to_arrow_reader(rows)`: record batches, in the order of the query."""

    def register(self, name: str, rows: Any, /) -> Any:
        """Let statements read rows by a name: an Arrow reader, or a relation of the engine."""

    def unregister(self, name: str, /) -> Any:
        """Forget a name that was registered."""
