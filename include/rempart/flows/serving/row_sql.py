"""Expressions over columns of a few rows, in a DuckDB that stays open: neither a connection nor a table for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from psycopg import sql

from rempart.counts import counted
from rempart.errors import FeatureError
from rempart.features import tables
from rempart.features.parquet_store import loading, scratch
from rempart.sites.spool import spool_folder

_MEMORY = 128
"""MiB of DuckDB."""


class RowSql:
    """Evaluates `made` (SQL by name) over rows with `columns` (types of the feature store by name)."""

    def __init__(self, columns: Mapping[str, str], made: Mapping[str, sql.Composable], doing: str) -> None:
        self._doing = doing
        self._query = loading.in_duckdb(
            sql.SQL("SELECT {} FROM (SELECT {}) r").format(
                sql.SQL(", ").join(sql.SQL("{} AS {}").format(each, tables.name(name)) for name, each in made.items()),
                sql.SQL(", ").join(
                    sql.SQL("unnest({}::{}[]) AS {}").format(sql.SQL(f"${place}"), sql.SQL(kind), tables.name(name))
                    for place, (name, kind) in enumerate(columns.items(), 1)
                ),
            )
        )
        with ExitStack() as stack:
            place = scratch.ScratchDatabase(stack.enter_context(spool_folder()), _MEMORY, threads=1, kept=False)
            self._connection = stack.enter_context(scratch.created(place, doing))
            self._open = stack.pop_all()

    def rows(self, values: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Return the made values of each row, in order; `values`: of the columns. Raises FeatureError."""
        import duckdb

        try:
            return self._connection.execute(
                self._query, [list(cells) for cells in zip(*values, strict=True)]
            ).fetchall()
        except duckdb.Error as cause:  # it quotes a value
            raise FeatureError(
                f"{self._doing} of {counted(len(values), 'row')}: DuckDB answered {type(cause).__name__}",
                "Check that the values are in the range of the pipeline's expressions.",
            ) from None

    def close(self) -> None:
        """Close the database."""
        self._open.close()
