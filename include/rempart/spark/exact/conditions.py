"""Judge the conditions of a query, and queries inside of it. Pure.

DuckDB takes a number for a condition, which Spark refuses when the job runs. A query behind IN is a join there, of
which nothing but true comes out, so it may only stand where false and unknown do the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from rempart.spark.exact.types import NUMBERS, class_of, digits, name_of, operands_of, refused

_PLACES = {
    exp.Where: "WHERE",
    exp.Having: "HAVING",
    exp.Join: "ON",
    exp.If: "CASE WHEN",
    exp.And: "AND",
    exp.Or: "OR",
    exp.Not: "NOT",
}

_TABLES = (exp.From, exp.Join, exp.CTE, exp.Union, exp.Subquery, exp.Exists)
"""Kinds of nodes in which a query in parentheses is a table, or is judged as part of them."""


def check(node: Any) -> None:
    """Raise IngestError unless the conditions of a node are true or false, and a query behind IN may stand there."""
    if isinstance(node, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE) and isinstance(
        node.expression, exp.Any | exp.All
    ):
        raise refused(
            f"{name_of(node)} with {name_of(node.expression).upper()}", "it is not listed; write EXISTS (...)"
        )
    for each in _conditions(node):
        if (of := class_of(each)) not in ("boolean", "null"):
            named, remedy = ("a number", "write x <> 0") if of in NUMBERS else (f"a value ({of})", "write a comparison")
            raise refused(f"{named} as a condition ({_PLACES[type(node)]})", f"Spark refuses it; {remedy}")
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        _check_query(node)
    if isinstance(node, exp.Exists):
        _check_exists(node)
    if isinstance(node, exp.Subquery) and _is_value(node) and _names_outer(node.unnest()):
        what = "a query as a value, (SELECT ...), with columns of the outer query"
        raise refused(what, "Spark refuses many of them; write LEFT JOIN (SELECT ... GROUP BY those columns)")


def _conditions(node: Any) -> Iterator[Any]:
    match node:
        case exp.Where() | exp.Having() | exp.If() | exp.Not():
            yield node.this
        case exp.And() | exp.Or():
            yield from (node.this, node.expression)
        case exp.Join() if (on := node.args.get("on")) is not None:
            yield on


def _check_query(node: exp.In) -> None:
    around = _outside(node.parent, exp.Paren)
    if isinstance(around, exp.Not):  # NOT IN
        around = around.parent
    place = _outside(around, exp.And, exp.Or, exp.Paren)
    if not isinstance(place, exp.Where) or isinstance(place.parent, exp.Filter):
        raise refused("IN (SELECT ...) elsewhere than in WHERE", "join it by AND and OR alone, or write EXISTS (...)")
    if _names_outer(node.args["query"].unnest()):
        raise refused("IN (SELECT ...) with columns of the outer query", "write EXISTS (...)")
    first, *others = operands_of(node)
    for each in others:
        if class_of(first) != class_of(each) or (class_of(first) == "decimal" and digits(first) != digits(each)):
            raise refused("IN (SELECT ...) of another type", "CAST one of them")


def _check_exists(node: exp.Exists) -> None:
    place = node.find_ancestor(exp.Where, exp.Select)
    if isinstance(place, exp.Where) and isinstance(place.parent, exp.Filter):
        raise refused("EXISTS (...) in FILTER", "it is not listed; write it in WHERE")
    if not isinstance(place, exp.Where) and _names_outer(node.this):
        raise refused(
            "EXISTS (...) with columns of the outer query elsewhere than in WHERE", "Spark refuses it; join it"
        )


def _is_value(query: exp.Subquery) -> bool:
    """Return whether a query in parentheses stands for one value: also one among the values of IN, or before it."""
    around = query.parent
    return around.args.get("query") is not query if isinstance(around, exp.In) else not isinstance(around, _TABLES)


def _names_outer(inner: Any) -> bool:
    own = {each.alias_or_name for each in inner.find_all(exp.Table, exp.Subquery)}
    return any(column.table not in own for column in inner.find_all(exp.Column))


def _outside(around: Any, *kinds: Any) -> Any:
    """Return the first node, from one outwards, that is of none of these kinds."""
    while isinstance(around, kinds):
        around = around.parent
    return around
