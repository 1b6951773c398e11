"""Order moments as the dates of a sample show it, and find rows that break the order that a pipeline declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rempart.ingestion.sampling.orders import Order
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Disorder:
    """Two moments of which `then` is declared after `first`, but lies before it in `broken` of the `rows` with both."""

    first: str
    then: str
    rows: int
    broken: int


def disorders(pipeline: Pipeline, rows: pa.Table) -> tuple[Disorder, ...]:
    """Return the pairs of a pipeline's moments that some rows have in another order.

    Only moments that are a column as it is are compared, and only with those of the same type: a date says nothing of
    the hours of its day.
    """
    plain = {
        name: moment.column
        for name, moment in pipeline.moments.items()
        if set(moment.model_dump(exclude_unset=True)) == {"column"} and moment.column in rows.column_names
    }
    return tuple(_disorders(plain, rows))


def _disorders(columns: Mapping[str, str], rows: pa.Table) -> Iterator[Disorder]:
    import pyarrow.compute as pc

    for first, then in combinations(columns, 2):
        a, b = rows.column(columns[first]), rows.column(columns[then])
        if a.type != b.type:
            continue
        is_broken = pc.less(b, a)
        if broken := int(pc.sum(is_broken).as_py() or 0):
            yield Disorder(first, then, len(is_broken) - is_broken.null_count, broken)


def in_order(event: str, others: Sequence[str], orders: Sequence[Order], earlier: Sequence[str]) -> tuple[str, ...]:
    """Return the column of the row's time and the other dates as the data order them. Pure.

    Dates before the row's time stand before it, and those that nothing orders keep their place after it. `earlier`:
    columns that are never later than the row's time.
    """
    pairs = {(order.first, order.then) for order in orders} | {(name, event) for name in earlier}
    before, grown = {event}, True
    while grown:
        more = {first for first, then in pairs if then in before} - before
        before, grown = before | more, bool(more)
    names = [*(name for name in others if name in before), event, *(name for name in others if name not in before)]
    found = list[str]()
    while names:
        left = set(names)
        free = [
            name for name in names if not any(then == name and first in left for first, then in pairs - {(name, name)})
        ]
        names.remove(taken := (free or names)[0])
        found.append(taken)
    return tuple(found)
