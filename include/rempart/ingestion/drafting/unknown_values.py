"""Numbers that seem to mean "not known": what a draft asks about them, and what each answer needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.ingestion.drafting.writing import number_text
from rempart.ingestion.parsing import units
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.ingestion.sampling.names import yaml_text
from rempart.ingestion.sampling.survey import Survey
from rempart.settings.expressions.syntax import columns_of

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 3
"""Columns that a question names."""
_PAGE = "docs/how-to/files-as-they-come.md#faults-in-the-file"
_HELD = "deliveries are held back"
_SQL_WORDS = (
    "all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation "
    "column concurrently constraint create cross current_catalog current_date current_role current_schema current_time "
    "current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze "
    "from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like "
    "limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary "
    "references returning right select session_user similar some symmetric system_user table tablesample then to "
    "trailing true union unique user using variadic verbose when where window with"
)
"""Words that are no name of a column in PostgreSQL, unless they are quoted (its manual, appendix C)."""


@dataclass(frozen=True)
class UnknownNumbers:
    """The numbers of all columns that seem to mean "not known".

    `texts`: how the source writes those of each column, with their unit. `elsewhere`: by column, the other columns in
    which such a text is a value. `alone`: whether the rows of a column alone are more than a delivery may refuse.
    `together`: whether those of all columns are; a row counts once.
    """

    texts: Mapping[str, Sequence[str]]
    elsewhere: Mapping[str, Sequence[str]]
    alone: Mapping[str, bool]
    together: bool


def found(s: Survey, most_refused: float) -> UnknownNumbers:
    """Return what the rows tell about these numbers. `most_refused`: share of the rows that a delivery may refuse."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table, most = s.sample.table, most_refused * s.sample.table.num_rows
    asked = [c for c in s.columns if c.placeholders and c.name not in s.key.columns]
    texts = {c.name: _texts(c, table[c.name], s) for c in asked}
    rows, alone = np.zeros(table.num_rows, bool), dict[str, bool]()
    for name, own in texts.items():
        cells = pc.is_in(table[name], value_set=pa.array(own, pa.string())).to_numpy()
        alone[name] = bool(cells.sum() > most)
        rows |= cells
    every = pa.array(sorted({text for own in texts.values() for text in own}), pa.string())
    values = dict[str, set[str]]()
    for name in table.column_names if texts else ():
        column = table[name]
        has = set(column.filter(pc.is_in(column, value_set=every)).unique().to_pylist())
        # an empty target would make the row an open one
        values[name] = has if s.closing and name == s.target.name else has.difference(texts.get(name, ()))
    elsewhere = {
        name: [other for other in values if other != name and not values[other].isdisjoint(own)]
        for name, own in texts.items()
    }
    return UnknownNumbers(texts, elsewhere, alone, bool(rows.sum() > most))


def seems(column: ColumnFacts) -> str:
    """Return which numbers of a column seem to mean that the value is not known, and how many cells have each."""
    cells = column.range.cells if column.range else 0
    first, *others = column.placeholders
    told = [f"{number_text(first.number)} ({first.cells:,} of {cells:,} cells)"]
    told += [f"{number_text(each.number)} ({each.cells:,})" for each in others]
    return f'{" and ".join(told)} {"seem" if others else "seems"} to mean "not known"'


def question(column: ColumnFacts, unknown: UnknownNumbers, s: Survey) -> str:
    """Return the question about the numbers of one column, and what each answer needs."""
    name, others = column.name, "" if unknown.alone[column.name] else " with those of other columns"
    held = f", and{others} they are too many: {_HELD}" if unknown.together else ""
    if column is s.target:
        raised = " unless you raise `max_quarantined`" if unknown.alone[name] else ""
        kept = f"leave the range: such rows go to quarantine, as no model learns from them{held}{raised}"
        return f"{seems(column)}. If so, {kept}; else widen it"
    until = f"Until then these rows go to quarantine{held}"
    null = "" if column.nullable else f", and `nullable: true` to {name}"
    if "kind" in s.sample.source:
        way = _replaced(f"`{_sql(column)}`", s)
    elif clash := unknown.elsewhere[name]:
        expression = f"expressions: {{{_told(name, s)}: {yaml_text(_nullif(column))}}}"
        why = f"`null_values` would empty such cells of {_named(clash)}, too, so widen the range"
        other = f"replace {name} in `columns` of `own` by `{expression}`"
        return f'{seems(column)}. {why}. If it means "not known", also {other}. {until}'
    else:
        way = _emptied(unknown.texts[name], s)
    return f"{seems(column)}. If so, {way}{null}; else widen the range. {until}"


def question_of_many(columns: Sequence[ColumnFacts], unknown: UnknownNumbers, s: Survey) -> str:
    """Return the question about many columns, whose notes tell the numbers, as sentences that follow."""
    told = list(_of_many(columns, unknown, s))
    if unknown.together:
        told.append(f"Until then these rows go to quarantine, and they are too many: {_HELD}")
    return "".join(f". {sentence}" for sentence in told)


def _of_many(columns: Sequence[ColumnFacts], unknown: UnknownNumbers, s: Survey) -> Iterator[str]:
    yield f'{len(columns)} columns have a number that seems to mean "not known", as their notes tell'
    nullable = "and `nullable: true` to each such column; else widen its range"
    if "kind" in s.sample.source:
        yield f"If so, {_replaced(f'`{_sql(columns[0])}` and so on', s)}, {nullable}"
        return
    free = [c.name for c in columns if not unknown.elsewhere[c.name]]
    clashing = [c.name for c in columns if unknown.elsewhere[c.name]]
    if free:
        texts = sorted({text for name in free for text in unknown.texts[name]})
        yield f"If so, {_emptied(texts, s)}, {nullable}"
    if clashing:
        others = list(dict.fromkeys(other for name in clashing for other in unknown.elsewhere[name]))
        here = f"For {_named(clashing)}" if free else "If so"
        why = f"`null_values` would empty such cells of {_named(others)}, too"
        yield f"{here}, widen the range, and use `nullif` in `expressions` ({_PAGE}): {why}"


def _texts(column: ColumnFacts, cells: pa.ChunkedArray, s: Survey) -> Sequence[str]:
    """Return how the source writes the numbers of a column: with their unit, as `null_values` compares whole cells."""
    texts = {text for each in column.placeholders for text in each.texts}
    if (unit := s.units.get(column.name)) is None:
        return sorted(texts)
    return sorted(text for text in cells.drop_null().unique().to_pylist() if units.stripped(text, unit.text) in texts)


def _emptied(texts: Sequence[str], s: Survey) -> str:
    """Return how the source says that texts mean no value."""
    written = ", ".join(map(yaml_text, texts))
    if s.sample.text:
        return f"add {written} to `null_values`, which holds for all columns"
    return f'add `null_values: ["", {written}]` to `source`, which holds for all columns'


def _replaced(gives: str, s: Survey) -> str:
    """Return how a query of a database gives null instead of numbers. `gives`: columns of its SELECT."""
    return f"replace `table` by `query: include/sql/{s.name}.sql`, one SELECT of all columns, with {gives}"


def _sql(column: ColumnFacts) -> str:
    """Return a column of a SELECT without its numbers. A number with places is quoted, so that it gets the column's
    type: a `real` is not equal to it as a `numeric`."""
    name = f'"{column.name}"' if column.name in _SQL_WORDS.split() else column.name
    null = name
    for each in column.placeholders:
        number = number_text(each.number)
        literal = number if each.number.is_integer() else f"'{number}'"
        null = f"NULLIF({null}, {literal})"
    return f"{null} AS {name}"


def _nullif(column: ColumnFacts) -> str:
    """Return the expression that is a column without its numbers."""
    plain = columns_of(f"nullif({column.name}, 1)") == [column.name]
    text = column.name if plain else f'"{column.name}"'
    for each in column.placeholders:
        text = f"nullif({text}, {number_text(each.number)})"
    return text


def _told(name: str, s: Survey) -> str:
    """Return a free name for a column without its numbers."""
    taken, free, again = {column.name for column in s.columns}, f"{name[:34]}_told", 1
    while free in taken:
        again += 1
        free = f"{name[:32]}_told_{again}"
    return free


def _named(columns: Sequence[str]) -> str:
    """Return some of the columns, and how many more there are."""
    more = len(columns) - _SHOWN
    return ", ".join(columns[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
