"""Count the rows of a Parquet file into profiles, in DuckDB: a query for each column, and no row in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.monitoring.profiles import NO_PERIOD, Column, ColumnProfile, Profile

if TYPE_CHECKING:
    import duckdb

EDGES = 20
"""Quantiles of a number that become edges, besides the least and the greatest value."""
SAMPLED = 50_000
"""Rows of which quantiles are taken; of more rows each n-th."""
_OTHER, _NULL = -1, -2


def edges(connection: duckdb.DuckDBPyConnection, file: Path, columns: Sequence[Column]) -> dict[str, tuple[float, ...]]:
    """Return the edges of the numbers of a file: its least and greatest value and quantiles, each once.

    A number without a value has none.
    """
    numbers = [column for column in columns if column.kind == "number"]
    if not numbers:
        return {}
    rows = _one(connection, f"SELECT count(*) FROM {_read(file)}")[0]  # noqa: S608 # names are quoted
    step = max(1, rows // SAMPLED)
    shares = [place / EDGES for place in range(EDGES + 1)]
    wanted = ", ".join(f"quantile_disc({_number(column)}, {shares}) AS {_name(column.name)}" for column in numbers)
    source = f"read_parquet({_text(str(file))}, file_row_number = true)"
    found = _one(connection, f"SELECT {wanted} FROM {source} WHERE file_row_number % {step} = 0")  # noqa: S608 # names are quoted
    return {column.name: tuple(sorted(set(values or ()))) for column, values in zip(numbers, found, strict=True)}


def profile(
    connection: duckdb.DuckDBPyConnection,
    file: Path,
    columns: Sequence[Column],
    grid: Mapping[str, tuple[float, ...]],
    time: str | None,
) -> Profile:
    """Return the profile of a file. `grid`: result of `edges` for the reference. `time`: date or timestamp of a row."""
    month = f"12 * year({_name(time)}) + month({_name(time)}) - 1" if time else "NULL"
    made: dict[str, ColumnProfile] = {}
    for column in columns:
        chosen = grid.get(column.name, ())
        counted = connection.execute(
            f"SELECT month, {_bin(column, chosen)}, count(*) FROM (SELECT {month} AS month, {_value(column)} AS v"  # noqa: S608 # names are quoted
            f" FROM {_read(file)}) GROUP BY ALL"
        ).fetchall()
        made[column.name] = _profile(column, chosen, counted)
    return made


def _profile(column: Column, chosen: tuple[float, ...], counted: Sequence[tuple[Any, ...]]) -> ColumnProfile:
    empty = ColumnProfile(column, chosen, (), (), ())
    rows = {(_period(month), int(place)): int(count) for month, place, count in counted}
    periods = tuple(sorted({period for period, _ in rows}))
    places = [*range(empty.bins)] if column.kind == "number" else [*range(empty.bins - 1), _OTHER]
    return ColumnProfile(
        column,
        chosen,
        periods,
        tuple(tuple(rows.get((period, place), 0) for place in places) for period in periods),
        tuple(rows.get((period, _NULL), 0) for period in periods),
    )


def _period(month: int | None) -> str:
    return NO_PERIOD if month is None else f"{month // 12:04}-{month % 12 + 1:02}"


def _bin(column: Column, chosen: tuple[float, ...]) -> str:
    """Return the SQL of the bin of a value `v`."""
    if column.kind == "category":
        known = "".join(f" WHEN {_text(text)} THEN {place}" for place, text in enumerate(column.values))
        return f"CASE WHEN v IS NULL THEN {_NULL} ELSE CASE v{known} ELSE {_OTHER} END END"
    return f"CASE WHEN v IS NULL THEN {_NULL} ELSE {_search(chosen, 0)} END"


def _search(chosen: tuple[float, ...], first: int) -> str:
    """Return the SQL of a binary search for `v` in edges, the first of which begins with this bin."""
    if not chosen:
        return str(first)
    middle = len(chosen) // 2
    edge, at = f"{chosen[middle]!r}::DOUBLE", first + 2 * middle + 1
    below, above = _search(chosen[:middle], first), _search(chosen[middle + 1 :], at + 1)
    return f"(CASE WHEN v < {edge} THEN {below} WHEN v = {edge} THEN {at} ELSE {above} END)"


def _value(column: Column) -> str:
    return f"{_name(column.name)}::VARCHAR" if column.kind == "category" else _number(column)


def _number(column: Column) -> str:
    """Return the SQL of a number's value; NaN and infinities count as no value."""
    value = f"{_name(column.name)}::DOUBLE"
    return f"(CASE WHEN isfinite({value}) THEN {value} END)"


def _read(file: Path) -> str:
    return f"read_parquet({_text(str(file))})"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    (found,) = connection.execute(query).fetchall()
    return tuple(found)
