"""Find names in a query that may be of a column and of an expression: engines choose differently between them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlglot import exp


def first(parsed: Any, columns: Collection[str]) -> str | None:
    """Return the first doubtful name of a parsed query, or None. `columns`: names of the columns of its tables."""
    made = {id(select): [_made(each) for each in select.expressions] for select in parsed.find_all(exp.Select)}
    for select in parsed.find_all(exp.Select):
        own = made[id(select)]
        others = {*columns}.union(*(names for key, some in made.items() if key != id(select) for names in some))
        places = [(each, own[:number]) for number, each in enumerate(select.expressions)]
        places += [(part, own) for name in ("where", "group", "having", "qualify") if (part := select.args.get(name))]
        for place, before in places:
            doubtful = others & set[str]().union(*before)
            for column in place.find_all(exp.Column):
                if not column.table and column.name.lower() in doubtful:
                    return str(column.name)
    return None


def _made(projection: Any) -> set[str]:
    """Return the name of an expression of a SELECT; none for a column under its own name."""
    if not isinstance(projection, exp.Alias):
        return set()
    is_own = isinstance(projection.this, exp.Column) and projection.this.name.lower() == projection.alias.lower()
    return set() if is_own else {projection.alias.lower()}
