"""Sort rows into those that a model can predict and those that it cannot, with reasons. Pure, without Python by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rempart.models.encoding import Feature, unknown
from rempart.models.inputs import Input

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN = "holds a value that the model does not know"
"""A reason against rows whose remedy is a new training: the champion never saw the value of a column or feature."""


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
    import pyarrow.compute as pc

    wrong, reasons = _joined([*_faults(inputs, needed, rows), *_by_reason(beyond, rows.num_rows)], rows.num_rows)
    return rows.filter(pc.invert(wrong)), rows.filter(wrong), reasons


def judge_features(features: Sequence[Feature], made: pa.Table) -> tuple[pa.BooleanArray, pa.Array]:
    """Return for each row whether the model does not know a value of its features, and the reasons of each such row.

    A feature may have such a value although no column of the row has one: those of trailing views are of other rows.
    """
    faults = [(outside, f"feature '{name}' {UNKNOWN}") for name, outside in unknown(features, made).items()]
    return _joined(faults, made.num_rows)


def _joined(every: Sequence[tuple[pa.Array, str]], rows: int) -> tuple[pa.BooleanArray, pa.Array]:
    """Return which rows have a fault, and the reasons of each of these as one text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    faults = [(mask, reason) for mask, reason in every if pc.any(mask).as_py()]
    wrong = pa.repeat(pa.scalar(False), rows)
    for mask, _ in faults:
        wrong = pc.or_(wrong, mask)
    texts = [pc.if_else(mask.filter(wrong), reason, pa.scalar(None, pa.string())) for mask, reason in faults]
    if not texts:
        return wrong, pa.array([], pa.string())
    return wrong, pc.binary_join_element_wise(*texts, "; ", null_handling="skip")


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
            yield outside, f"column '{each.name}' {UNKNOWN}"


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
