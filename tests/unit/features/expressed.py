"""Random expressions and rows, and the value of an expression by its definition, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
from hypothesis import strategies as st

from rempart.settings.columns import Column
from rempart.settings.expressions.syntax import Node, parse
from rempart.settings.pipeline import ModelPipeline

Row = dict[str, Any]
ZONE = "America/New_York"
TYPES: dict[str, str] = {
    "x": "number",
    "y": "number",
    "n": "integer",
    "m": "integer",
    "p": "boolean",
    "kind": "string",
    "born": "date",
    "seen": "date",
    "begun": "timestamp",
    "left": "timestamp",
}
COLUMNS = {
    name: Column.model_validate({"type": kind, "known": "now", "nullable": True}) for name, kind in TYPES.items()
}
PARTS = ["year", "month", "week", "day_of_month", "day_of_week", "day_of_year"]
TEXTS = ["a", "it's", "größe", ""]


def _days(first: int, last: int) -> st.SearchStrategy[date]:
    return st.integers(first, last).map(lambda days: date(2020, 1, 1) + timedelta(days=days))


_NUMBERS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e30, 2e30, -1e30, 1e-30, 1e-31, 5e-324, math.inf, math.nan]
    ),
    st.floats(-1e6, 1e6),
    st.floats(),
)
_INTEGERS = st.one_of(st.integers(-5, 5), st.sampled_from([10**15, 10**15 + 1, -(10**15), 2**63 - 1, -(2**63)]))
_INSTANTS = _days(-7300, 3700).flatmap(lambda day: st.times().map(lambda clock: datetime.combine(day, clock, UTC)))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": _NUMBERS,
    "integer": _INTEGERS,
    "boolean": st.booleans(),
    "string": st.sampled_from(TEXTS),
    "date": _days(-800, 800),
    "timestamp": _INSTANTS,
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | VALUES[kind] for name, kind in TYPES.items()}), min_size=1, max_size=8
)


def _of(kind: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, told in TYPES.items() if told == kind])


def _shaped(form: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda told: form.format(*told))


_DATES = st.one_of(_of("date"), _shaped("date({})", _of("timestamp")), st.just("date '2020-02-29'"))
_TEXT = st.one_of(_of("string"), st.sampled_from(["'a'", "'it''s'", "'größe'"]))
_LITERALS = st.sampled_from(["0", "1", "3", "0.1", "2.5", "1e3", "-7", "1e-9"])
_LEAVES = st.one_of(
    _of("number"),
    _of("integer"),
    _LITERALS,
    _shaped("days_between({}, {})", _DATES, _DATES),
    _shaped("days_between({}, {})", _of("timestamp"), _of("timestamp")),
    _shaped("days_since({})", st.one_of(_DATES, _of("timestamp"))),
    _shaped("extract({} from {})", st.sampled_from(PARTS), st.one_of(_DATES, _of("timestamp"))),
)


def _conditions(numbers: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    comparison = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
    leaves = st.one_of(
        _of("boolean"),
        _shaped("{} {} {}", numbers, comparison, numbers),
        _shaped("{} {} {}", _DATES, comparison, _DATES),
        _shaped("{} = {}", _TEXT, _TEXT),
        _shaped("{} not in ({}, {})", _TEXT, _TEXT, _TEXT),
        _shaped("{} is not null", numbers),
        _shaped("{} is null", _of("string")),
        _shaped("{} between {} and {}", numbers, numbers, numbers),
        _shaped("{} in ({}, {})", numbers, numbers, numbers),
    )
    return st.one_of(leaves, _shaped("({}) and not ({})", leaves, leaves), _shaped("({}) or ({})", leaves, leaves))


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/"])
    return st.one_of(
        _shaped("({} {} {})", inner, binary, inner),
        _shaped("({} {} {})", inner, binary, inner),
        _shaped("-({})", inner),
        _shaped("{}({})", st.sampled_from(["abs", "round", "floor", "ceil", "sqrt", "ln", "log10"]), inner),
        _shaped("round({}, {})", inner, st.integers(0, 3)),
        _shaped("{}({}, {})", st.sampled_from(["least", "greatest", "coalesce", "nullif"]), inner, inner),
        _shaped("case when {} then {} when {} then {} end", _conditions(inner), inner, _conditions(inner), inner),
        _shaped("case when {} then {} else {} end", _conditions(inner), inner, inner),
    )


NUMBERS = st.recursive(_LEAVES, _larger, max_leaves=6)
EXPRESSIONS = st.one_of(
    NUMBERS, _conditions(NUMBERS), _shaped("coalesce({}, {})", _TEXT, _TEXT), _shaped("nullif({}, {})", _TEXT, _TEXT)
).filter(lambda text: len(text) <= 400)


class Definition:
    """The value of a tree for one row, by what docs/adr/0114-expressions.md says."""

    def __init__(self, row: Row, moment: datetime, day: date) -> None:
        self.row, self.moment, self.day = row, moment, day

    def value(self, node: Node) -> Any:
        if node.kind == "literal":
            return node.value
        if node.kind == "column":
            return self.column(str(node.value))
        if node.kind == "case":
            return self.case(node)
        parts = [self.value(part) for part in node.parts]
        if node.kind in ("and", "or", "is null", "is not null", "coalesce", "least", "greatest", "in", "between"):
            return _many(node.kind, parts)
        if node.kind == "nullif":
            return None if parts[0] is not None and parts[0] == parts[1] else parts[0]
        if any(part is None for part in parts):
            return None
        if node.kind == "extract":
            return _part(str(node.value), parts[0])
        if node.kind == "days_since":
            parts = [self.moment if isinstance(parts[0], datetime) else self.day, *parts]
        return _ONE[node.kind](*parts)

    def column(self, name: str) -> Any:
        value = self.row[name]
        if isinstance(value, float):
            value = value if abs(value) <= 1e30 else None
            return 0.0 if value is not None and abs(value) <= 1e-30 else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value if abs(value) <= 10**15 else None
        return value

    def case(self, node: Node) -> Any:
        *pairs, last = node.parts
        for condition, then in zip(pairs[::2], pairs[1::2], strict=True):
            if self.value(condition) is True:
                return self.value(then)
        return self.value(last)


def _many(kind: str, parts: list[Any]) -> Any:
    there = [part for part in parts if part is not None]
    match kind:
        case "and":
            return False if False in there else None if None in parts else True
        case "or":
            return True if True in there else None if None in parts else False
        case "is null":
            return parts[0] is None
        case "is not null":
            return parts[0] is not None
        case "coalesce":
            return there[0] if there else None
        case "least" | "greatest":
            return (min if kind == "least" else max)(there, default=None)
        case "in":
            equal = [None if part is None or parts[0] is None else part == parts[0] for part in parts[1:]]
            return _many("or", equal)
    bounds = [(parts[1], parts[0]), (parts[0], parts[2])]
    return _many("and", [None if a is None or b is None else a <= b for a, b in bounds])


def _part(part: str, when: date) -> int:
    when = _local(when)
    return {
        "year": when.year,
        "month": when.month,
        "week": when.isocalendar().week,
        "day_of_month": when.day,
        "day_of_week": when.isoweekday(),
        "day_of_year": when.timetuple().tm_yday,
    }[part]


def _local(when: date) -> date:
    return when.astimezone(ZoneInfo(ZONE)) if isinstance(when, datetime) else when


def _round(x: float, digits: int = 0) -> float:
    return math.floor(x * 10.0**digits + 0.5) / 10.0**digits


def _between(later: date, earlier: date) -> Any:
    if isinstance(later, datetime):
        return ((later - earlier) // timedelta(microseconds=1)) / 86_400_000_000
    return (later - earlier).days


def _calculated(of: Callable[[float, float], float]) -> Callable[[Any, Any], Any]:
    """Whole numbers stay whole in sums; all else is of floats."""
    return lambda a, b: of(a, b) if type(a) is type(b) is int else of(float(a), float(b))


_ONE: dict[str, Callable[..., Any]] = {
    "not": lambda x: not x,
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "negative": lambda x: -x,
    "+": _calculated(lambda a, b: a + b),
    "-": _calculated(lambda a, b: a - b),
    "*": lambda a, b: float(a) * float(b),
    "/": lambda a, b: float(a) / float(b) if b else None,
    "abs": abs,
    "round": _round,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "ln": lambda x: math.log(x) if x > 0 else None,
    "log10": lambda x: math.log10(x) if x > 0 else None,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else None,
    "days_between": _between,
    "days_since": _between,
    "date": lambda when: _local(when).date(),  # type: ignore[attr-defined] # of an instant
}


def same(found: Any, wanted: Any) -> bool:
    """Whether two values are equal; numbers to the last digits, which libraries give to a logarithm."""
    if isinstance(found, bool) or isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return type(found) is type(wanted) and bool(found == wanted)
    return isinstance(found, int | float) and math.isclose(found, wanted, rel_tol=1e-12)


KINDS = {
    "visit": pa.int64(),
    "at": pa.timestamp("us", "UTC"),
    "day": pa.date32(),
    "x": pa.float64(),
    "y": pa.float64(),
    "n": pa.int64(),
    "m": pa.int64(),
    "p": pa.bool_(),
    "kind": pa.string(),
    "born": pa.date32(),
    "seen": pa.date32(),
    "begun": pa.timestamp("us", "UTC"),
    "left": pa.timestamp("us", "UTC"),
    "paid": pa.float64(),
}


def visits(
    name: str = "visits", *, own: dict[str, str] | None = None, late: Collection[str] = (), **changes: Any
) -> ModelPipeline:
    """A pipeline of the columns. The `late` ones are known only when the visit is paid, after the prediction."""
    known = {column: "paid" if column in late else "now" for column in TYPES}
    columns = {c: {"type": TYPES[c], "known": known[c], "nullable": True} for c in TYPES}
    sections: dict[str, Any] = {
        "name": name,
        "classification": "internal",
        "source": {"prefix": "visits/", "time_zone": ZONE},
        "key": ["visit"],
        "moments": {"now": {"column": "at"}, "paid": {"column": "at"}},
        "partition_by": "day",
        "schema": {
            "visit": {"type": "integer", "known": "now"},
            "at": {"type": "timestamp", "known": "now"},
            "day": {"type": "date", "known": "now"},
            **columns,
            "paid": {"type": "number", "known": "paid"},
        },
        "features": {"own": {"kind": "row", "at": "now", "expressions": own or {"age": "days_since(day)"}}},
        "prediction": {"target": "paid", "task": "regression", "at": "now"},
        "holdout": {"column": "day", "last": "1d"},
        "gate": {"metric": "mae", "limit": 1.0, "baseline_by": []},
    }
    return ModelPipeline.model_validate(sections | changes)


def arrow(rows: Sequence[Row]) -> pa.Table:
    """The rows as a snapshot has them; the moment of row i is i days and hours after the end of 2021 in New York."""
    filled = [
        {"visit": i, "at": at, "day": at.date(), "paid": float(i), **row}
        for i, row in enumerate(rows)
        for at in [moment(i)]
    ]
    return pa.Table.from_pylist(filled, schema=pa.schema(KINDS.items()))


def moment(row: int) -> datetime:
    return datetime(2021, 12, 31, 23, 30, tzinfo=UTC) + timedelta(hours=25 * row)


def defined(text: str, rows: Sequence[Row]) -> list[Any]:
    """The values of an expression by its definition."""
    tree = parse(text)
    return [
        Definition(row, moment(i), moment(i).astimezone(ZoneInfo(ZONE)).date()).value(tree)
        for i, row in enumerate(rows)
    ]
