"""Write a statement of the engine, which is in DuckDB's dialect, for Spark. Pure.

sqlglot reads it; each difference that sqlglot does not know is one small rewrite of its tree. A statement may contain
only what is listed here, since a function of the same name may mean something else there: everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rempart.errors import SparkError
from rempart.spark import materialized

Rewrite = Callable[[Any], Any]
"""Returns the replacement of a node of the tree."""
_KINDS = """
From Where Group Having Order Ordered Limit Distinct Union Subquery Table TableAlias Column Identifier
Literal Boolean Null Alias Paren Tuple With CTE Var And Or Not EQ NEQ LT LTE GT GTE Is In Between Neg Add Sub
Mul NullSafeEQ NullSafeNEQ DataTypeParam Count Sum Max Min Coalesce Case If Filter Left Replace Window RowNumber
BitwiseOr BitwiseAnd
"""
"""Kinds of nodes that mean the same in both, as sqlglot writes them."""
_PLAIN = frozenset(_KINDS.split())
_TYPES = frozenset(
    [
        "BIGINT",
        "INT",
        "TINYINT",
        "VARCHAR",
        "TEXT",
        "DOUBLE",
        "BOOLEAN",
        "DATE",
        "TIMESTAMP",
        "TIMESTAMPNTZ",
        "TIMESTAMPTZ",
        "DECIMAL",
        "INTERVAL",
    ]
)
_NAMES: dict[str, str] = {
    "strlen": "octet_length",  # bytes of UTF-8
    "epoch_us": "unix_micros",
}
"""Functions that sqlglot does not know, with their name in Spark; all of them take one argument."""
rewrites: dict[str, Rewrite] = {}
"""Replacement of each kind of node for Spark, by the name of its class. Modules of this room add theirs."""
_functions: dict[str, Rewrite] = {}
"""Replacement of each function that sqlglot does not know, by its name."""
forms: list[Rewrite] = []
"""Rewrites of a whole query, which come first, such as that of a join that Spark does not have."""


@dataclass(frozen=True)
class Statement:
    """A statement for Spark. `query`: its SQL there. `name`: of the table or view that it creates."""

    kind: Literal["query", "table", "view"]
    query: str
    name: str = ""


def rewrite(*kinds: str) -> Callable[[Rewrite], Rewrite]:
    """Register a function that returns the replacement of nodes of these kinds for Spark, and allow them.

    Raises ValueError for a kind that has one: only the newer one would count.
    """

    def register(function: Rewrite) -> Rewrite:
        for kind in kinds:
            if kind in _PLAIN or kind in rewrites:
                raise ValueError(f"{kind} has a rewrite, or means the same in both")
            rewrites[kind] = function
        return function

    return register


def function(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a function that returns the replacement of calls of a name that sqlglot does not know."""

    def register(change: Rewrite) -> Rewrite:
        _functions[name] = change
        return change

    return register


def name_in_spark(name: str, spark: str) -> None:
    """Allow a function of one argument that sqlglot does not know."""
    _NAMES[name] = spark


def statement(text: str) -> Statement:
    """Return a statement for Spark, which has no parts. Raises SparkError for one that has no known translation."""
    (found,) = statements(text)
    return found


@lru_cache(maxsize=512)
def statements(text: str) -> tuple[Statement, ...]:
    """Return the statements for Spark that do what one does: before it the tables of its MATERIALIZED parts.

    Raises SparkError for one that has no known translation.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        (tree,) = sqlglot.parse(text, read="duckdb")
    except (SqlglotError, ValueError) as cause:
        raise _unknown("a statement", f"sqlglot cannot read it ({type(cause).__name__})") from None
    kind: Literal["query", "table", "view"] = "query"
    name = ""
    if isinstance(tree, exp.Create):
        kind, name, tree = _created(tree)
    if not isinstance(tree, exp.Query):
        raise _unknown(type(tree).__name__, "only queries, tables and views are")
    parts = materialized.parts(tree, "_part")
    before = [Statement("table", written(query), part) for part, query in parts.relations]
    return (*before, Statement(kind, written(parts.query), name))


def written(tree: Any) -> str:
    """Return a query's tree as Spark's SQL. Raises SparkError for a node that has no known translation."""
    from sqlglot import ErrorLevel
    from sqlglot.errors import SqlglotError

    changed = tree.copy()
    for form in forms:
        changed = form(changed)
    for node in reversed(list(changed.walk())):  # children before parents
        if (new := _in_spark(node)) is not node:
            if node is changed:
                changed = new
            else:
                node.replace(new)
    try:
        found: str = changed.sql(dialect="spark", unsupported_level=ErrorLevel.RAISE, identify=True, comments=False)
    except SqlglotError as cause:
        raise _unknown("a query", str(cause)[:200]) from None
    return found


def _created(tree: Any) -> tuple[Literal["table", "view"], str, Any]:
    from sqlglot import exp

    kind, query = str(tree.args.get("kind") or "").lower(), tree.expression
    properties = tree.args.get("properties")
    others = [
        each for each in (properties.expressions if properties else ()) if not isinstance(each, exp.TemporaryProperty)
    ]
    if (
        kind not in ("table", "view")
        or others
        or not isinstance(query, exp.Query)
        or not isinstance(tree.this, exp.Table)
    ):
        raise _unknown(f"CREATE {kind.upper()}", "only tables and views of a query are")
    return ("table" if kind == "table" else "view"), str(tree.this.name), query


@rewrite("Anonymous")
def _function(node: Any) -> Any:
    from sqlglot import exp

    if (change := _functions.get(str(node.this).lower())) is not None:
        return change(node)
    name = _NAMES.get(str(node.this).lower())
    if name is None or len(node.expressions) != 1:
        raise _unknown(f"function {str(node.this)[:40]}", "it is not listed")
    return exp.Anonymous(this=name, expressions=node.expressions)


@rewrite("UnixToTime")
def _time(node: Any) -> Any:
    """`make_timestamp` of microseconds; with six arguments it is another function."""
    from sqlglot import exp

    if str(node.args.get("scale")) != "6" or any(
        node.args.get(name) for name in ("zone", "hours", "minutes", "format")
    ):
        raise _unknown("a time of a number", "it is not listed")
    return exp.Anonymous(this="timestamp_micros", expressions=[node.this])


@rewrite("Join")
def _join(node: Any) -> Any:
    known = {"this", "side", "kind", "on", "using"}
    more = [name for name, value in node.args.items() if value and name not in known]
    matched = bool(node.args.get("on") or node.args.get("using"))
    if more or node.kind not in ("", "INNER", "SEMI", "ANTI", "CROSS") or matched == (node.kind == "CROSS"):
        raise _unknown(f"{node.method} {node.side} {node.kind} JOIN".strip(), "it is not listed, or has no condition")
    return node


@rewrite("Star")
def _star(node: Any) -> Any:
    if any(node.args.values()):
        raise _unknown("SELECT * with changes", "it is not listed")
    return node


@rewrite("DataType")
def _type(node: Any) -> Any:
    if (name := node.this.name if hasattr(node.this, "name") else str(node.this)) not in _TYPES:
        raise _unknown(f"type {name}", "it is not listed")
    return node


def _in_spark(node: Any) -> Any:
    """Return the replacement of a node of the tree, whose own nodes are written for Spark already."""
    kind = type(node).__name__
    if (change := rewrites.get(kind)) is not None:
        return change(node)
    if kind not in _PLAIN:
        raise _unknown(kind, "it is not listed")
    return node


def _unknown(what: str, why: str) -> SparkError:
    return SparkError(
        f"write SQL for Spark: {what} has no translation: {why}",
        "Report this as a bug, and set `engine: duckdb` in the pipeline file until then.",
    )
