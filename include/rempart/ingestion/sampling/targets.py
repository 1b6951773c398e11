"""Choose the column that a drafted pipeline predicts, and by which groups a guess without a model is good."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rempart.errors import PipelineError
from rempart.ingestion.parsing import recognise
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.ingestion.sampling.leaks import cell_numbers, value_codes
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_NUMBERS = ("number", "decimal", "integer")
_FEWEST = 20
"""Rows to learn from, and rows to measure on, without which no grouping is preferred: chance would choose."""
_MOST, _GAIN = 2, 0.05
"""Columns that group rows at most, and the share of the error that each takes away at least."""
_CALENDAR: Mapping[str, str] = {"month": "%m", "day_of_week": "%u"}
"""Parts of the row's day that may group rows, as formats of `date.strftime`."""


def likeliest_target(source: str, columns: Sequence[ColumnFacts], key: Collection[str]) -> ColumnFacts:
    """Return the last column if it is a class, else the last number, else the last class. Pure.

    Raises PipelineError if no column can be predicted.
    """
    free = [c for c in columns if c.name not in key]
    numbers = [c for c in free if c.type in ("number", "decimal")] or [c for c in free if c.type == "integer"]
    classes = [c for c in free if _is_class(c)]
    if classes and classes[-1] is columns[-1]:
        return classes[-1]
    if not numbers and not classes:
        raise PipelineError(
            f"draft a pipeline from {source}: it has no column of numbers or of a closed list of values to predict",
            "Add the column that the model shall predict.",
        )
    return (numbers or classes)[-1]


def chosen_target(source: str, columns: Sequence[ColumnFacts], key: Collection[str], name: str) -> ColumnFacts:
    """Return the column of this name. Pure. Raises PipelineError if it is absent, in the key, or not predictable."""
    what = f"draft a pipeline from {source} with the target '{name}'"
    usable = [c.name for c in columns if c.name not in key and (c.type in _NUMBERS or _is_class(c))]
    found = next((c for c in columns if c.name == name), None)
    close = get_close_matches(name, usable, n=1)
    hint = f"Did you mean `--target {close[0]}`?" if close else f"Pass one of: {', '.join(usable) or '(none)'}."
    if found is None:
        raise PipelineError(f"{what}: there is no such column", hint)
    if name in key:
        raise PipelineError(f"{what}: the column is part of the key", hint)
    if name not in usable:
        raise PipelineError(f"{what}: its type is {found.type}, and a model predicts a number or a closed list", hint)
    return found


def _is_class(column: ColumnFacts) -> bool:
    return column.type == "boolean" or (column.type == "category" and len(column.values) > 1)


def naive_groups(
    groups: Sequence[str],
    time: str,
    target: ColumnFacts,
    table: pa.Table,
    dialect: Dialect,
    held_out: tuple[date, date],
) -> tuple[str, ...] | None:
    """Return by which one or two of `groups` and of the calendar parts of `time` a guess without a model is best: by
    none if one guess for all rows is. None if too few rows tell. Pure.

    The guess is the mean, or the shares of the classes, of the group's rows before `held_out`. It is measured on the
    rows of these days, first and last included: by the mean absolute error, or the log loss.
    """
    import numpy as np

    days = [recognise.day(text or "", dialect) for text in table[time].to_pylist()]
    wanted, known = _wanted(target, table[target.name], dialect)
    learnt = known & np.array([day is not None and day < held_out[0] for day in days])
    held = known & np.array([day is not None and held_out[0] <= day <= held_out[1] for day in days])
    if min(int(learnt.sum()), int(held.sum())) < _FEWEST:
        return None
    keys = {name: value_codes(table[name]) for name in groups} | dict(_calendar(time, days))
    chosen, codes = list[str](), np.zeros(len(days), int)
    least = _loss(codes, wanted, learnt, held, target.type in _NUMBERS)
    while keys and len(chosen) < _MOST:
        split = {name: codes * (int(key.max()) + 1) + key for name, key in keys.items()}
        loss = {name: _loss(each, wanted, learnt, held, target.type in _NUMBERS) for name, each in split.items()}
        best = min(loss, key=lambda name: loss[name])
        if loss[best] > (1 - _GAIN) * least or loss[best] == least:
            break
        chosen, codes, least = [*chosen, best], split[best], loss[best]
        del keys[best]
    return tuple(chosen)


def _calendar(time: str, days: Sequence[date | None]) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    for part, form in _CALENDAR.items():
        yield f"{time}.{part}", np.array([0 if day is None else int(day.strftime(form)) for day in days])


def _wanted(target: ColumnFacts, cells: pa.ChunkedArray, dialect: Dialect) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the target [rows, 1], or a column of 0 and 1 for each class, and which rows have one."""
    import numpy as np

    if target.type not in _NUMBERS:
        codes = value_codes(cells)
        return np.eye(int(codes.max(initial=0)) + 1)[codes], cells.is_valid().to_numpy()
    values = cell_numbers(cells, dialect)
    known = np.isfinite(values)
    scale = max(
        float(np.abs(values[known]).max(initial=0)), np.finfo(float).tiny
    )  # the sum of large numbers is no float
    return np.where(known, values / scale, 0)[:, None], known


def _loss(codes: np.ndarray, wanted: np.ndarray, learnt: np.ndarray, held: np.ndarray, numeric: bool) -> float:
    """Return the error of each group's guess on the held rows, learnt from others; a new group gets that of all."""
    import numpy as np

    extra = 0.0 if numeric else 1.0  # one row more of each class: no class has a chance of 0
    of_all = (wanted[learnt].sum(axis=0) + extra) / (learnt.sum() + extra * wanted.shape[1])
    counts = np.bincount(codes[learnt], minlength=int(codes.max()) + 1)
    sums = np.stack([np.bincount(codes[learnt], column[learnt], len(counts)) for column in wanted.T], axis=1)
    seen = np.maximum(counts, 1)[:, None] + extra * wanted.shape[1]
    guess = np.where(counts[:, None] > 0, (sums + extra) / seen, of_all)[codes[held]]
    if numeric:
        return float(np.abs(guess - wanted[held]).mean())
    return float(-np.log((guess * wanted[held]).sum(axis=1)).mean())
