"""Judge the typed rows of deliveries. Their files stay: refused rows are left out of them by their lines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow
from rempart.ingestion.engine.deliveries import ERASED, StagedDelivery, too_long
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.engine.staging import Judge
from rempart.ingestion.refused import REASONS, RefusedRows

_ROWS = 50_000
"""Rows that are judged together."""
_BYTES = 64 << 20
"""Bytes of rows beyond which fewer are judged together."""


def judged(
    deliveries: Sequence[StagedDelivery],
    judge: Judge,
    limits: Limits,
    folder: Path,
    struck: Sequence[Collection[int]] | None = None,
    *,
    columns: Sequence[str] | None = None,
) -> list[StagedDelivery]:
    """Judge the typed rows of deliveries. Their files stay; the lines of refused rows are in `folder`.

    `struck`: for each delivery the lines of erased rows; these are refused, without their text. `columns`: those that
    `judge` reads; by default all. Small deliveries are judged together: each call of the expectations has its own cost.
    Raises what `judge` raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    found = [
        _JudgedDelivery(delivery, folder / f"{i:06d}", limits, frozenset(struck[i]) if struck else frozenset())
        for i, delivery in enumerate(deliveries)
    ]
    waiting, done = list[tuple[int, _Batch]](), list[StagedDelivery]()

    def judge_waiting(upto: int) -> None:
        """Judge the waiting rows, and end the deliveries before `upto`: all their rows are judged."""
        if waiting:
            against = judge(pa.concat_tables([batch.rows for _, batch in waiting]))
            places, start = sorted(against), 0
            for i, batch in waiting:
                end = start + batch.rows.num_rows
                here = places[bisect_left(places, start) : bisect_left(places, end)]
                found[i].add(batch, {place - start: against[place] for place in here})
                start = end
            waiting.clear()
        done.extend(found[i].done() for i in range(len(done), upto))

    read = None if columns is None else [*columns, LINE]
    rows = size = 0
    for i, delivery in enumerate(deliveries):
        if delivery.fault:
            continue
        with pq.ParquetFile(delivery.file) as source:
            for group in range(source.num_row_groups):  # staged with a limit of bytes: a batch spans no two of them
                first = 0
                for some in source.iter_batches(_ROWS, row_groups=[group], columns=read):
                    batch = found[i].without_gone(_Batch(group, first, pa.Table.from_batches([some])))
                    waiting.append((i, batch))
                    first, rows, size = first + some.num_rows, rows + batch.rows.num_rows, size + batch.rows.nbytes
                    if rows >= _ROWS or size >= _BYTES:
                        judge_waiting(i)
                        rows = size = 0
    judge_waiting(len(found))
    return done


def without(delivery: StagedDelivery, lines: Collection[int], folder: Path) -> StagedDelivery:
    """Return a delivery without the rows on some lines, which count as never delivered. `folder` takes their lines."""
    import pyarrow.compute as pc

    if not lines or delivery.fault:
        return delivery
    (found,) = judged([delivery], lambda table: {}, Limits(), folder, [lines], columns=())
    if found.fault:
        return found
    left = pc.not_equal(pc.list_element(found.refused.table[REASONS], 0), ERASED)
    return replace(found, refused=RefusedRows(found.refused.table.filter(left)))


@dataclass(frozen=True)
class _Batch:
    """Some rows of a row group: those from `first` on, or of these the ones at `places`."""

    group: int
    first: int
    rows: Any
    places: Any = None

    def in_group(self, positions: Sequence[int]) -> Any:
        """Return where some rows of this batch are in the row group."""
        import numpy as np

        here = np.asarray(positions, np.int64)
        return self.first + (here if self.places is None else self.places[here])


class _JudgedDelivery:
    """Collects the refused rows of one delivery that is judged. `file` takes their lines."""

    def __init__(self, before: StagedDelivery, file: Path, limits: Limits, struck: frozenset[int]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self._file, self._limits, self._struck = file, limits, pa.array(sorted(struck), pa.int64())
        self._left_out = list(pq.read_table(before.left_out)[LINE].chunks) if before.left_out else []
        self._gone = pa.concat_arrays([self._struck, *self._left_out])
        self._delivery = before if before.fault else replace(before, good=0, judged=0)
        if struck and not before.fault:
            table = before.refused.table
            gone = pc.is_in(table[LINE], value_set=self._struck)
            kept = RefusedRows(table.filter(pc.invert(gone)))
            self._delivery = replace(self._delivery, refused=kept)
            self._refuse(RefusedRow(line, (ERASED,), "") for line in table[LINE].filter(gone).to_pylist())

    def without_gone(self, batch: _Batch) -> _Batch:
        """Return the rows of a batch that are not left out so far. Erased ones are refused without their text."""
        import numpy as np
        import pyarrow.compute as pc

        if not len(self._gone):
            return batch
        lines = batch.rows[LINE]
        erased = lines.filter(pc.is_in(lines, value_set=self._struck)).combine_chunks()
        self._refuse(RefusedRow(line, (ERASED,), "") for line in erased.to_pylist())
        self._left_out.append(erased)
        kept = pc.invert(pc.is_in(lines, value_set=self._gone))
        return _Batch(batch.group, batch.first, batch.rows.filter(kept), np.flatnonzero(kept.to_numpy()))

    def add(self, batch: _Batch, against: Mapping[int, Sequence[str]]) -> None:
        """Take judged rows. `against`: the reasons against some of them, by position."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._delivery.fault:
            return
        if against:
            places = sorted(against)
            here, lines = pa.array(batch.in_group(places)), batch.rows[LINE].take(pa.array(places)).combine_chunks()
            with pq.ParquetFile(self._delivery.file) as source:
                rows = source.read_row_group(batch.group, [RAW]).take(here)
                if rows[RAW].null_count:  # a format without text: its values tell
                    rows = source.read_row_group(batch.group).take(here)
            self._refuse(
                RefusedRow(line, tuple(against[place]), staging.raw_text(row))
                for place, line, row in zip(places, lines.to_pylist(), rows.to_pylist(), strict=True)
            )
            self._left_out.append(lines)
        if fault := _beyond(self._delivery.refused, self._limits):
            self._delivery = StagedDelivery(self._delivery.file, fault=fault)
            return
        judged = self._delivery.judged + batch.rows.num_rows
        good = self._delivery.good + batch.rows.num_rows - len(against)
        self._delivery = replace(self._delivery, good=good, judged=judged)

    def done(self) -> StagedDelivery:
        """Return the delivery. Its refused rows are left out of its file, and many of them are on disk."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._delivery.fault or not any(map(len, self._left_out)):
            return self._delivery
        refused = self._delivery.refused.spilled(self._file.with_name(f"{self._file.name}.refused"))
        self._delivery = replace(self._delivery, refused=refused)
        pq.write_table(pa.table({LINE: pa.chunked_array(self._left_out, pa.int64())}), self._file)
        return replace(self._delivery, left_out=self._file)

    def _refuse(self, rows: Iterable[RefusedRow]) -> None:
        self._delivery = replace(self._delivery, refused=self._delivery.refused.plus(rows))


def _beyond(refused: RefusedRows, limits: Limits) -> str | None:
    if len(refused) > limits.refused:
        return f"more than {limits.refused} rows have a fault, for example: {refused[0].reasons[0]}"
    if refused.text_bytes > limits.refused_text:
        return too_long(limits)
    return None
