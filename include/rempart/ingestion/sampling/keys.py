"""Find the columns that identify a row of a sample."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rempart.ingestion.parsing.recognise import few
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.settings.columns import ColumnType

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS: tuple[ColumnType, ...] = ("integer", "string", "date", "timestamp", "category")
_TIMES = ("date", "timestamp")
_PREDICTED = ("integer", "number", "decimal", "boolean", "category")
_IDENTIFIER = re.compile(r"((?<!pa)id|nr|no|number|nummer|key|code)\Z")

QUARANTINED = "such rows go to quarantine"
"""What happens to rows that break a key, unless `on_conflict` keeps the later one."""


@dataclass(frozen=True)
class Key:
    """Columns that identify a row. `certain`: they do in all rows of the sample but those that `note` tells."""

    columns: tuple[str, ...]
    certain: bool = True
    note: str = ""


@dataclass(frozen=True)
class _Nearly:
    """A column that identifies all rows but a few. `repeated`: rows with a value that an earlier row has."""

    name: str
    empty: int
    repeated: int

    @property
    def refused(self) -> int:
        return self.empty + self.repeated

    @property
    def note(self) -> str:
        told = [_cells(self.empty)] if self.empty else []
        if self.repeated:
            rows = "row repeats" if self.repeated == 1 else "rows repeat"
            told.append(f"{self.repeated:,} {rows} the key of an earlier row")
        return f"{self.name}: {' and '.join(told)}; {QUARANTINED}"


def likeliest_key(columns: Sequence[ColumnFacts], table: pa.Table, target: str | None = None) -> Key:
    """Return the likeliest key. Pure.

    In this order: a unique identifier by its name; an identifier or first column with few empty or repeated values; any
    other unique column; two or three columns that are unique together. `target`: the column that a person chose to
    predict, which is no key unless its name is that of an identifier.
    """
    usable = [c for c in columns if c.type in _KEYS and (c.name != target or _IDENTIFIER.search(c.name))]
    alone = [c for c in usable if c.unique]
    named = [c for c in alone if "id" in c.name.split("_")] or [c for c in alone if _IDENTIFIER.search(c.name)]
    if named:
        return Key((named[0].name,))
    if nearly := _nearly(columns, usable, table):
        return Key((nearly.name,), note=nearly.note)
    if alone:
        return Key((alone[0].name,))
    parts = [c for c in columns if c.type in (*_KEYS, "boolean")]
    if found := _together([c.name for c in parts if not c.nullable], table):
        return Key(found)
    empty = {c.name: count for c in parts if few(count := table[c.name].null_count, table.num_rows)}
    if found := _together(list(empty), table):
        told = [f"{name}: {_cells(empty[name])}" for name in found if empty[name]]
        return Key(found, note=f"{', '.join(told)}; {QUARANTINED}")
    return Key(((usable or columns)[0].name,), certain=False)


def _cells(empty: int) -> str:
    return f"{empty:,} {'cell is' if empty == 1 else 'cells are'} empty"


def _nearly(columns: Sequence[ColumnFacts], usable: Sequence[ColumnFacts], table: pa.Table) -> _Nearly | None:
    """Return the column that identifies most rows, if all but a few: by its name, else the first one."""
    import pyarrow.compute as pc

    found = []
    for column in usable:
        first = column is columns[0] and any(c.type in _PREDICTED for c in columns[1:])  # else nothing to predict
        if column.type in _TIMES or column.unique or not (first or _IDENTIFIER.search(column.name)):
            continue
        present = table[column.name].drop_null()
        repeated = len(present) - pc.count_distinct(present).as_py()
        nearly = _Nearly(column.name, table[column.name].null_count, repeated)
        if few(nearly.refused, table.num_rows):
            found.append(nearly)
    return min(found, key=lambda n: (not _IDENTIFIER.search(n.name), n.refused), default=None)


def _together(names: Sequence[str], table: pa.Table) -> tuple[str, ...] | None:
    """Return two or three columns that are unique together where none of them is empty, of all but a few rows."""
    names = names[:12]
    sizes: Mapping[str, int] = {name: len(table[name].unique()) for name in names}
    for size in (2, 3):
        for group in combinations(names, size):
            if math.prod(sizes[name] for name in group) < table.num_rows:
                continue
            rows = table.select(list(group)).drop_null()
            if not few(table.num_rows - rows.num_rows, table.num_rows):
                continue
            if rows.group_by(list(group)).aggregate([]).num_rows == rows.num_rows:
                return group
    return None
