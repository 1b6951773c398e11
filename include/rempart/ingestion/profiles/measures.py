"""Measure the rows of a snapshot's parts: counts, nulls, distinct values, lengths, and distributions as bars.

DuckDB reads the parts within a memory limit: aggregates are sketches, and a distribution is a few dozen bars. Keys,
texts and arrays have no distribution in any profile. Of personal and sensitive data no lowest and highest value is
told, a bar of fewer than `FEWEST` rows is left out, and numbers of rows are rounded to `FEWEST`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.limits import Resources
from rempart.sovereignty.classification import may_be_personal

if TYPE_CHECKING:
    import duckdb

FEWEST = 10
"""Rows of a bar of personal data. Fewer could tell something about one person."""
BARS = 20
"""Bars of a distribution of numbers, about; of a closed list, at most."""
MOST_BARS = 120
"""Bars of any distribution, at most."""


@dataclass(frozen=True)
class Bar:
    """A range, period or value, and its number of rows."""

    label: str
    rows: int


@dataclass(frozen=True)
class ColumnProfile:
    """Facts about a column. `distinct` is an estimate. `shortest`, `mean_length`, `longest`: characters of a text.

    `low` and `high`: smallest and largest value. `left_out`: rows with a value that no bar shows.
    """

    name: str
    type: str
    nulls: int
    distinct: int
    shortest: int | None = None
    mean_length: float | None = None
    longest: int | None = None
    low: str | None = None
    high: str | None = None
    bars: tuple[Bar, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class Profile:
    """Facts about a snapshot. `guarded`: it may hold personal values; rare ones are left out, counts are rounded."""

    pipeline: str
    snapshot: str
    classification: str
    rows: int
    guarded: bool
    columns: tuple[ColumnProfile, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def profile(
    parts: Sequence[Path],
    columns: Mapping[str, str],
    key: Collection[str],
    resources: Resources,
    *,
    pipeline: str,
    snapshot: str,
    classification: str,
) -> Profile:
    """Return the profile of the rows of Parquet files. `columns`: types by name, as a manifest has them."""
    guarded = may_be_personal(classification)
    if not parts:
        none = tuple(ColumnProfile(name, type_, 0, 0) for name, type_ in columns.items())
        return Profile(pipeline, snapshot, classification, 0, guarded, none)
    with opened(resources, sorted({part.parent for part in parts})) as connection:
        relation = parquet(parts)
        figures = _figures(connection, relation, columns)
        rows = int(figures["rows"])
        found = tuple(
            _column(connection, relation, figures, i, name, type_, rows, plain=name not in key)
            for i, (name, type_) in enumerate(columns.items())
        )
    if guarded:
        rows, found = rounded(rows), tuple(map(_guarded, found))
    return Profile(pipeline, snapshot, classification, rows, guarded, found)


def _guarded(column: ColumnProfile) -> ColumnProfile:
    """Return what may be told about a column of personal data. Pure."""
    bars, left = shown(column.bars, column.left_out)
    closed = column.type == "category"  # a mean of lengths, or the lengths of a few values, would tell their shares
    return replace(
        column,
        nulls=rounded(column.nulls),
        distinct=column.distinct if column.bars and column.distinct <= BARS else rounded(column.distinct),
        shortest=None if closed else column.shortest,
        mean_length=None,
        longest=None if closed else column.longest,
        low=None,
        high=None,
        bars=tuple(Bar(bar.label, rounded(bar.rows)) for bar in bars),
        left_out=rounded(left),
    )


def shown(bars: Sequence[Bar], left: int) -> tuple[list[Bar], int]:
    """Return the bars of personal data that are shown, and the number of rows beside them. Pure.

    Small bars are hidden. If they hold fewer than `FEWEST` rows together, the smallest of the others is hidden as well:
    the total would tell their number.
    """
    kept = [bar for bar in bars if bar.rows >= FEWEST]
    left += sum(bar.rows for bar in bars if bar.rows < FEWEST)
    if 0 < left < FEWEST and kept:
        smallest = min(kept, key=lambda bar: bar.rows)
        kept.remove(smallest)
        left += smallest.rows
    return kept, left


def rounded(rows: int) -> int:
    """Return a number of rows of personal data to the nearest `FEWEST`: two snapshots differ by no single row. Pure."""
    return (rows + FEWEST // 2) // FEWEST * FEWEST


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _figures(connection: duckdb.DuckDBPyConnection, relation: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the aggregates of all columns, by name, from one pass over the rows."""
    wanted = ["count(*) AS rows"]
    for i, (name, type_) in enumerate(columns.items()):
        column = _quote(name)
        wanted += [f"count({column}) AS known{i}", f"approx_count_distinct({column}) AS distinct{i}"]
        if type_ in ("string", "category"):
            wanted += [f"{how}(length({column})) AS {how}{i}" for how in ("min", "avg", "max")]
        elif _is_number(type_):
            number = f"{column}::DOUBLE"
            wanted += [f"min({number}) AS min{i}", f"max({number}) AS max{i}"]
            wanted.append(f"approx_quantile({number}, [0.01, 0.99]) AS most{i}")
        elif type_ in ("date", "timestamp"):
            wanted += [f"{how}({_instant(column, type_)}) AS {how}{i}" for how in ("min", "max")]
    query = connection.execute(f"SELECT {', '.join(wanted)} FROM {relation}")  # noqa: S608 - names are quoted
    return dict(zip([str(column[0]) for column in query.description], query.fetchone() or (), strict=True))


def _is_number(type_: str) -> bool:
    return type_ in ("integer", "number") or type_.startswith("decimal")


def _instant(column: str, type_: str) -> str:
    """Return the SQL of a time without a zone, in UTC."""
    return f"make_timestamp(epoch_us({column}))" if type_ == "timestamp" else f"{column}::TIMESTAMP"


def _column(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    figures: Mapping[str, Any],
    i: int,
    name: str,
    type_: str,
    rows: int,
    *,
    plain: bool,
) -> ColumnProfile:
    known, distinct = int(figures[f"known{i}"]), int(figures[f"distinct{i}"])
    if not known:
        return ColumnProfile(name, type_, rows, 0)
    lengths: dict[str, Any] = {}
    if type_ in ("string", "category"):
        lengths = {"shortest": figures[f"min{i}"], "longest": figures[f"max{i}"]}
        lengths["mean_length"] = round(float(figures[f"avg{i}"]), 2)
    if not plain or type_ == "string" or type_.startswith("array"):
        return ColumnProfile(name, type_, rows - known, min(distinct, known), **lengths)
    low = high = None
    column, width = _quote(name), 1.0
    if _is_number(type_):
        low, high = _short(figures[f"min{i}"]), _short(figures[f"max{i}"])
        bins, width = _number_bins(column, *figures[f"most{i}"], whole=type_ == "integer")
    elif type_ in ("date", "timestamp"):
        first, last = figures[f"min{i}"], figures[f"max{i}"]
        low, high = (str(first)[:10], str(last)[:10]) if type_ == "date" else (str(first), str(last))
        bins = _time_bins(_instant(column, type_), (last - first).total_seconds() / 86400)
    else:
        bins = f"{column}::VARCHAR"
    counted = connection.execute(
        f"SELECT bin, count(*) AS rows FROM (SELECT {bins} AS bin FROM {relation}) "  # noqa: S608 - names are quoted
        "WHERE bin IS NOT NULL GROUP BY bin ORDER BY "
        + (f"bin LIMIT {MOST_BARS}" if low is not None else f"rows DESC, bin LIMIT {BARS}")
    ).fetchall()
    bars = tuple(Bar(_label(bin_, width), int(count)) for bin_, count in counted)
    return ColumnProfile(
        name,
        type_,
        rows - known,
        min(distinct, known),
        **lengths,
        low=low,
        high=high,
        bars=bars,
        left_out=known - sum(bar.rows for bar in bars),
    )


def step(low: float, high: float, *, whole: bool) -> float:
    """Return the width of a bar: 1, 2 or 5 times a power of ten. Pure."""
    width = high / BARS - low / BARS  # the difference itself may be too large for a float
    if not sys.float_info.min <= width < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    nice = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
    return max(1.0, nice) if whole else nice


def _number_bins(column: str, low: float, high: float, *, whole: bool) -> tuple[str, float]:
    """Return the SQL of the number of a value's bar, null outside of the bars, and the width of a bar."""
    width = step(low, high, whole=whole)
    first, last = math.floor(low / width), math.floor(high / width)
    number = f"floor({column}::DOUBLE / {width!r})"
    return f"CASE WHEN {number} BETWEEN {first} AND {last} THEN {number} END", width


def _time_bins(column: str, days: float) -> str:
    """Return the SQL of a time's period, as text that sorts."""
    unit, form = next(
        (unit, form)
        for most, unit, form in (
            (2, "hour", "%Y-%m-%d %H:00"),
            (62, "day", "%Y-%m-%d"),
            (1280, "month", "%Y-%m"),
            (36525, "year", "%Y"),
            (math.inf, "century", "%Y"),
        )
        if days <= most
    )
    return f"strftime(date_trunc('{unit}', {column}), '{form}')"


def _label(found: Any, width: float) -> str:
    """Return the label of a bar: the lower edge of a number's, within the numbers that there are."""
    most = sys.float_info.max
    return _short(min(max(found * width, -most), most)) if isinstance(found, float) else str(found)


def _short(value: float) -> str:
    return f"{value:.10g}"


def sections(found: Profile) -> Iterator[tuple[str, Sequence[ColumnProfile]]]:
    """Yield the columns in groups for a page: with a distribution, and without."""
    shown = [column for column in found.columns if column.bars]
    if shown:
        yield "Distributions", shown
    if others := [column for column in found.columns if not column.bars]:
        yield "Keys, texts and empty columns", others
