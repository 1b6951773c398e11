"""Type and judge the rows of one delivery batch by batch; good rows wait on disk for the check of their keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.ingestion import cells
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow, TextRows
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.parsing import moments
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

Judge = Callable[[Any], Mapping[int, Sequence[str]]]
"""Returns the reasons against rows of a typed table by position, such as `expectations.broken`."""
_ROWS = 50_000
"""Rows that are judged together."""
_TEXTS = ("string", "category")
"""Types that a staged file holds by a dictionary; finding equal numbers costs more than it saves."""
_BYTES = 16 << 20
"""Bytes of rows beyond which fewer are typed and written together."""


@dataclass
class Staged:
    """One delivery after its rows were judged one by one.

    `file`: Parquet of the good rows (the schema's columns, `LINE`, `RAW`). `refused`: the others, in order of lines.
    `judged`: rows that the expectations saw. A delivery with a `fault` is refused as a whole and has no rows.
    """

    file: Path
    good: int = 0
    judged: int = 0
    refused: list[RefusedRow] = field(default_factory=list)
    fault: str | None = None

    @property
    def delivered(self) -> int:
        return self.good + len(self.refused)


def stage(batches: Iterable[TextRows], pipeline: Pipeline, file: Path, limits: Limits, judge: Judge) -> Staged:
    """Type and judge the rows of a delivery, and write the good ones to `file`."""
    import pyarrow.parquet as pq

    staged, text = Staged(file), 0
    try:
        with pq.ParquetWriter(
            file,
            staged_schema(pipeline),
            compression="lz4",
            use_dictionary=[name for name, column in pipeline.columns.items() if column.type in _TEXTS],
            write_statistics=False,
        ) as writer:
            for batch in _gathered(batches):
                before = len(staged.refused)
                staged.refused += batch.refused
                writer.write_table(_good(batch.table, pipeline, staged, limits, judge))
                text += sum(len(row.raw.encode()) for row in staged.refused[before:])
                _check(staged, text, limits)
    except Unreadable as fault:
        file.unlink(missing_ok=True)
        return Staged(file, fault=str(fault))
    staged.refused.sort(key=lambda row: row.line)
    return staged


def staged_schema(pipeline: Pipeline) -> pa.Schema:
    """Return the columns of a staged file."""
    import pyarrow as pa

    schema = arrow_schema(snapshot_columns(pipeline))
    return schema.append(pa.field(LINE, pa.int64())).append(pa.field(RAW, pa.string()))


def _gathered(batches: Iterable[TextRows]) -> Iterator[TextRows]:
    """Join small batches whose columns have the same types: each call of the expectations has its own cost."""

    alike: dict[tuple[str, ...], list[pa.Table]] = {}
    refused: list[RefusedRow] = []
    rows = size = 0
    for batch in batches:
        alike.setdefault(tuple(map(str, batch.table.schema.types)), []).append(batch.table)
        refused += batch.refused
        rows, size = rows + batch.table.num_rows, size + batch.table.nbytes
        if rows + len(refused) >= _ROWS or size >= _BYTES:
            yield from _joined(alike, refused)
            alike, refused, rows, size = {}, [], 0, 0
    yield from _joined(alike, refused)


def _joined(alike: Mapping[tuple[str, ...], Sequence[pa.Table]], refused: list[RefusedRow]) -> Iterator[TextRows]:
    import pyarrow as pa

    for tables in alike.values():
        yield TextRows(pa.concat_tables(tables), refused)
        refused = []


def _good(text: pa.Table, pipeline: Pipeline, staged: Staged, limits: Limits, judge: Judge) -> pa.Table:
    """Return the good rows, typed; add the others to `staged`."""
    import numpy as np
    import pyarrow as pa

    try:
        typed, against = cells.convert(
            text,
            pipeline.columns,
            required={*pipeline.key, pipeline.partition_by},
            dialect=pipeline.source,
            most=limits.refused,
        )
    except cells.TooManyFaults as cause:
        raise _beyond(limits, str(cause)) from None
    against = {**moments.beyond(typed, pipeline), **against}
    good = np.ones(text.num_rows, bool)
    good[np.fromiter(against, np.int64, len(against))] = False
    places = np.flatnonzero(good)
    staged.judged += len(places)
    reasons: dict[int, Sequence[str]] = dict(against)
    candidates = typed if len(places) == text.num_rows else typed.take(pa.array(places))
    for index, broken in judge(candidates).items():
        reasons[int(places[index])] = broken
        good[places[index]] = False
    if len(staged.refused) + len(reasons) > limits.refused:
        raise _beyond(limits, next(iter(reasons.values()))[0])
    staged.refused += _refused(text, reasons)
    staged.good += int(good.sum())
    whole = typed.append_column(LINE, text[LINE]).append_column(RAW, text[RAW])
    kept = whole.filter(pa.array(good)) if reasons else whole
    return kept.cast(staged_schema(pipeline))


def _refused(text: pa.Table, reasons: Mapping[int, Sequence[str]]) -> Iterator[RefusedRow]:
    import pyarrow as pa

    places = sorted(reasons)
    rows = values(text.take(pa.array(places, pa.int64())))
    for place, row in zip(places, rows, strict=True):
        yield RefusedRow(row[LINE], tuple(reasons[place]), raw_text(row))


def values(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as Python's values; times are text where one is beyond Python's calendar."""
    import pyarrow as pa

    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError):
        kinds = [(f.name, pa.string() if pa.types.is_temporal(f.type) else f.type) for f in table.schema]
        rows = table.cast(pa.schema(kinds)).to_pylist()
    return rows


def raw_text(row: Mapping[str, Any]) -> str:
    """Return a row's text as received; of a format without text, its values as JSON."""
    if (raw := row[RAW]) is not None:
        return str(raw)
    values = {name: value for name, value in row.items() if name not in (LINE, RAW)}
    return json.dumps(values, ensure_ascii=False, default=str)


def _check(staged: Staged, text: int, limits: Limits) -> None:
    """Raise Unreadable if the refused rows are too many, or too long. `text`: bytes of their text."""
    if len(staged.refused) > limits.refused:
        raise _beyond(limits, staged.refused[-1].reasons[0])
    if text > limits.refused_text:
        raise _beyond(limits, "the faulty rows are too long to be stored one by one")


def _beyond(limits: Limits, example: str) -> Unreadable:
    return Unreadable(f"more than {limits.refused} rows have a fault, for example: {example}")
