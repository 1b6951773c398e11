"""Columns that alone almost determine the target: often an outcome that is known no earlier than the target itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rempart.ingestion.parsing.numbers import number
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.settings.columns import NUMERIC
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_ALMOST = 0.95
"""Rank correlation, or share of the wrong guesses that a column avoids, above which it almost determines the target."""
_FEWEST = 20
"""Rows without which nothing is told: chance would do."""
_EACH = 5
"""Rows that a value or a class has on average, at least."""
_LISTS = ("category", "boolean", "integer")
"""Types whose values may each stand for a class."""


def leaks(columns: Sequence[ColumnFacts], target: ColumnFacts, table: pa.Table, dialect: Dialect) -> frozenset[str]:
    """Return the names of columns that alone almost determine the target in the rows of a sample. Pure.

    A number does by its rank correlation (Spearman), and two values if almost each number of one is larger than each
    of the other. Of a class, each value of a column has almost one, or an empty cell tells it, or a number divides two
    classes.
    """
    import pyarrow.compute as pc

    rows = table.filter(pc.is_valid(table[target.name]))
    if rows.num_rows < _FEWEST:
        return frozenset()
    if target.type in NUMERIC:
        wanted = cell_numbers(rows[target.name], dialect)
        return frozenset(c.name for c in columns if _orders(c, rows[c.name], wanted, dialect))
    classes = value_codes(rows[target.name])
    return frozenset(c.name for c in columns if any(_tells(c, rows[c.name], classes, dialect)))


def _orders(column: ColumnFacts, cells: pa.ChunkedArray, wanted: np.ndarray, dialect: Dialect) -> bool:
    """Return whether the column has almost the target's order, or two values for its small and its large numbers."""
    import numpy as np

    if column.type in NUMERIC and _follows(cell_numbers(cells, dialect), wanted):
        return True
    known = cells.is_valid().to_numpy()
    codes = value_codes(cells)[known]
    return column.type in _LISTS and len(np.unique(codes)) == 2 and _separates(wanted[known], codes)


def _tells(column: ColumnFacts, cells: pa.ChunkedArray, classes: np.ndarray, dialect: Dialect) -> Iterator[bool]:
    """Yield for each way in which a column may determine the class whether it does."""
    import numpy as np

    yield _divides(cells.is_null().to_numpy().astype(np.int64), classes)
    if column.type in _LISTS:
        yield _divides(value_codes(cells), classes)
    if column.type in NUMERIC and len(np.unique(classes)) == 2:
        yield _separates(cell_numbers(cells, dialect), classes)


def value_codes(cells: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each distinct value; an empty cell is a value, too."""
    encoded = cells.combine_chunks().dictionary_encode(null_encoding="encode")
    codes: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False)
    return codes


def cell_numbers(cells: pa.ChunkedArray, dialect: Dialect) -> np.ndarray:
    """Return the numbers of a column of text; NaN for what is none."""
    import numpy as np

    encoded = cells.combine_chunks().dictionary_encode(null_encoding="encode")
    known = [None if text is None else number(text, dialect) for text in encoded.dictionary.to_pylist()]
    values = np.array([np.nan if value is None else value for value in known], dtype=float)
    cell_values: np.ndarray = values[encoded.indices.to_numpy(zero_copy_only=False)]
    return cell_values


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value; equal values share the mean of theirs."""
    import numpy as np

    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _follows(values: np.ndarray, target: np.ndarray) -> bool:
    """Return whether numbers and target have almost the same order, or the opposite."""
    import numpy as np

    both = ~(np.isnan(values) | np.isnan(target))
    values, target = values[both], target[both]
    if len(values) < _FEWEST or min(len(np.unique(values)), len(np.unique(target))) < _EACH:
        return False
    return bool(abs(np.corrcoef(_ranks(values), _ranks(target))[0, 1]) > _ALMOST)


def _divides(codes: np.ndarray, classes: np.ndarray) -> bool:
    """Return whether the commonest class of each value is wrong for almost no row that a constant guess gets wrong."""
    import numpy as np

    values, kinds = int(codes.max()) + 1, int(classes.max()) + 1
    if values * _EACH > len(codes):
        return False
    table = np.bincount(codes * kinds + classes, minlength=values * kinds).reshape(values, kinds)
    constant = len(codes) - int(np.max(table.sum(axis=0)))
    wrong = len(codes) - int(table.max(axis=1).sum())
    return constant >= _EACH and wrong <= (1 - _ALMOST) * constant


def _separates(values: np.ndarray, classes: np.ndarray) -> bool:
    """Return whether almost each number of one class is larger than each of the other (area under the ROC curve)."""
    import numpy as np

    known = ~np.isnan(values)
    values, first = values[known], classes[known] == classes.min()
    count, others = int(first.sum()), int((~first).sum())
    if min(count, others) < _EACH:
        return False
    larger = float(_ranks(values)[first].sum()) - count * (count + 1) / 2
    return abs(2 * larger / (count * others) - 1) > _ALMOST
