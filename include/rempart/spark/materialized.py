"""Take the `MATERIALIZED` parts of a statement out of it, for an engine that would compute each at every use."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp


@dataclass(frozen=True)
class MaterializedParts:
    """A query, and the relations by name that it reads: each may read those before it, and is read more than once."""

    relations: tuple[tuple[str, exp.Expr], ...]
    query: exp.Expr


def parts(tree: exp.Expr, prefix: str) -> MaterializedParts:
    """Return the parts of a query's tree. Names of relations begin with `prefix`. Pure.

    A part that is read once is put where it is read.
    """
    query, relations = tree.copy(), list[tuple[str, exp.Expr]]()
    for scope in [*query.find_all(exp.With)][::-1]:
        if any(each.args.get("materialized") for each in scope.expressions):
            _taken(scope, prefix, relations)
    return MaterializedParts(tuple(relations), query)


def _taken(scope: exp.With, prefix: str, relations: list[tuple[str, exp.Expr]]) -> None:
    parent, ctes = scope.parent, list(scope.expressions)
    assert parent is not None  # noqa: S101 - a WITH belongs to a query
    parent.set("with_", None)
    for number, cte in enumerate(ctes):
        name, made = cte.alias, cte.this
        readers = [
            table
            for reader in (*(later.this for later in ctes[number + 1 :]), parent)
            for table in reader.find_all(exp.Table)
            if table.name == name and not table.db
        ]
        if not readers:
            continue
        if len(readers) == 1:
            alias = readers[0].args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True))
            readers[0].replace(exp.Subquery(this=made, alias=alias))
            continue
        stored = f"{prefix}_{len(relations)}"
        for table in readers:
            table.set("alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name, quoted=True)))
            table.set("this", exp.to_identifier(stored, quoted=True))
        relations.append((stored, made))
