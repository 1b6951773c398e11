"""Write a statement of the engine, which is in DuckDB's dialect, for Spark. Pure.

sqlglot reads it; each difference that sqlglot does not know is one small rewrite of its tree. A statement may contain
only what is listed here, since a function of the same name may mean something else there: everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rempart.errors import SparkError

if TYPE_CHECKING:
    from sqlglot import exp

Rewrite = Callable[[Any], Any]
"""Returns what stands for a node of the tree."""
_PLAIN = frozenset(
    """
    Select From Join Where Group Having Order Ordered Limit Distinct Union Subquery Table TableAlias Column Identifier
    Literal Boolean Null Star Alias Paren Tuple With CTE Var
    And Or Not EQ NEQ LT LTE GT GTE Is In Between Neg Add Sub Mul NullSafeEQ NullSafeNEQ
    Cast DataType DataTypeParam Count Sum Max Min Coalesce Case If Left Replace Window RowNumber
    BitwiseOr BitwiseAnd BitwiseLeftShift BitwiseRightShift
    """.split()
)
"""Kinds of nodes that mean the same in both, as sqlglot writes them."""
_TYPES = frozenset({"BIGINT", "INT", "TINYINT", "VARCHAR", "TEXT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "DECIMAL"})
_NAMES: dict[str, str] = {
    "strlen": "octet_length",  # bytes of UTF-8
    "epoch_us": "unix_micros",
    "make_timestamp": "timestamp_micros",  # of microseconds; with six arguments it would be another function
}
"""Functions that sqlglot does not know, with their name in Spark; all of them take one argument."""
rewrites: dict[str, Rewrite] = {}
"""What stands for a kind of node in Spark, by the name of its class. Modules of this room add theirs."""
refused: dict[str, str] = {}


@dataclass(frozen=True)
class Statement:
    """A statement for Spark. `query`: its SQL there. `name`: of the table or view that it creates."""

    kind: Literal["query", "table", "view"]
    query: str
    name: str = ""


def rewrite(*kinds: str) -> Callable[[Rewrite], Rewrite]:
    """Register a function that returns what stands for nodes of these kinds in Spark, and allow them."""

    def register(function: Rewrite) -> Rewrite:
        for kind in kinds:
            rewrites[kind] = function
        return function

    return register


def name_in_spark(name: str, spark: str) -> None:
    """Allow a function of one argument that sqlglot does not know."""
    _NAMES[name] = spark


@lru_cache(maxsize=512)
def statement(text: str) -> Statement:
    """Return a statement for Spark. Raises SparkError for one that has no known translation."""
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
    return Statement(kind, written(tree), name)


def written(tree: exp.Expression) -> str:
    """Return a query's tree as Spark's SQL. Raises SparkError for a node that has no known translation."""
    from sqlglot import ErrorLevel
    from sqlglot.errors import SqlglotError

    changed = tree.copy().transform(_in_spark, copy=False)
    try:
        return changed.sql(dialect="spark", unsupported_level=ErrorLevel.RAISE, identify=True, comments=False)
    except SqlglotError as cause:
        raise _unknown("a query", str(cause)[:200]) from None


def _created(tree: exp.Create) -> tuple[Literal["table", "view"], str, Any]:
    kind = str(tree.args.get("kind") or "").lower()
    known = {"kind", "this", "expression", "properties", "replace", "exists"}
    extra = [name for name, value in tree.args.items() if value and name not in known]
    temporary = [type(each).__name__ for each in (tree.args.get("properties") or ())] if False else []
    if kind not in ("table", "view") or extra or temporary or tree.expression is None:
        raise _unknown(f"CREATE {kind.upper()}", "only tables and views of a query are")
    return kind, str(tree.this.name), tree.expression  # type: ignore[return-value]


def _in_spark(node: Any) -> Any:
    """Return what stands for a node of the tree. Its own nodes come after it."""
    kind = type(node).__name__
    if (change := rewrites.get(kind)) is not None:
        return change(node)
    if kind not in _PLAIN:
        raise _unknown(kind, refused.get(kind, "it is not listed"))
    return node


def _unknown(what: str, why: str) -> SparkError:
    return SparkError(
        f"write SQL for Spark: {what} has no translation: {why}",
        "Report this as a bug, and set `engine: duckdb` in the pipeline file until then.",
    )
