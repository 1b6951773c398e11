"""Which rows of deliveries are accepted, which are refused and why, and which deliveries are held back whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.ingestion import acceptance, cells, snapshots
from rempart.ingestion.reading import RefusedRow, Rows
from rempart.pipeline import Pipeline
from rempart.quality.expectations import broken

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Judged:
    """The rows to accept, in order of delivery. By delivery: the refused rows, how many rows were held against the
    expectations, and whether it is held back. accepted + refused = delivered."""

    accepted: pa.Table
    refused: Sequence[Sequence[RefusedRow]]
    judged: Sequence[int]
    held: frozenset[int] = frozenset()


def judge_within_limit(pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]) -> Judged:
    """As `judge`; when more rows were refused than `max_quarantined` allows, the deliveries at fault are held back.

    No row of a delivery that is held back is accepted: the good ones wait in quarantine until a person has looked.
    """
    found = judge(pipeline, current, read)
    counts = [(rows.delivered, len(refused)) for rows, refused in zip(read, found.refused, strict=True)]
    held = acceptance.held_back(counts, pipeline.max_quarantined)
    if not held:
        return found
    others = [number for number in range(len(read)) if number not in held]
    # judged anew: a row may have been refused as the duplicate of one that is held back now
    left = judge(pipeline, current, [read[number] for number in others])
    refused, judged = list(found.refused), list(found.judged)
    for number in held:
        refused[number] = hold(read[number], found.refused[number])
    for number, against, count in zip(others, left.refused, left.judged, strict=True):
        refused[number], judged[number] = against, count
    return Judged(left.accepted, refused, judged, held)


def hold(rows: Rows, refused: Sequence[RefusedRow]) -> list[RefusedRow]:
    """All rows of a delivery as refused: those that were, for their reasons, and the others as held back."""
    lines = {one.line for one in refused}
    good = zip(rows.lines, rows.raw, strict=True)
    return [*refused, *(RefusedRow(line, (acceptance.HELD,), raw) for line, raw in good if line not in lines)]


def judge(pipeline: Pipeline, current: pa.Table | None, read: Sequence[Rows]) -> Judged:
    """Judge each row by itself: it must be typed, then meet every expectation, then be the first of its key."""
    import pyarrow as pa

    columns = snapshots.snapshot_columns(pipeline)
    owners = [(number, i) for number, rows in enumerate(read) for i in range(len(rows.cells))]
    typed, against = cells.convert(
        [row for rows in read for row in rows.cells],
        pipeline.columns,
        required={*pipeline.key, pipeline.partition_by},
        null_values=pipeline.source.null_values,
    )
    well_typed = [row for row in range(typed.num_rows) if row not in against]
    judged = [0] * len(read)
    for row in well_typed:
        judged[owners[row][0]] += 1
    valid = typed.take(pa.array(well_typed, pa.int64()))
    for row, reasons in broken(pipeline.expectations, valid).items():
        against[well_typed[row]] = reasons
    good = [row for row in well_typed if row not in against]
    candidates = typed.take(pa.array(good, pa.int64())).cast(snapshots.arrow_schema(columns))
    first, repeated = acceptance.judge_keys(current, candidates, pipeline.key)
    for row, reason in repeated.items():
        against[good[row]] = [reason]
    refused = [list(rows.refused) for rows in read]
    for row, reasons in against.items():
        number, i = owners[row]
        source = read[number]
        refused[number].append(RefusedRow(source.lines[i], tuple(reasons), source.raw[i]))
    return Judged(candidates.take(pa.array(first, pa.int64())), refused, judged)
