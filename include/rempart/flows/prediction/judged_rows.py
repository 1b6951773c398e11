"""Sort rows into those that a model can predict and those that it cannot, with reasons. Pure, without Python by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rempart.models.inputs import Input

if TYPE_CHECKING:
    import pyarrow as pa


def judge(
    inputs: Sequence[Input],
    needed: Collection[str],
    rows: pa.Table,
    beyond: Mapping[int, Sequence[str]] = MappingProxyType({}),
) -> tuple[pa.Table, pa.Table, pa.Array]:
    """Return the rows that can be predicted, the others, and the reasons of each of these, without a value of it.

    `needed`: columns that must not be null besides the inputs that are not nullable: those of the moment.
    `beyond`: further reasons against rows, by position, as of `ingestion.parsing.moments`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    every = [*_faults(inputs, needed, rows), *_by_reason(beyond, rows.num_rows)]
    faults = [(mask, reason) for mask, reason in every if pc.any(mask).as_py()]
    if not faults:
        return rows, rows.slice(0, 0), pa.array([], pa.string())
    wrong = faults[0][0]
    for mask, _ in faults[1:]:
        wrong = pc.or_(wrong, mask)
    texts = [pc.if_else(mask.filter(wrong), reason, pa.scalar(None, pa.string())) for mask, reason in faults]
    reasons = pc.binary_join_element_wise(*texts, "; ", null_handling="skip")
    return rows.filter(pc.invert(wrong)), rows.filter(wrong), reasons


def _faults(inputs: Sequence[Input], needed: Collection[str], rows: pa.Table) -> Iterator[tuple[pa.Array, str]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    required = dict.fromkeys([*(each.name for each in inputs if not each.nullable), *needed])
    for name in required:
        yield rows[name].combine_chunks().is_null(), f"column '{name}' is empty"
    for each in inputs:
        cells = rows[each.name].combine_chunks()
        if pa.types.is_floating(cells.type):
            yield pc.invert(pc.is_finite(cells)).fill_null(False), f"column '{each.name}' is NaN or infinite"
        if each.values:
            known = pc.is_in(cells, value_set=pa.array(each.values, pa.string()))
            outside = pc.and_(pc.invert(known), cells.is_valid())
            yield outside, f"column '{each.name}' holds a value that the model does not know"


def _by_reason(beyond: Mapping[int, Sequence[str]], rows: int) -> Iterator[tuple[pa.Array, str]]:
    import numpy as np
    import pyarrow as pa

    places: dict[str, list[int]] = {}
    for place, reasons in beyond.items():
        for reason in reasons:
            places.setdefault(reason, []).append(place)
    for reason, found in places.items():
        mask = np.zeros(rows, bool)
        mask[found] = True
        yield pa.array(mask), reason
