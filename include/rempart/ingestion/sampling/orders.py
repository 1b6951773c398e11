"""Find dates of a sample of which one is never before another, in all rows but a few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart.ingestion.parsing import instants, recognise
from rempart.ingestion.parsing.recognise import few
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_LEAST = 20
"""Rows with two different dates from which their order tells anything."""
_MOST = 40
"""Columns of a kind that are compared, the first ones: their pairs grow with the square."""
_CLEARER = 10
"""So many times as many rows must keep an order as break it."""


@dataclass(frozen=True)
class Order:
    """Two dates, or two timestamps: `first` is not later than `then`, but in `broken` of the `rows` that have both."""

    first: str
    then: str
    rows: int
    broken: int


def orders(columns: Sequence[ColumnFacts], table: pa.Table, dialect: Dialect) -> tuple[Order, ...]:
    """Return the orders of the first dates, and timestamps, without those that follow from two others. Pure."""
    found = list[Order]()
    for kind in ("date", "timestamp"):
        some = [c.name for c in columns if c.type == kind][:_MOST]
        moments = {name: _moments(table[name], kind, dialect) for name in some}
        kept = [_order(a, b, moments) for a in moments for b in moments if a != b]
        pairs = {(order.first, order.then): order for order in kept if order}
        between = {(a, c) for a, b in pairs for other, c in pairs if other == b}
        found += [order for pair, order in pairs.items() if pair not in between]
    return tuple(sorted(found, key=lambda order: (order.first, order.then)))


def _order(first: str, then: str, moments: dict[str, np.ndarray[Any, np.dtype[np.float64]]]) -> Order | None:
    import numpy as np

    a, b = moments[first], moments[then]
    rows, broken, kept = (int(np.count_nonzero(found)) for found in (~np.isnan(a + b), a > b, a < b))
    clear = kept >= max(_LEAST, _CLEARER * broken) and few(broken, rows)
    return Order(first, then, rows, broken) if clear else None


def _moments(cells: pa.ChunkedArray, kind: str, dialect: Dialect) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each cell as a number that grows with time; not a number for one that is empty or no time."""
    import numpy as np
    import pyarrow as pa

    encoded = pa.array(cells.to_pylist(), pa.string()).dictionary_encode()
    of_text = np.array([*(_moment(text, kind, dialect) for text in encoded.dictionary.to_pylist()), math.nan])
    places = encoded.indices.fill_null(len(of_text) - 1)
    found: np.ndarray[Any, np.dtype[np.float64]] = of_text[places.to_numpy(zero_copy_only=False)]
    return found


def _moment(text: str, kind: str, dialect: Dialect) -> float:
    if kind == "date":
        day = recognise.day(text, dialect)
        return float(day.toordinal()) if day else math.nan
    instant = instants.instant(text, dialect)
    return instant.timestamp() if isinstance(instant, datetime) else math.nan
