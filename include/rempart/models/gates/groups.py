"""Split held-out rows into subgroups and bands, and measure each. Pure.

A subgroup has a name that anybody may read: values that a pipeline file lists, booleans, or calendar parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rempart.models.explanations.figures import LEAST_GROUP, LEAST_POINT
from rempart.models.gates.candidate_figures import Band, Subgroup
from rempart.models.gates.measures import Measures, bands
from rempart.models.metrics import group_column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Codes = np.ndarray[Any, np.dtype[np.int64]]

OTHER, MISSING = "(not listed)", "(missing)"


def subgroups(
    table: pa.Table,
    columns: Sequence[str],
    intersections: int,
    min_rows: int,
    listed: Mapping[str, Sequence[str]],
    measured: tuple[Measures, str],
    truth: Floats,
    predicted: Floats,
) -> tuple[Subgroup, ...]:
    """Return the subgroups by each column, and by each combination of up to `intersections` columns.

    For each set of columns every row is in at most one subgroup. `listed`: values of the columns that list them.
    `measured`: how, and the metric; it is None of a subgroup with fewer than `min_rows` rows. One with fewer than
    LEAST_GROUP rows is left out, unless `min_rows` asks for it: evidence never tells that a rare person exists. Raises
    KeyError if the table lacks a column.
    """
    coded = {column: _codes(table, column, listed.get(column)) for column in columns}
    measures, metric = measured
    found, least = [], min(min_rows, LEAST_GROUP)
    for size in range(1, intersections + 1):
        for chosen in combinations(columns, size):
            for values, rows in _partition([coded[column] for column in chosen]):
                if len(rows) < least:
                    continue
                value = measures.value(metric, truth[rows], predicted[rows]) if len(rows) >= min_rows else None
                found.append(Subgroup(chosen, values, len(rows), value))
    return tuple(found)


def _codes(table: pa.Table, column: str, listed: Sequence[str] | None) -> tuple[Codes, Sequence[str]]:
    """Return the number of each row's value, and the values' names."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = group_column(table, column).cast(pa.string())
    names = list(listed) if listed is not None else sorted(pc.unique(texts.drop_null()).to_pylist())
    places = pc.index_in(texts, value_set=pa.array(names, pa.string())).fill_null(len(names))
    codes = np.where(texts.is_null().to_numpy(), len(names) + 1, places.to_numpy())
    return np.asarray(codes, np.int64), (*names, OTHER, MISSING)


def _partition(coded: Sequence[tuple[Codes, Sequence[str]]]) -> Iterator[tuple[tuple[str, ...], Codes]]:
    """Yield the values of each combination that occurs, and its rows."""
    import numpy as np

    shape = [len(names) for _, names in coded]
    combined = np.ravel_multi_index([codes for codes, _ in coded], shape)
    order = np.argsort(combined, kind="stable")
    present, starts = np.unique(combined[order], return_index=True)
    for number, rows in zip(present, np.split(order, starts[1:]), strict=True):
        places = np.unravel_index(number, shape)
        yield tuple(names[place] for (_, names), place in zip(coded, places, strict=True)), rows


def calibration(measures: Measures, classes: Sequence[str], truth: Floats, predicted: Floats) -> tuple[Band, ...]:
    """Return the bands of each class that is looked for; none if a chance is no finite number.

    A band of fewer than LEAST_POINT rows is not told: its share would be the outcome of single rows.
    """
    import numpy as np

    if not np.isfinite(predicted).all() or not len(truth):
        return ()
    found = []
    for each in measures.looked_for():
        chance = predicted[:, each]
        band = bands(chance)
        rows = np.bincount(band)
        chances, came_true = np.bincount(band, weights=chance), np.bincount(band, weights=truth == each)
        found += [
            Band(classes[each], int(n), float(c / n), float(share / n))
            for n, c, share in zip(rows, chances, came_true, strict=True)
            if n >= LEAST_POINT
        ]
    return tuple(found)
