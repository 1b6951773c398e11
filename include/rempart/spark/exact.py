"""Judge a query of a derived pipeline for Spark: its rows must be those of DuckDB to the last bit. Pure.

The types of all expressions are found first, since the same text may mean another value there for another type: a cast
of a float rounds in one engine and cuts in the other. A sum of floats depends on the order of rows, which executors
do not keep. A node, a function or a pair of types that is not listed here is refused by its name, although `dialect`
may write it: rows of features are compared to nine digits, and rows of a snapshot by their hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlglot import exp

from rempart.errors import IngestError, SparkError
from rempart.spark import (
    dialect,
    doubtful_names,
    functions,  # noqa: F401 - it adds its rewrites to the dialect
)
from rempart.spark.dialect import function

Tables = Mapping[str, Mapping[str, str]]
"""SQL type of each column of each input."""
_FREE_WORDS = """
Alias And Boolean Column Count CTE DataType DataTypeParam EQ Exists Filter From Group GT GTE Having Identifier
In Is Join Literal LT LTE Max Min NEQ Not Null NullSafeEQ NullSafeNEQ Or Order Ordered Paren Rank Select Star
Subquery Table TableAlias Tuple Var Where Window With
"""
_FREE = frozenset(_FREE_WORDS.split())
"""Kinds of nodes that mean the same in both for all types, or whose operands `_COMPARED` judges."""
_COMPARED_WORDS = """
EQ NEQ LT LTE GT GTE NullSafeEQ NullSafeNEQ Between In Coalesce Case Nullif Greatest Least
"""
_COMPARED = frozenset(_COMPARED_WORDS.split())
_WHOLE_WORDS = """
TINYINT SMALLINT INT BIGINT INT128 UTINYINT USMALLINT UINT UBIGINT UINT128 HUGEINT
"""
_WHOLE = frozenset(_WHOLE_WORDS.split())
_CLASSES = {
    **dict.fromkeys(_WHOLE, "whole"),
    **dict.fromkeys(("DOUBLE", "FLOAT"), "float"),
    "DECIMAL": "decimal",
    **dict.fromkeys(("VARCHAR", "TEXT", "CHAR", "NVARCHAR"), "text"),
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMPTZ": "instant",
    "NULL": "null",
}
_NUMBERS = frozenset({"whole", "float", "decimal"})
_TIMES = frozenset({"date", "instant"})
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
_ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:\d\d)?)?)?")
_MOST, _OF_A_FLOAT = 38, 15
"""Digits of a decimal, and those that each float holds exactly."""
_TRUNCATE = "_truncated_instant"
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.Neg, exp.Abs, exp.Max, exp.Min, exp.Sum)
_CHOICES = (exp.Coalesce, exp.Case, exp.Greatest, exp.Least, exp.Nullif)


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
            raise _refused(f"the name {name[:50]}", "it is of a column and of an expression; write table.column")
        tree = qualify(parsed, schema=schema, dialect="duckdb")
        while _settled(tree := annotate_types(tree, schema=schema, dialect="duckdb")):
            pass
    except (SqlglotError, ValueError, KeyError) as cause:
        raise _refused("a construct", f"its types cannot be told ({type(cause).__name__})") from None
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
        raise _refused("a construct", unknown.what) from None
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
    if isinstance(node, exp.Div):
        return exp.cast(exp.paren(node.copy()), "double")
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        return exp.cast(node.copy(), "timestamptz")
    if isinstance(node, exp.Literal) and not node.is_string and (found := digits(node)) and found[1]:
        return exp.cast(node.copy(), f"decimal({found[0]}, {found[1]})")
    return node


def _settled(tree: Any) -> bool:
    """Write the type beside one expression of numbers for which sqlglot found another one. False if there is none.

    It gives an operator the type of an operand, and columns of inner queries get theirs from that.
    """
    for node in reversed(list(tree.walk())):
        if not isinstance(node, (*_ARITHMETIC, *_CHOICES)) or isinstance(node.parent, exp.Cast):
            continue
        if (of := class_of(node)) not in _NUMBERS:
            continue
        found = digits(node)
        if of == _CLASSES.get(_type_name(node)) and (of != "decimal" or found == _sizes(node)):
            continue
        if of == "decimal" and (found is None or found[0] > _MOST):
            raise _refused(_name(node), f"{_name(node)} of decimals whose result may have more than {_MOST} digits")
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
    if kind in _COMPARED:
        _judge_compared(node)
    if (judge := _JUDGES.get(kind)) is not None:
        judge(node)
    elif kind not in _FREE and kind not in _COMPARED:
        raise _refused(_name(node), "it is not listed")


def class_of(node: Any) -> str:
    """Return the class of an expression's type. Raises IngestError for a type that is not known."""
    if isinstance(node, (exp.Paren, exp.Filter, exp.Window)):
        return class_of(node.this)
    if isinstance(node, exp.Div):
        return "float"
    if isinstance(node, (*_ARITHMETIC, *_CHOICES)):
        found = {class_of(each) for each in _operands(node)} - {"null"}
        widest = next((of for of in ("float", "decimal", "whole") if of in found), "")
        return widest if found <= _NUMBERS and widest else min(found, default="null")
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc)):
        return "instant"
    if isinstance(node, exp.Literal) and not node.is_string and (digits(node) or (0, 0))[1]:
        return "decimal"
    if (known := _CLASSES.get(_type_name(node))) is None:
        raise _refused(_name(node), f"the type of {_name(node)} is not listed")
    return known


def _type_name(node: Any) -> str:
    type_ = getattr(node, "type", None)
    if type_ is None:
        return ""
    return str(getattr(type_.this, "name", type_.this))


def digits(node: Any) -> tuple[int, int] | None:
    """Return the digits of a decimal or whole number, and how many of them stand behind the point; None if unknown."""
    if isinstance(node, (exp.Paren, exp.Neg, exp.Abs, exp.Max, exp.Min, exp.Alias, exp.Filter, exp.Window)):
        return digits(node.this)
    if isinstance(node, exp.Literal) and not node.is_string:
        whole, _, part = str(node.this).partition(".")
        return (len(whole) + len(part), len(part)) if (whole + part).isdigit() else None
    if isinstance(node, exp.Sum):
        inner = digits(node.this)
        return inner and (_MOST, inner[1])
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _of_both(node)
    if isinstance(node, _CHOICES):
        some = [digits(each) for each in _operands(node) if class_of(each) != "null"]
        known = [each for each in some if each]
        scale = max((each[1] for each in known), default=0)
        return (max(each[0] - each[1] for each in known) + scale, scale) if known and len(known) == len(some) else None
    if _CLASSES.get(_type_name(node)) == "whole":
        return 19, 0
    return _sizes(node)


def _sizes(node: Any) -> tuple[int, int] | None:
    """Return the digits in the type of an expression."""
    sizes = [int(each.name) for each in node.type.expressions] if getattr(node, "type", None) else []
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _of_both(node: Any) -> tuple[int, int] | None:
    first, second = digits(node.this), digits(node.expression)
    if first is None or second is None:
        return None
    if isinstance(node, exp.Mul):
        return first[0] + second[0] + 1, first[1] + second[1]
    scale = max(first[1], second[1])
    return max(first[0] - first[1], second[0] - second[1]) + scale + 1, scale


def _judge_compared(node: Any) -> None:
    """Raise IngestError unless the operands are of one kind. A text is a time only if it is a literal of ISO 8601."""
    operands = [node.this, node.expression] if isinstance(node, exp.Nullif) else list(_operands(node))
    classes = [class_of(each) for each in operands]
    known = {each for each in classes if each != "null"}
    if known <= _NUMBERS:
        if "float" in known:
            for each, of in zip(operands, classes, strict=True):
                if of == "decimal":
                    _check_as_float(each)
        return
    if known & _TIMES and known <= _TIMES | {"text"}:
        for each, of in zip(operands, classes, strict=True):
            if of == "text" and not _is_time(each):
                raise _refused(_name(node), f"{_name(node)} of a text and a time is not listed")
        return
    if len(known) > 1:
        raise _refused(_name(node), f"{_name(node)} of {' and '.join(sorted(known))} is not listed")


def _is_time(node: Any) -> bool:
    return isinstance(node, exp.Literal) and _ISO.fullmatch(node.name) is not None


def _operands(node: Any) -> Iterator[Any]:
    match node:
        case exp.Between():
            yield from (node.this, node.args["low"], node.args["high"])
        case exp.In():
            if node.args.get("unnest") or node.args.get("field"):
                raise _refused(_name(node), "it is not listed")
            yield node.this
            if (found := node.args.get("query")) is not None:
                inner: Any = found.unnest() if isinstance(found, exp.Subquery) else found
                yield from inner.selects
            yield from node.expressions
        case exp.Case():
            if node.this is not None:  # compared with each WHEN
                raise _refused("CASE of a value", "write CASE WHEN x = ... instead")
            yield from (each.args["true"] for each in node.args["ifs"])
            if node.args.get("default") is not None:
                yield node.args["default"]
        case exp.Coalesce() | exp.Greatest() | exp.Least():
            yield node.this
            yield from node.expressions
        case exp.Neg() | exp.Abs() | exp.Max() | exp.Min() | exp.Sum() | exp.Nullif():
            yield node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
        case _:
            yield from (node.this, node.expression)


def _judge_sum(node: Any) -> None:
    of = class_of(node)
    if of == "float":
        raise _refused("SUM of floats", "its last digits depend on the order of rows; sum decimals or whole numbers")
    if of not in ("whole", "decimal"):
        raise _refused("SUM", f"SUM of {of} is not listed")


def _judge_numbers(node: Any) -> None:
    """Raise IngestError unless the operands are numbers, and their result has the same digits in both engines."""
    operands = [node.this, *([node.expression] if node.expression is not None else [])]
    classes = [class_of(each) for each in operands]
    if not set(classes) <= _NUMBERS | {"null"}:
        raise _refused(_name(node), f"{_name(node)} of {' and '.join(sorted(set(classes)))} is not listed")
    if isinstance(node, exp.Div) or "float" in classes:
        for each, of in zip(operands, classes, strict=True):
            if of == "decimal":
                _check_as_float(each)
    elif "decimal" in classes:
        found = digits(node)
        if isinstance(node, exp.Mod) or found is None or found[0] > _MOST:
            raise _refused(_name(node), f"{_name(node)} of decimals whose result may have more than {_MOST} digits")


def _check_as_float(node: Any) -> None:
    found = digits(node)
    if found is None or found[0] > _OF_A_FLOAT:
        raise _refused("a decimal as a float", f"only one of at most {_OF_A_FLOAT} digits is listed")


def _judge_cast(node: Any) -> None:
    if not isinstance(node.args.get("to"), exp.DataType) or type(node) is not exp.Cast:
        raise _refused(_name(node), "it is not listed")
    of, to = class_of(node.this), _CLASSES.get(node.to.this.name, "")
    if of == "null" or (of == "text" and to in _TIMES and _is_time(node.this)):
        return
    if (of, to) not in _CASTS:
        raise _refused(f"CAST to {node.to.sql('duckdb')}", f"CAST of {of} to {node.to.sql('duckdb')} is not listed")
    if of == "decimal" and to == "float":
        _check_as_float(node.this)
    if to == "decimal":
        had, has = digits(node.this), digits(node)
        if had is None or has is None or has[1] < had[1]:
            raise _refused("CAST to fewer decimal places", "rounding is not listed")


def _judge_truncated(node: Any) -> None:
    if class_of(node.this) != "instant" or _unit(node) not in _TRUNCATED:
        raise _refused("date_trunc", f"date_trunc('{_unit(node).lower()}', ...) of this type is not listed")


def _unit(node: Any) -> str:
    unit = node.args.get("unit")
    return str(getattr(unit, "name", unit) or "").upper()


def _judge_part(node: Any) -> None:
    if class_of(node.expression) not in _TIMES or node.name.upper() not in _PARTS:
        raise _refused(f"EXTRACT({node.name})", "it is not listed")


def _judge_text(node: Any) -> None:
    if {class_of(node.this), class_of(node.expression)} != {"text"}:
        raise _refused("||", "|| of other types than text is not listed")


def _judge_distinct(node: Any) -> None:
    if node.args.get("on"):
        raise _refused("DISTINCT ON", "of equal rows, which comes first depends on the order of rows")


def _judge_union(node: Any) -> None:
    if node.args.get("by_name"):
        raise _refused("UNION BY NAME", "it is not listed")
    sides: list[Any] = [each.unnest() if isinstance(each, exp.Subquery) else each for each in (node.left, node.right)]
    for columns in zip(*(side.selects for side in sides), strict=True):
        found = [each.unalias() for each in columns]
        classes = [class_of(each) for each in found]
        if len(set(classes)) > 1 or (classes[0] == "decimal" and len(set(map(digits, found))) > 1):
            raise _refused("UNION of columns of two types", "the type of both is not the same there; CAST one of them")


_JUDGES: dict[str, Callable[[Any], None]] = {
    "Sum": _judge_sum,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs"), _judge_numbers),
    "Cast": _judge_cast,
    **dict.fromkeys(("TimestampTrunc", "DateTrunc"), _judge_truncated),
    "Extract": _judge_part,
    "DPipe": _judge_text,
    "Distinct": _judge_distinct,
    "Union": _judge_union,
    "If": lambda node: None,  # of a CASE, which is judged
}


def _name(node: Any) -> str:
    if isinstance(node, exp.Anonymous):
        return f"function {str(node.this)[:40]}"
    if isinstance(node, exp.Func):
        return f"function {node.sql_name().lower()}"
    return type(node).__name__


def _refused(what: str, why: str) -> IngestError:
    return IngestError(
        f"derive rows on Spark: the query uses {what}, which `engine: spark` does not do as DuckDB does: {why}",
        "Write the query without it, or set `engine: duckdb` in the pipeline file: the snapshots are the same.",
    )
