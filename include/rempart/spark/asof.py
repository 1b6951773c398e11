"""Write `ASOF LEFT JOIN`, which Spark lacks, as a union and a window: the newest row of the other side then.

The rows of both sides stand in one order, by moment, for each key. Each row of the left side takes the last row of the
right side before it. Rows travel as structs that have the names of their relations, so `relation.column` means the same
after the join as before it. A key that is null, and a moment that is null, find nothing. docs/adr/0145-engine.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp

from rempart.errors import SparkError

_MOMENT, _SIDE, _APART, _BOTH, _KNOWN = "_moment", "_side", "_apart", "_both", "_known"
HASH, STRUCT = "spark_hash", "spark_struct"
"""Names of functions of Spark in a tree that is still in DuckDB's dialect, which has others of their names."""
_FRAME = {"kind": "ROWS", "start": "UNBOUNDED", "start_side": "PRECEDING", "end": "CURRENT ROW"}


def rewrite(tree: exp.Expr) -> exp.Expr:
    """Return the tree of a statement without ASOF joins. Raises SparkError for one that is not understood. Pure."""
    written = tree.copy()
    for select in [*written.find_all(exp.Select)][::-1]:  # inner ones first
        if any(_is_asof(join) for join in select.args.get("joins") or ()):
            _without_asof(select)
    return written


@dataclass(frozen=True)
class _Condition:
    """Pairs of equal keys (left, right), the two moments, and whether the right one may be equal to the left one."""

    keys: tuple[tuple[exp.Expr, exp.Expr], ...]
    moments: tuple[exp.Expr, exp.Expr]
    or_equal: bool


def _is_asof(join: exp.Join) -> bool:
    return str(join.args.get("method") or "").upper() == "ASOF"


def _without_asof(select: exp.Select) -> None:
    """Replace the relations of a SELECT: all of them up to its last ASOF join become one, with a struct for each."""
    first = select.args["from_"].this
    relations = [_alias(first)]
    current, plain = first.copy(), list[exp.Join]()
    are_structs = False
    known: set[str] = set()
    for join in select.args["joins"]:
        if not _is_asof(join):
            plain.append(join.copy())
            relations.append(_alias(join.this))
            continue
        structs = [name if name in known else None for name in relations] if are_structs else [None] * len(relations)
        current = _joined(current, plain, list(zip(relations, structs, strict=True)), join)
        relations.append(_alias(join.this))
        known, are_structs, plain = set(relations), True, []
    select.set("from_", exp.From(this=current))
    select.set("joins", plain)


def _joined(
    current: exp.Expr, plain: Sequence[exp.Join], relations: Sequence[tuple[str, str | None]], join: exp.Join
) -> exp.Expr:
    """Return the relation of the rows so far and the newest row of one more relation, each a struct."""
    right = _alias(join.this)
    if str(join.args.get("side") or "").upper() != "LEFT" or join.args.get("using") or not join.args.get("on"):
        raise _unknown("it is no `ASOF LEFT JOIN ... ON`")
    condition = _condition(join.args["on"], right)
    names = [name for name, _ in relations]
    keys = [f"_key_{number}" for number in range(len(condition.keys))]
    # rows that find nothing are spread over tasks, as there may be many
    nothing: exp.Expr = exp.or_(*(exp.Is(this=key.copy(), expression=exp.Null()) for key, _ in condition.keys))
    apart = exp.Case(
        ifs=[exp.If(this=nothing, true=exp.Anonymous(this=HASH, expressions=[condition.moments[0].copy()]))]
    )
    asked = exp.select(
        *(_as(_column(struct) if struct else _struct(name), name) for name, struct in relations),
        *(_as(left.copy(), key) for key, (left, _) in zip(keys, condition.keys, strict=True)),
        _as(condition.moments[0].copy(), _MOMENT),
        _as(exp.Literal.number(1), _SIDE),
        _as(apart, _APART),
        _as(exp.Null(), right),
    ).from_(current)
    asked.set("joins", list(plain))
    order = 0 if condition.or_equal else 2
    told = (
        exp.select(
            *(_as(exp.Null(), name) for name in names),
            *(_as(found.copy(), key) for key, (_, found) in zip(keys, condition.keys, strict=True)),
            _as(condition.moments[1].copy(), _MOMENT),
            _as(exp.Literal.number(order), _SIDE),
            _as(exp.Null(), _APART),
            _as(_struct(right), right),
        )
        .from_(join.this.copy())
        .where(*(exp.Not(this=exp.Is(this=each.copy(), expression=exp.Null())) for each in _needed(condition)))
    )
    newest = exp.Window(
        this=exp.IgnoreNulls(this=exp.LastValue(this=_column(right))),
        partition_by=[_column(name) for name in (*keys, _APART)],
        order=exp.Order(
            expressions=[
                exp.Ordered(this=_column(_MOMENT), desc=False, nulls_first=True),
                exp.Ordered(this=_column(_SIDE), desc=False, nulls_first=True),
            ]
        ),
        spec=exp.WindowSpec(**_FRAME),
        over="OVER",
    )
    both = exp.Subquery(
        this=exp.Union(this=asked, expression=told, distinct=False), alias=exp.TableAlias(this=_name(_BOTH))
    )
    windowed = exp.select(*(_column(name) for name in names), _as(newest, right), _column(_SIDE)).from_(both)
    known = exp.Subquery(this=windowed, alias=exp.TableAlias(this=_name(_KNOWN)))
    chosen = (
        exp.select(*(_column(name) for name in (*names, right)))
        .from_(known)
        .where(exp.EQ(this=_column(_SIDE), expression=exp.Literal.number(1)))
    )
    return exp.Subquery(this=chosen, alias=exp.TableAlias(this=_name("_joined")))


def _condition(on: exp.Expr, right: str) -> _Condition:
    """Return the parts of an ASOF join. Raises SparkError for a condition of another form."""
    keys: list[tuple[exp.Expr, exp.Expr]] = []
    moments: list[tuple[exp.Expr, exp.Expr, bool]] = []
    for part in _conjuncts(on):
        if not isinstance(part, (exp.EQ, exp.GTE, exp.GT, exp.LTE, exp.LT)):
            raise _unknown("its condition is more than equal keys and one order of moments")
        left, found = part.this, part.expression
        turned = _is_of(left, right)
        if turned == _is_of(found, right):
            raise _unknown("a comparison in its condition is not of the two sides")
        if turned:
            left, found = found, left
        if isinstance(part, exp.EQ):
            keys.append((left, found))
        elif isinstance(part, (exp.LTE, exp.LT)) == turned:
            moments.append((left, found, isinstance(part, (exp.GTE, exp.LTE))))
        else:
            raise _unknown("it asks for the next row, and not for the newest one")
    if not keys or len(moments) != 1:
        raise _unknown("its condition is more than equal keys and one order of moments")
    ((left, found, or_equal),) = moments
    return _Condition(tuple(keys), (left, found), or_equal)


def _conjuncts(on: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(on, exp.And):
        yield from _conjuncts(on.left)
        yield from _conjuncts(on.right)
    else:
        yield on.unnest()


def _is_of(side: exp.Expr, right: str) -> bool:
    """Return whether an expression has columns of the right relation, and of no other. Raises SparkError."""
    tables = {column.table for column in side.find_all(exp.Column)}
    if not tables or "" in tables or (right in tables and len(tables) > 1):
        raise _unknown("a column in its condition does not name its relation")
    return right in tables


def _needed(condition: _Condition) -> Iterator[exp.Expr]:
    yield from (found for _, found in condition.keys)
    yield condition.moments[1]


def _alias(relation: exp.Expr) -> str:
    if not (name := relation.alias_or_name):
        raise _unknown("a relation beside it has no name")
    return str(name)


def _name(name: str) -> exp.Identifier:
    return exp.to_identifier(name, quoted=True)


def _column(name: str) -> exp.Column:
    return exp.Column(this=_name(name))


def _struct(relation: str) -> exp.Expr:
    return exp.Anonymous(this=STRUCT, expressions=[exp.Column(this=exp.Star(), table=_name(relation))])


def _as(made: exp.Expr, name: str) -> exp.Alias:
    return exp.Alias(this=made, alias=_name(name))


def _unknown(why: str) -> SparkError:
    return SparkError(f"write an ASOF join for Spark: {why}", "Report it. Until then, run the pipeline on DuckDB.")
