"""What a sample shows about the whole source: dialect, columns, key, time, density and target; guesses for a person."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from statistics import fmean, median
from typing import TYPE_CHECKING

from rempart.errors import PipelineError
from rempart.ingestion.parsing import recognise
from rempart.ingestion.parsing.numbers import number
from rempart.ingestion.parsing.units import Unit
from rempart.ingestion.parsing.usual_days import UsualDays, usual
from rempart.ingestion.sampling.dialects import written_by
from rempart.ingestion.sampling.facts import ColumnFacts, column_facts
from rempart.ingestion.sampling.keys import Key, likeliest_key
from rempart.ingestion.sampling.leaks import leaks
from rempart.ingestion.sampling.moment_orders import in_order
from rempart.ingestion.sampling.names import plain_name, shown
from rempart.ingestion.sampling.orders import Order, orders
from rempart.ingestion.sampling.sample import Declared, Sample
from rempart.ingestion.sampling.targets import chosen_target, likeliest_target, naive_groups
from rempart.settings.columns import Period
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

_WORSE = 1.25
_SKEWED = 0.9
"""Share of the mean's absolute error below which the median's shows a skewed target."""
_LARGEST = 1e308
"""Largest limit of a draft."""
_SEASONS = 12
"""Months with rows that a model learns from, from which on it knows the seasons: a wrong date spans years alone."""
_TOTALS = 100
"""A row with almost only empty cells is a line of totals if it is at most one of so many."""
DENSE = 2_000_000
"""Rows of a partition above which shorter periods are proposed: a late row rewrites its partition."""


@dataclass(frozen=True)
class Survey:
    """Facts about the whole source, and guesses from them. `every`: the period of a partition.

    `earlier`: date columns that lie before the row's time, or on its day. `leaks`: columns that alone almost determine
    the target. `together`: columns that are empty in the same rows as the target or a date. `orders`: of
    dates. `last_year`: of the range of the row's time. `odd_days`: rows whose time is years from all others, outside of
    that range. `limit`: of the rows that the drafted file accepts. `skewed`: a few large numbers of the target rule its
    mean. `totals`: rows with almost only empty cells, which are not looked
    at. `open_days`: the newest days, of which no row has a target. `closing`: the date that tells when the target is
    known. `positive`: the rarer of two classes.
    `units`: beside the numbers of columns. `constant`: columns with the same value in all rows. `naive`: groups by
    which a guess without a model is best; None if too few rows tell. `seasons`: whether the rows to learn from span a
    year: a model that has not seen the tested season knows nothing of its months.
    """

    name: str
    sample: Sample
    dialect: Dialect
    uncertain: Collection[str]
    columns: tuple[ColumnFacts, ...]
    key: Key
    time: str
    first_day: date
    last_year: int
    last_days: int
    target: ColumnFacts
    target_chosen: bool
    limit: float
    every: Period
    rows_a_month: int
    earlier: tuple[str, ...]
    leaks: Collection[str] = ()
    together: Mapping[str, str] = field(default_factory=dict)
    orders: Sequence[Order] = ()
    skewed: bool = False
    totals: int = 0
    open_days: int = 0
    closing: str = ""
    positive: str = ""
    units: Mapping[str, Unit] = field(default_factory=dict)
    constant: Collection[str] = ()
    naive: Sequence[str] | None = None
    seasons: bool = True
    odd_days: int = 0

    def named(self, *types: str) -> list[ColumnFacts]:
        """Return columns of these types, or of all, that are neither key nor target."""
        free = [c for c in self.columns if c.name not in self.key.columns and c.name != self.target.name]
        return [c for c in free if c.type in types or not types]


def survey(sample: Sample, name: str | None = None, target_name: str | None = None) -> Survey:
    """Look at a sample. `target_name`: the column to predict, by its name in the file or in the draft; None for a
    guess.

    Raises PipelineError where no pipeline can come of it.
    """
    pipeline = pipeline_name(sample.name, name, table="kind" in sample.source)
    target_name = sample.header.get(target_name, target_name) if target_name is not None else None
    source = shown(sample.name)
    written = written_by(sample)
    table, totals = without_totals(written.table)
    dialect = written.guess.dialect
    columns = tuple(
        column_facts(column, table[column], sample.declared.get(column), dialect, wanted=column == target_name)
        for column in table.column_names
    )
    dated = [c for c in columns if c.type in ("date", "timestamp")]
    times = [c for c in dated if not c.nullable] or dated
    if not times:
        raise PipelineError(
            f"draft a pipeline from {source}: no column holds dates, such as 2025-03-30 or 30.03.2025",
            "Add a date column with the time of each row: snapshots are stored by month, and models are tested "
            "on later rows.",
        )
    key = Key(tuple(sample.key)) if sample.key else likeliest_key(columns, table, target_name)
    target = likeliest_target(source, columns, key.columns) if target_name is None else None
    if target is None:
        target = chosen_target(source, columns, key.columns, target_name or "")
    found_days = _days(source, table, times[0].name, dialect)
    days = found_days.days
    known = _with_target(days, table, times[0].name, target.name, dialect) if target.nullable else days
    split = known[int(len(known) * 0.8)]
    good = _accepted(columns, key.columns, (*key.columns, times[0].name, target.name), table, sample.declared, dialect)
    months = max(1.0, ((days[-1] - days[0]).days + 1) / 30.4)
    found = Survey(
        pipeline,
        sample,
        dialect,
        written.guess.uncertain,
        columns,
        key,
        times[0].name,
        days[0],
        found_days.last_year,
        max(1, min((known[-1] - split).days, (known[-1] - days[0]).days - 1)),
        target,
        target_name is not None,
        _naive_limit(target, good[target.name].drop_null().to_pylist(), _written(target, sample.declared, dialect)),
        partition_period(sample.rows / months, timed=times[0].type == "timestamp"),
        round(sample.rows / months),
        tuple(c.name for c in columns if c.type == "date" and _earlier(table, c.name, times[0].name, dialect)),
    )
    if target.type in ("number", "integer", "decimal"):
        marks = _written(target, sample.declared, dialect)
        found = replace(found, skewed=_is_skewed(_numbers(good[target.name].drop_null().to_pylist(), marks)))
    later = [target.name, *(c.name for c in dated)]
    together = _together(table, [c.name for c in found.named() if c.nullable], later)
    found = replace(found, together=together, orders=orders(columns, table, dialect))
    found = replace(found, closing=_closing(found))
    classes = Counter(good[target.name].drop_null().to_pylist()) if target.type == "category" else Counter[str]()
    rarer = min(classes, key=lambda label: (classes[label], label)) if len(target.values) == len(classes) == 2 else ""
    found = replace(found, totals=totals, open_days=(days[-1] - known[-1]).days, positive=rarer, units=written.units)
    found = replace(found, odd_days=found_days.odd)
    constant = [c.name for c in found.named() if not c.nullable and len(table[c.name].unique()) == 1 < table.num_rows]
    found = replace(found, constant=constant, leaks=leaks(found.named(), target, table, dialect))
    parts = [c for c in columns if c.name in key.columns and c.type == "category" and len(key.columns) > 1]
    listed = [c for c in found.named("category", "boolean") if c.name not in (*found.leaks, *found.together)]
    groups = [c.name for c in (*parts, *listed)]  # a part of the key is a thing with many rows, such as a station
    held_out = known[-1] - timedelta(days=found.last_days - 1), known[-1]  # of rows with a target, as in a training
    learnt = {(day.year, day.month) for day in days if day < held_out[0]}
    found = replace(found, seasons=(held_out[0] - days[0]).days >= 365 and len(learnt) >= _SEASONS)
    return replace(found, naive=naive_groups(groups, found.time, target, good, dialect, held_out))


def without_totals(table: pa.Table) -> tuple[pa.Table, int]:
    """Return a table without the few rows of which at most one cell in four is filled, such as a line of totals, and
    how many these are; all rows if there are more, or if such a row is no exception. Pure."""
    import numpy as np
    import pyarrow as pa

    filled = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        filled += column.is_valid().to_numpy()
    almost_empty = 4 * filled <= table.num_columns
    count = int(almost_empty.sum())
    if not count or count * _TOTALS > table.num_rows or 2 * int(np.median(filled)) < table.num_columns:
        return table, 0
    return table.filter(pa.array(~almost_empty)), count


def _together(table: pa.Table, columns: Iterable[str], later: Collection[str]) -> dict[str, str]:
    """Return which columns are empty in the same rows as one of `later`: what fills both may come then. Pure."""
    empty = {name: table[name].is_null().combine_chunks() for name in later if table[name].null_count}
    return {
        column: name
        for column in columns
        for name, rows in reversed(empty.items())
        if name != column and table[column].is_null().combine_chunks().equals(rows)
    }


def _closing(s: Survey) -> str:
    """Return the date that tells when the target is known: it is empty in the same rows, and not before the row's time;
    empty if there is none. Pure.
    """
    dates = [c.name for c in s.columns if c.type in ("date", "timestamp") and c.name != s.time]
    standing = in_order(s.time, dates, s.orders, s.earlier)
    after = standing[standing.index(s.time) + 1 :]
    kinds, ordered = {c.name: c.type for c in s.columns}, {order.then for order in s.orders if order.first == s.time}
    later = [name for name in after if name in ordered or kinds[name] != kinds[s.time]]
    return next((name for name in later if s.together.get(name) == s.target.name), "")


def _days(source: str, table: pa.Table, time: str, dialect: Dialect) -> UsualDays:
    """Return the days of the rows. Raises PipelineError."""
    rows = Counter[date]()
    for entry in table[time].drop_null().value_counts().to_pylist():
        if day := recognise.day(entry["values"], dialect):
            rows[day] += entry["counts"]
    if not rows:
        raise PipelineError(
            f"draft a pipeline from {source}: no cell of column '{time}' holds a time that exists",
            "Correct its dates and times, such as 2025-03-30 14:30.",
        )
    return usual(rows)


def _with_target(days: Sequence[date], table: pa.Table, time: str, target: str, dialect: Dialect) -> Sequence[date]:
    """Return those of `days` on which a row has a target, in order; all if there is none. Pure."""
    texts = table.filter(table[target].is_valid())[time].drop_null().unique().to_pylist()
    known = {recognise.day(text, dialect) for text in texts}
    return [day for day in days if day in known] or days


def _accepted(
    columns: Sequence[ColumnFacts],
    key: Collection[str],
    needed: Collection[str],
    table: pa.Table,
    declared: Mapping[str, Declared],
    dialect: Dialect,
) -> pa.Table:
    """Return the rows whose numbers are within the drafted ranges, or mean "not known", and whose `needed` cells have a
    value; all rows if no row is so."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    refused = np.zeros(table.num_rows, bool)
    for column in columns:
        cells, range_ = table[column.name], column.range
        if column.name in needed:
            refused |= pc.is_null(cells).to_numpy()
        unknown = [each.number for each in column.placeholders]
        if range_ is None or (not (range_.outside or unknown) and range_.cells == len(cells) - cells.null_count):
            continue
        written, lowest, highest = _written(column, declared, dialect), range_.low, range_.high
        if column.name in key:  # of a key, no range is drafted
            lowest, highest = -math.inf, math.inf
        known = {text: number(text, written) for text in cells.drop_null().unique().to_pylist()}
        allowed = () if column.name in needed else unknown  # such cells will be empty
        far = (text for text, value in known.items() if value is None or not lowest <= value <= highest)
        wrong = [text for text in far if known[text] not in allowed]
        refused |= pc.is_in(cells, value_set=pa.array(wrong, pa.string())).to_numpy()
    return table if refused.all() else table.filter(pa.array(~refused))


def _written(column: ColumnFacts, declared: Mapping[str, Declared], dialect: Dialect) -> Dialect:
    """Return how the numbers of a column are written: plainly where the source declares its type."""
    return Dialect() if column.name in declared else dialect


def _earlier(table: pa.Table, column: str, time: str, dialect: Dialect) -> bool:
    """Return whether the dates of a column are never later than the rows' time, and not always on its day."""
    if column == time:
        return False
    pairs = table.select([column, time]).group_by([column, time]).aggregate([]).to_pylist()
    days = [(recognise.day(pair[column] or "", dialect), recognise.day(pair[time] or "", dialect)) for pair in pairs]
    known = [(day, of_row) for day, of_row in days if day and of_row]
    return all(day <= of_row for day, of_row in known) and any(day < of_row for day, of_row in known)


def partition_period(rows_a_month: float, *, timed: bool) -> Period:
    """Return the longest period of which a partition stays small; hours need timestamps. Pure."""
    if rows_a_month <= DENSE:
        return "month"
    return "day" if rows_a_month / 30.4 <= DENSE or not timed else "hour"


def pipeline_name(source: str, name: str | None, *, table: bool = False) -> str:
    """Return the name of the pipeline of a file or a table. Raises PipelineError if it has no usable one."""
    stem = source.lower().rsplit(".", 1)[-1] if table else source.lower().split(".", 1)[0]
    found = name or plain_name(stem)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", found):
        raise PipelineError(
            f"name a pipeline after {shown(source)}: '{shown(found)}' is no name of a pipeline",
            "Pass at most 40 lower case letters, digits and _, of which the first is a letter: --name visits_2024.",
        )
    return found


def _naive_limit(target: ColumnFacts, values: Sequence[str], dialect: Dialect) -> float:
    """Return a quarter more than the score of a constant guess: newer rows may be harder to predict.

    The score is the mean absolute deviation, or the log loss of the classes' shares.
    """
    if target.type in ("number", "integer", "decimal"):
        numbers = _numbers(values, dialect) or [0.0]
        _, power = math.frexp(max(map(abs, numbers)))
        scaled = [math.ldexp(n, -power) for n in numbers]  # the sum of large numbers is no float
        centre = fmean(scaled)
        limit = _WORSE * fmean(abs(n - centre) for n in scaled)
        return float(f"{_unscaled(limit, power) or 1.0:.2g}")
    counts = Counter(values)
    loss = -sum(n * math.log(n / counts.total()) for n in counts.values()) / (counts.total() or 1)
    return round(_WORSE * (loss if len(counts) > 1 else math.log(2)), 2)


def _numbers(values: Sequence[str], dialect: Dialect) -> list[float]:
    return [known for value in values if (known := number(value, dialect)) is not None]


def _is_skewed(numbers: Sequence[float]) -> bool:
    """Return whether the median guesses numbers with a clearly smaller absolute error than the mean does. Pure."""
    largest = max(map(abs, numbers), default=0.0)
    if not largest:
        return False
    scaled = [n / largest for n in numbers]  # the sum of large numbers is no float
    by_mean, by_median = (fmean(abs(n - centre) for n in scaled) for centre in (fmean(scaled), median(scaled)))
    return by_median < _SKEWED * by_mean


def _unscaled(share: float, power: int) -> float:
    """Return a share of a power of two, or the largest limit if it is more."""
    try:
        return min(math.ldexp(share, power), _LARGEST)
    except OverflowError:
        return _LARGEST
