"""Tell which columns of the inputs a derived column's values come from, where the parser (sqlglot) can."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rempart.ingestion.derived.binding import Columns, Query, sql_type

Lineage = Mapping[str, tuple[tuple[str, str], ...] | None]
"""Input and column of each value that a derived column is made of; None where it cannot be told.

Filters, joins and groups decide which rows there are, not what a value is made of, so they are not in it.
"""


def lineage(query: Query, inputs: Mapping[str, Columns]) -> Lineage:
    """Return the lineage of each column of a bound query."""
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage as trace

    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    schema = {name: {column: sql_type(spec.type) for column, spec in inputs[name].items()} for name in inputs}
    found: dict[str, tuple[tuple[str, str], ...] | None] = {}
    for column in query.columns:
        try:
            found[column] = _leaves(trace(column, query.text, schema=schema, dialect="duckdb"), inputs)
        except (SqlglotError, ValueError, KeyError, RecursionError):
            found[column] = None
    return found


def _leaves(root: object, inputs: Mapping[str, Columns]) -> tuple[tuple[str, str], ...] | None:
    """Return the columns at the ends of a trace; None if one of them is no column of an input."""
    from sqlglot import exp

    leaves: set[tuple[str, str]] = set()
    for node in root.walk():  # type: ignore[attr-defined] # a node of sqlglot, which has no public name
        if node.downstream:
            continue
        if isinstance(node.source, exp.Table):
            table, column = node.source.name, node.name.rsplit(".", 1)[-1].strip('"')
            if column not in inputs.get(table, {}):
                return None
            leaves.add((table, column))
        elif node.expression.find(exp.Column, exp.Star):
            return None
    return tuple(sorted(leaves))
