"""Judge the syntax tree of a query: the same rows must give the same result, from the declared inputs alone. Pure.

The tree is the one that DuckDB itself parses (`json_serialize_sql`), so no second parser can disagree about it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
"""Functions that may stand in FROM: they make rows of their arguments. All others read something."""
ZONED = frozenset({"make_timestamptz", "timezone", "timezone_hour", "timezone_minute", "strftime"})
"""Functions that depend on the session's time zone alone, which is UTC."""
MACROS = frozenset(
    {
        "array_append", "array_pop_back", "array_pop_front", "array_prepend", "array_push_back", "array_push_front",
        "array_reverse", "array_to_string", "date_add", "days_in_month", "fdiv", "geomean", "geometric_mean", "if",
        "list_append", "list_avg", "list_count", "list_first", "list_last", "list_max", "list_median", "list_min",
        "list_prepend", "list_product", "list_reverse", "list_string_agg", "list_sum", "nullif", "split_part", "unnest",
        "wavg", "weighted_avg",
    }
)  # fmt: skip
"""Macros of DuckDB (and unnest) that are made of their arguments alone."""
REFUSED = frozenset(
    {"version", "error", "sleep_ms", "write_log", "setseed", "reservoir_quantile", "lttb", "combine_aggr", "query"}
)
"""Functions that DuckDB calls consistent, or says nothing about, although they are no function of their arguments."""
ORDERED = frozenset(
    {
        "any_value", "arbitrary", "arg_max", "arg_max_null", "arg_max_nulls_last", "arg_min", "arg_min_null",
        "arg_min_nulls_last", "argmax", "argmin", "array_agg", "first", "group_concat", "last", "list", "listagg",
        "max_by", "min_by", "mode", "string_agg", "json_group_array", "json_group_object",
    }
)  # fmt: skip
"""Aggregates whose result depends on the order of rows, or on which of equal rows comes first."""
POSITIONS = frozenset(
    {"row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead", "first_value",
     "last_value", "nth_value", "first", "last"}
)  # fmt: skip
"""Window functions that mean nothing without an order."""
CONSTANTS = frozenset(
    {
        "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user",
        "current_role", "current_catalog", "current_schema", "session_user", "user",
    }
)  # fmt: skip
"""What SQL writes like a column, and which is a function of the moment or the session."""


@dataclass(frozen=True)
class Fault:
    """Why a query is refused, and the place in its text (bytes), if known."""

    why: str
    place: int | None = None


@dataclass(frozen=True)
class Functions:
    """Functions of DuckDB by what they are: `consistent` results depend on the arguments alone.

    `catalogue`: names of DuckDB's views and functions that list what it holds.
    """

    consistent: Collection[str]
    macros: Collection[str]
    aggregates: Collection[str]
    catalogue: Collection[str]


def faults(tree: Mapping[str, Any], inputs: Collection[str], functions: Functions) -> Iterator[Fault]:
    """Yield why a parsed text may not run."""
    statements = tree.get("statements", [])
    if len(statements) != 1:
        yield Fault(f"it has {len(statements)} statements; write one SELECT")
        return
    if statements[0].get("named_param_map"):
        yield Fault("it has parameters; write values")
    yield from _walk(statements[0]["node"], frozenset(name.lower() for name in inputs), functions)


def _walk(node: Any, tables: frozenset[str], functions: Functions) -> Iterator[Fault]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, tables, functions)
        return
    if not isinstance(node, Mapping):
        return
    place = node.get("query_location")
    at = place if isinstance(place, int) and place < 1 << 62 else None
    kind, class_ = node.get("type"), node.get("class")
    if isinstance(ctes := node.get("cte_map"), Mapping):
        for entry in ctes.get("map", []):  # in order: a body sees the names before its own
            name = str(entry["key"]).lower()
            if name in functions.catalogue:
                yield Fault(f"'{name}' is a view or function of DuckDB; give the WITH table another name", at)
            yield from _walk(entry["value"], tables, functions)
            tables |= {name}
    if node.get("sample"):
        yield Fault("it takes a sample, which is another one in each run", at)
    if isinstance(modifiers := node.get("modifiers"), list):
        yield from (Fault(why, at) for why in _modified(modifiers))
    match kind, class_:
        case "BASE_TABLE", _:
            yield from _table(node, tables, at)
        case "TABLE_FUNCTION", _:
            name = str(node["function"].get("function_name", "")).lower()
            if name not in TABLE_FUNCTIONS:
                yield Fault(f"{name}() may not stand in FROM: a query reads its inputs alone", at)
            yield from _walk(node["function"].get("arguments", []), tables, functions)
            return
        case (("SHOW_REF" | "COLUMN_DATA"), _):
            yield Fault(f"{str(kind).lower()} is not a query of the inputs' rows", at)
        case "JOIN", _ if node.get("ref_type") == "POSITIONAL":
            yield Fault("it joins by the position of rows, and rows have no order", at)
        case _, "FUNCTION":
            yield from _function(node, functions, at)
        case _, "WINDOW":
            yield from _window(node, functions, at)
        case _, "COLUMN_REF":
            names = node.get("column_names", [])
            if len(names) == 1 and str(names[0]).lower() in CONSTANTS:
                yield Fault(f"{names[0]} differs from run to run", at)
    for key, value in node.items():
        if key == "cte_map":
            continue
        own = {str(node["cte_name"]).lower()} if kind == "RECURSIVE_CTE_NODE" and key == "right" else set()
        yield from _walk(value, tables | own, functions)


def _modified(modifiers: list[Mapping[str, Any]]) -> Iterator[str]:
    kinds = {modifier.get("type") for modifier in modifiers}
    ordered = any(
        modifier.get("type") == "ORDER_MODIFIER" and _orders(modifier.get("orders"), positions=True)
        for modifier in modifiers
    )
    if kinds & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"} and not ordered:
        yield "it has LIMIT or OFFSET without ORDER BY of a column, so other rows may come in each run"
    if any(modifier.get("distinct_on_targets") for modifier in modifiers) and not ordered:
        yield "it has DISTINCT ON without ORDER BY of a column, so other rows may come in each run"


def _orders(orders: Any, *, positions: bool = False) -> bool:
    """Return whether ORDER BY orders rows: one of its expressions reads a column. `positions`: 1 is the first one."""
    return any(
        _reads(order["expression"])
        or (positions and (order["expression"].get("literal") or {}).get("kind") == "INTEGER")
        for order in orders or ()
    )


def _reads(node: Any) -> bool:
    if isinstance(node, list):
        return any(map(_reads, node))
    if not isinstance(node, Mapping):
        return False
    return node.get("class") in ("COLUMN_REF", "STAR") or any(map(_reads, node.values()))


def _table(node: Mapping[str, Any], tables: frozenset[str], at: int | None) -> Iterator[Fault]:
    name = str(node.get("table_name", ""))
    if node.get("schema_name") or node.get("catalog_name") or name.lower() not in tables:
        path = ".".join(filter(None, (node.get("catalog_name"), node.get("schema_name"), name)))
        yield Fault(f"table '{path}' is none of its inputs", at)
    if node.get("at_clause"):
        yield Fault(f"table '{name}' is read AT a version; a query reads current snapshots", at)


def _function(node: Mapping[str, Any], functions: Functions, at: int | None) -> Iterator[Fault]:
    name = str(node.get("function_name", "")).lower()
    yield from _known(name, functions, at)
    if name == "age" and len(node.get("arguments", [])) == 1:
        yield Fault("age() with one argument counts until today", at)
    if name in ORDERED and not _orders((node.get("order_bys") or {}).get("orders")):
        yield Fault(f"{name}() depends on the order of rows: write {name}(... ORDER BY ...) of a column", at)


def _window(node: Mapping[str, Any], functions: Functions, at: int | None) -> Iterator[Fault]:
    name = str(node.get("function_name", "")).lower()
    ordered = _orders(node.get("orders"))
    if not ordered and (frame := _counted_frame(node)):
        yield Fault(f"{name}() OVER (... {frame} ...) counts rows in no order: add ORDER BY of a column", at)
    ordered = ordered or _orders(node.get("arg_orders"))
    if name in POSITIONS:
        if not ordered:
            yield Fault(f"{name}() OVER (...) needs ORDER BY of a column", at)
        return
    yield from _known(name, functions, at)
    if name in ORDERED and not ordered:
        yield Fault(f"{name}() OVER (...) depends on the order of rows: it needs ORDER BY of a column", at)


def _counted_frame(node: Mapping[str, Any]) -> str | None:
    """Return how a window's frame counts (ROWS or GROUPS); None for one that takes peers or the whole partition."""
    bounds = f"{node.get('start')} {node.get('end')}"
    return next((unit for unit in ("ROWS", "GROUPS") if f"_{unit}" in bounds), None)


def _known(name: str, functions: Functions, at: int | None) -> Iterator[Fault]:
    """Yield why a function may not be called."""
    if name in ORDERED or name in ZONED or name in MACROS:
        return
    refused = name in REFUSED or name in CONSTANTS or name.startswith(("approx_", "pg_", "current_"))
    if refused or name in functions.macros or not (name in functions.consistent or name in functions.aggregates):
        yield Fault(f"{name}() is not a function of its arguments alone, or is unknown", at)
