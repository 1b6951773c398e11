"""Judge a query of a derived pipeline for Spark: its rows must be those of DuckDB to the last bit. Pure.

The types of all expressions are found first, since the same text may mean another value there for another type: a cast
of a float rounds in one engine and cuts in the other. A sum of floats depends on the order of rows, which executors
do not keep. A node, a function or a pair of types that is not listed here is refused by its name, although `dialect`
may write it: rows of features are compared to nine digits, and rows of a snapshot by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlglot import exp

from rempart.errors import SparkError
from rempart.spark import (
    dialect,
    functions,
)
from rempart.spark.dialect import function
from rempart.spark.exact import conditions, doubtful_names, spans
from rempart.spark.exact.types import (
    ARITHMETIC,
    CHOICES,
    CLASSES,
    MOST,
    NUMBERS,
    TIMES,
    class_of,
    digits,
    name_of,
    operands_of,
    refused,
    sizes_of,
    type_name,
)

Tables = Mapping[str, Mapping[str, str]]
"""SQL type of each column of each input."""
_FREE_WORDS = """
Alias And Boolean Column Count CTE DataType DataTypeParam EQ Exists Filter From Group GT GTE Having Identifier
In Is Join Literal LT LTE Max Min NEQ Not Null NullSafeEQ NullSafeNEQ Or Order Ordered Paren Rank Select Star
Subquery Table TableAlias Tuple Var Where With
"""
_FREE = frozenset(_FREE_WORDS.split())
"""Kinds of nodes that mean the same in both for all types, or whose operands `_COMPARED` judges."""
_COMPARED_WORDS = """
EQ NEQ LT LTE GT GTE NullSafeEQ NullSafeNEQ Between In Coalesce Case Nullif Greatest Least
"""
_COMPARED = frozenset(_COMPARED_WORDS.split())
_CASTS = frozenset(
    {
        ("whole", "whole"), ("whole", "float"), ("whole", "decimal"), ("whole", "text"), ("boolean", "whole"),
        ("float", "float"), ("decimal", "decimal"), ("decimal", "float"), ("text", "text"), ("boolean", "boolean"),
        ("date", "date"), ("date", "instant"), ("instant", "instant"), ("instant", "date"),
    }
)  # fmt: skip
"""Pairs of classes of which each value is the same in both engines; decimals by their digits."""
_TRUNCATED = frozenset(["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR"])
_PARTS = frozenset(["YEAR", "MONTH", "WEEK", "DAY", "DOY", "HOUR", "ISODOW"])
_ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:\d\d)?)?)?")
_OF_A_FLOAT = 15
"""Digits of a decimal that each float holds exactly."""
_EITHER_ZERO = (exp.Group, exp.Distinct, exp.Union, exp.Max, exp.Min, exp.Greatest, exp.Least)
"""Kinds of nodes that take 0 and -0 for equal, and keep one of them: which one depends on the engine."""
_EQUAL = (exp.EQ, exp.NullSafeEQ, exp.In)
"""Kinds of nodes after which Spark may divide by the one side in place of the other, which may be the other zero."""
_TRUNCATE = "_truncated_instant"


def query(text: str, tables: Tables, result: Mapping[str, str]) -> str:
    """Return a query as the dialect writes it for Spark, in DuckDB's dialect. Raises IngestError for all else.

    `result`: the columns of its rows, each with its SQL type, as DuckDB has them.
    """
    from sqlglot.errors import SqlglotError
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.schema import MappingSchema

    try:
        schema = MappingSchema({name: dict(columns) for name, columns in tables.items()}, dialect="duckdb")
        parsed = _replaced(exp.maybe_parse(text, dialect="duckdb"), _typed)
        if (
            name := doubtful_names.first(parsed, {name for columns in tables.values() for name in columns})
        ) is not None:
            raise refused(f"the name {name[:50]}", "it is of a column and of an expression; write table.column")
        tree = qualify(parsed, schema=schema, dialect="duckdb")
        while _settled(tree := annotate_types(tree, schema=schema, dialect="duckdb")):
            pass
    except (SqlglotError, ValueError, KeyError) as cause:
        raise refused("a construct", f"its types cannot be told ({type(cause).__name__})") from None
    for node in tree.walk():
        _judge(node)
    inner = _replaced(tree, _truncated).sql(dialect="duckdb", comments=False)
    fields = ", ".join(
        f"CAST({name} AS {type_}) AS {name}"
        for name, type_ in ((exp.to_identifier(each, quoted=True).sql("duckdb"), of) for each, of in result.items())
    )
    made = f"SELECT {fields} FROM ({inner}) AS derived"  # noqa: S608 - it was judged
    try:
        dialect.statements(made)
    except SparkError as unknown:
        raise refused("a construct", unknown.what) from None
    return made


def _replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree with other nodes, children before parents."""
    for node in reversed(list(tree.walk())):
        if (new := change(node)) is not node:
            if node is tree:
                return new
            node.replace(new)
    return tree


def _typed(node: Any) -> Any:
    """Write the type of DuckDB beside an expression to which sqlglot would give another one."""
    if isinstance(node, exp.Anonymous) and str(node.this).lower() == "count_star" and not node.expressions:
        return exp.Count(this=exp.Star())  # as DuckDB prints `count(*)`
    if isinstance(node, exp.Count) and node.this is None and not node.expressions:
        node.set("this", exp.Star())  # as it prints that of a window
    if isinstance(node, exp.EQ) and isinstance(node.expression, exp.Any):  # as it prints IN of a query
        found = node.expression.this.unnest()
        if isinstance(found, exp.Query):
            return exp.In(this=node.this.copy(), query=found.copy().subquery(copy=False))
    if isinstance(node, exp.Div):
        return exp.cast(exp.paren(node.copy()), "double")
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        return exp.cast(node.copy(), "timestamptz")
    if isinstance(node, exp.Literal) and not node.is_string and (found := digits(node)) and found[1]:
        return exp.cast(node.copy(), f"decimal({found[0]}, {found[1]})")
    return spans.written(node)


def _settled(tree: Any) -> bool:
    """Write the type beside one expression of numbers for which sqlglot found another one. False if there is none.

    It gives an operator the type of an operand, and columns of inner queries get theirs from that.
    """
    for node in reversed(list(tree.walk())):
        if not isinstance(node, (*ARITHMETIC, *CHOICES)) or isinstance(node.parent, exp.Cast):
            continue
        if (of := class_of(node)) not in NUMBERS:
            continue
        found = digits(node)
        if of == CLASSES.get(type_name(node)) and (of != "decimal" or found == sizes_of(node)):
            continue
        if of == "decimal" and (found is None or found[0] > MOST):
            raise refused(name_of(node), f"{name_of(node)} of decimals whose result may have more than {MOST} digits")
        types = {"whole": "bigint", "float": "double", "decimal": f"decimal{found}"}
        node.replace(exp.cast(node.copy(), types[of]))
        return True
    return False


def _truncated(node: Any) -> Any:
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        unit = exp.Literal.string(_unit(node))
        return exp.Anonymous(this=_TRUNCATE, expressions=[unit, node.this.copy()])
    return node


@function(_TRUNCATE)
def _truncated_instant(node: Any) -> Any:
    return exp.Anonymous(this="date_trunc", expressions=node.expressions)


def _judge(node: Any) -> None:
    kind = type(node).__name__
    conditions.check(node)
    if kind in _COMPARED:
        _judge_compared(node)
    if (judge := _JUDGES.get(kind)) is not None:
        judge(node)
    elif kind not in _FREE and kind not in _COMPARED:
        raise refused(name_of(node), "it is not listed")


def _judge_compared(node: Any) -> None:
    """Raise IngestError unless the operands are of one kind. A text is a time only if it is a literal of ISO 8601."""
    operands = [node.this, node.expression] if isinstance(node, exp.Nullif) else list(operands_of(node))
    classes = [class_of(each) for each in operands]
    known = {each for each in classes if each != "null"}
    if known <= NUMBERS:
        if "float" in known:
            for each, of in zip(operands, classes, strict=True):
                if of == "decimal":
                    _check_as_float(each)
        return
    if known & TIMES and known <= TIMES | {"text"}:
        for each, of in zip(operands, classes, strict=True):
            if of == "text" and not _is_time(each):
                raise refused(name_of(node), f"{name_of(node)} of a text and a time is not listed")
        return
    if len(known) > 1:
        raise refused(name_of(node), f"{name_of(node)} of {' and '.join(sorted(known))} is not listed")


def _is_time(node: Any) -> bool:
    return isinstance(node, exp.Literal) and _ISO.fullmatch(node.name) is not None


def _judge_sum(node: Any) -> None:
    of = class_of(node)
    if of == "float":
        raise refused("SUM of floats", "its last digits depend on the order of rows; sum decimals or whole numbers")
    if of not in ("whole", "decimal"):
        raise refused("SUM", f"SUM of {of} is not listed")


def _judge_numbers(node: Any) -> None:
    """Raise IngestError unless the operands are numbers, and their result has the same digits in both engines."""
    if spans.is_moved(node):  # its span is judged
        return
    operands = [node.this, *([node.expression] if node.expression is not None else [])]
    classes = [class_of(each) for each in operands]
    if not set(classes) <= NUMBERS | {"null"}:
        raise refused(name_of(node), f"{name_of(node)} of {' and '.join(sorted(set(classes)))} is not listed")
    if isinstance(node, (exp.Div, exp.Mod)) and not functions.is_never_zero(node.expression):
        _judge_zero(node, classes)
    if isinstance(node, exp.Div) or "float" in classes:
        for each, of in zip(operands, classes, strict=True):
            if of == "decimal":
                _check_as_float(each)
    elif "decimal" in classes:
        found = digits(node)
        if isinstance(node, exp.Mod) or found is None or found[0] > MOST:
            raise refused(name_of(node), f"{name_of(node)} of decimals whose result may have more than {MOST} digits")


def _judge_zero(node: Any, classes: list[str]) -> None:
    """Raise IngestError if a divisor may be zero, and both engines would not give the same then.

    A division by zero is infinite, with the sign of the zero, or no number. Whole numbers and decimals have one zero.
    """
    if isinstance(node, exp.Mod):
        if "float" in classes:
            raise refused("% of floats", "a rest of a division by zero is no number; write x % nullif(y, 0)")
    elif classes[1] == "float":
        for found in node.root().find_all(*_EITHER_ZERO):
            if not isinstance(found, exp.Union) or found.args.get("distinct"):
                why = f"{name_of(found)} keeps 0 or -0, and x / -0 is negative; write x / nullif(y, 0)"
                raise refused("a division by a float that may be zero", why)
        if any(map(_is_of_floats, node.root().find_all(*_EQUAL))):
            why = "a comparison or a join takes 0 for -0, and x / -0 is negative; write x / nullif(y, 0)"
            raise refused("a division by a float that may be zero", why)


def _is_of_floats(node: Any) -> bool:
    """Tell whether a node compares a float."""
    return any(class_of(each) == "float" for each in operands_of(node))


def _check_as_float(node: Any) -> None:
    found = digits(node)
    if found is None or found[0] > _OF_A_FLOAT:
        raise refused("a decimal as a float", f"only one of at most {_OF_A_FLOAT} digits is listed")


def _judge_cast(node: Any) -> None:
    if not isinstance(node.args.get("to"), exp.DataType) or type(node) is not exp.Cast:
        raise refused(name_of(node), "it is not listed")
    of, to = class_of(node.this), CLASSES.get(node.to.this.name, "")
    if of == "null" or (of == "text" and to in TIMES and _is_time(node.this)):
        return
    if (of, to) not in _CASTS:
        raise refused(f"CAST to {node.to.sql('duckdb')}", f"CAST of {of} to {node.to.sql('duckdb')} is not listed")
    if of == "decimal" and to == "float":
        _check_as_float(node.this)
    if to == "decimal":
        had, has = digits(node.this), digits(node)
        if had is None or has is None or has[1] < had[1]:
            raise refused("CAST to fewer decimal places", "rounding is not listed")


def _judge_truncated(node: Any) -> None:
    if class_of(node.this) != "instant" or _unit(node) not in _TRUNCATED:
        raise refused("date_trunc", f"date_trunc('{_unit(node).lower()}', ...) of this type is not listed")


def _unit(node: Any) -> str:
    unit = node.args.get("unit")
    return str(getattr(unit, "name", unit) or "").upper()


def _judge_part(node: Any) -> None:
    if class_of(node.expression) not in TIMES or node.name.upper() not in _PARTS:
        raise refused(f"EXTRACT({node.name})", "it is not listed")


def _judge_text(node: Any) -> None:
    if {class_of(node.this), class_of(node.expression)} != {"text"}:
        raise refused("||", "|| of other types than text is not listed")


def _judge_window(node: Any) -> None:
    if isinstance(node.this, exp.Filter) or node.this.find(exp.Distinct):
        raise refused("a window of DISTINCT or FILTER", "Spark refuses it; join the groups to the rows")


def _judge_distinct(node: Any) -> None:
    if node.args.get("on"):
        raise refused("DISTINCT ON", "of equal rows, which comes first depends on the order of rows")


def _judge_union(node: Any) -> None:
    if node.args.get("by_name"):
        raise refused("UNION BY NAME", "it is not listed")
    sides: list[Any] = [each.unnest() if isinstance(each, exp.Subquery) else each for each in (node.left, node.right)]
    for columns in zip(*(side.selects for side in sides), strict=True):
        found = [each.unalias() for each in columns]
        classes = [class_of(each) for each in found]
        if len(set(classes)) > 1 or (classes[0] == "decimal" and len(set(map(digits, found))) > 1):
            raise refused("UNION of columns of two types", "the type of both is not the same there; CAST one of them")


_JUDGES: dict[str, Callable[[Any], None]] = {
    "Sum": _judge_sum,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs"), _judge_numbers),
    "Cast": _judge_cast,
    "Interval": spans.check,
    **dict.fromkeys(("TimestampTrunc", "DateTrunc"), _judge_truncated),
    "Extract": _judge_part,
    "DPipe": _judge_text,
    "Window": _judge_window,
    "Distinct": _judge_distinct,
    "Union": _judge_union,
    "If": lambda node: None,  # of a CASE, which is judged
}
