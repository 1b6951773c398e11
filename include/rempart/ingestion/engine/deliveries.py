"""Take deliveries in: read, judge, find the new rows, write their parts. Files in, files out; no site, no secret."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rempart.ingestion.acceptance import HELD, held_back
from rempart.ingestion.engine import csv_rows, json_rows, keys, parquet_rows, parts, staging
from rempart.ingestion.engine.batches import LINE, RefusedRow, TextRows
from rempart.ingestion.engine.database import batches, opened, parquet
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.engine.staging import Judge, Staged
from rempart.ingestion.engine.versions import rule
from rempart.ingestion.parsing import formats
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.refused import REASONS, RefusedRows
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Pipeline

ERASED = "erased"
"""Reason of a refused row whose key is in the register of erasures; nothing of it is stored."""
_ROWS = 50_000
"""Rows that are judged together."""
_BYTES = 64 << 20
"""Bytes of rows beyond which fewer are judged together."""


@dataclass(frozen=True)
class StagedDelivery:
    """A delivery on disk as far as it was judged.

    `file`: Parquet of its `good` rows (the schema's columns, `LINE`, `RAW`). `judged`: rows that the expectations saw.
    A delivery with a `fault` is refused as a whole and has no rows. `replaced`, `passed_over`: see `KeyVerdict`.
    """

    file: Path
    good: int = 0
    judged: int = 0
    refused: RefusedRows = field(default_factory=lambda: RefusedRows.of(()))
    fault: str | None = None
    replaced: int = 0
    passed_over: int = 0

    @property
    def delivered(self) -> int:
        return self.good + len(self.refused)

    @staticmethod
    def of(staged: Staged) -> StagedDelivery:
        return StagedDelivery(staged.file, staged.good, staged.judged, RefusedRows.of(staged.refused), staged.fault)


@dataclass(frozen=True)
class TakenIn:
    """What the engine made of some deliveries.

    `deliveries`: as staged, in their order, each with all its refused rows in order of lines. `held`: positions of
    those of which no row is accepted. `parts`: the new rows. `displaced`: by files of known rows, files without those
    that new rows replace.
    """

    deliveries: Sequence[StagedDelivery]
    held: frozenset[int]
    parts: Sequence[WrittenPart]
    displaced: Mapping[Path, Path] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        return sum(part.rows for part in self.parts)


def take_in(
    files: Sequence[Path],
    known: Sequence[Path],
    pipeline: Pipeline,
    folder: Path,
    resources: Resources,
    limits: Limits,
    judge: Judge,
    *,
    part_bytes: int = 64 << 20,
) -> TakenIn:
    """Judge files in order against `known` rows (Parquet parts), and write the new rows to parts in `folder`.

    All in this process: foreign files are read by `isolated`. Raises PipelineError from `judge`.
    """
    staged = [
        staging.stage(rows_of(file, pipeline, limits), pipeline, folder / f"staged-{i:04d}.parquet", limits, judge)
        for i, file in enumerate(files)
    ]
    return decide(
        [StagedDelivery.of(delivery) for delivery in staged], known, pipeline, folder, resources, limits, part_bytes
    )


def judged(
    deliveries: Sequence[StagedDelivery],
    judge: Judge,
    limits: Limits,
    folder: Path,
    struck: Sequence[Collection[int]] | None = None,
) -> list[StagedDelivery]:
    """Judge the typed rows of deliveries; the good ones are in new files in `folder`. Raises what `judge` raises.

    `struck`: for each delivery the lines of erased rows; these are refused, without their text. Small deliveries are
    judged together: each call of the expectations has its own cost.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    found = [
        _JudgedDelivery(delivery, folder / f"{i:06d}", limits, frozenset(struck[i]) if struck else frozenset())
        for i, delivery in enumerate(deliveries)
    ]
    waiting: list[tuple[int, Any]] = []

    def judge_waiting(done: int) -> None:
        """Judge the waiting rows; nothing more comes of the deliveries before `done`."""
        if waiting:
            against = judge(pa.concat_tables([table for _, table in waiting]))
            places, start = sorted(against), 0
            for i, table in waiting:
                end = start + table.num_rows
                here = places[bisect_left(places, start) : bisect_left(places, end)]
                found[i].add(table, {place - start: against[place] for place in here})
                start = end
            waiting.clear()
        for judged_delivery in found[:done]:
            judged_delivery.close()

    rows = size = 0
    for i, delivery in enumerate(deliveries):
        if delivery.fault:
            continue
        with pq.ParquetFile(delivery.file) as source:
            waiting.append((i, source.schema_arrow.empty_table()))  # so that there is a file
            for group in range(source.num_row_groups):  # staged with a limit of bytes: a batch spans no two of them
                for batch in source.iter_batches(_ROWS, row_groups=[group]):
                    table = found[i].not_erased(pa.Table.from_batches([batch]))
                    waiting.append((i, table))
                    rows, size = rows + table.num_rows, size + table.nbytes
                    if rows >= _ROWS or size >= _BYTES:
                        judge_waiting(i)
                        rows = size = 0
    judge_waiting(len(found))
    return [judged_delivery.delivery for judged_delivery in found]


class _JudgedDelivery:
    """Collects the rows of one delivery that were judged."""

    def __init__(self, before: StagedDelivery, file: Path, limits: Limits, struck: frozenset[int]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._limits, self._struck = limits, pa.array(sorted(struck), pa.int64())
        self._writer: Any = None
        self.delivery = before if before.fault else replace(before, file=file, good=0, judged=0)
        if struck and not before.fault:
            table = before.refused.table
            gone = pc.is_in(table[LINE], value_set=self._struck)
            kept = RefusedRows(table.filter(pc.invert(gone)))
            self.delivery = replace(self.delivery, refused=kept)
            self._refuse(RefusedRow(line, (ERASED,), "") for line in table[LINE].filter(gone).to_pylist())

    def not_erased(self, table: Any) -> Any:
        """Return the rows of a batch that were not erased; the others are refused without their text."""
        import pyarrow.compute as pc

        if not len(self._struck):
            return table
        gone = pc.is_in(table[LINE], value_set=self._struck)
        self._refuse(RefusedRow(line, (ERASED,), "") for line in table[LINE].filter(gone).to_pylist())
        return table.filter(pc.invert(gone))

    def add(self, table: Any, against: Mapping[int, Sequence[str]]) -> None:
        """Take judged rows. `against`: the reasons against some of them, by position."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.delivery.fault:
            return
        seen = table.num_rows
        if against:
            places = sorted(against)
            rows = table.take(pa.array(places, pa.int64())).to_pylist()
            self._refuse(
                RefusedRow(row[LINE], tuple(against[place]), staging.raw_text(row))
                for place, row in zip(places, rows, strict=True)
            )
            good = np.ones(seen, bool)
            good[places] = False
            table = table.filter(pa.array(good))
        if fault := _beyond(self.delivery.refused, self._limits):
            self.close()
            self.delivery = StagedDelivery(self.delivery.file, fault=fault)
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.delivery.file, table.schema, compression="lz4")
        self._writer.write_table(table)
        judged = self.delivery.judged + seen
        self.delivery = replace(self.delivery, good=self.delivery.good + table.num_rows, judged=judged)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _refuse(self, rows: Iterable[RefusedRow]) -> None:
        self.delivery = replace(self.delivery, refused=self.delivery.refused.plus(rows))


def _beyond(refused: RefusedRows, limits: Limits) -> str | None:
    if len(refused) > limits.refused:
        return f"more than {limits.refused} rows have a fault, for example: {refused[0].reasons[0]}"
    if refused.text_bytes > limits.refused_text:
        return _too_long(limits)
    return None


def _too_long(limits: Limits) -> str:
    example = "the faulty rows are too long to be stored one by one"
    return f"more than {limits.refused} rows have a fault, for example: {example}"


def without(delivery: StagedDelivery, lines: Collection[int], folder: Path) -> StagedDelivery:
    """Return a delivery without the rows on some lines, which count as never delivered; good rows are in `folder`."""
    import pyarrow.compute as pc

    if not lines or delivery.fault:
        return delivery
    (found,) = judged([delivery], lambda table: {}, Limits(), folder, [lines])
    if found.fault:
        return found
    left = pc.not_equal(pc.list_element(found.refused.table[REASONS], 0), ERASED)
    return replace(found, refused=RefusedRows(found.refused.table.filter(left)))


def decide(
    deliveries: Sequence[StagedDelivery],
    known: Sequence[Path],
    pipeline: Pipeline,
    folder: Path,
    resources: Resources,
    limits: Limits,
    part_bytes: int = 64 << 20,
    *,
    hold_back: bool = True,
    late: bool = False,
) -> TakenIn:
    """Accept rows by the rule for their keys (`on_conflict`) and `known` rows, and write them to parts in `folder`.

    Held back are deliveries with too many refused rows (`max_quarantined`), unless `hold_back` is false. `late`: some
    known rows may have come after these.
    """
    using = _Decision(known, pipeline, folder, resources, limits, part_bytes, late)
    while True:  # again without a delivery that repeats too many keys: another row may be the first of its key then
        taken = using.taken(deliveries, frozenset())
        found = taken.deliveries
        if all(now.fault == before.fault for now, before in zip(found, deliveries, strict=True)):
            break
        deliveries = [
            StagedDelivery(before.file, fault=now.fault) if now.fault else before
            for now, before in zip(found, deliveries, strict=True)
        ]
    held = held_back([(delivery.delivered, len(delivery.refused)) for delivery in found], pipeline.max_quarantined)
    if not held or not hold_back:
        return taken
    taken = using.taken(deliveries, held)
    return replace(taken, deliveries=[found[i] if i in held else left for i, left in enumerate(taken.deliveries)])


def rows_of(file: Path, pipeline: Pipeline, limits: Limits, name: str | None = None) -> Iterator[TextRows]:
    """Yield the rows of a delivery by its format, which the end of its name tells. Raises Unreadable.

    `name`: of the delivery as received; by default that of the file.
    """
    columns, size = list(pipeline.columns), file.stat().st_size
    match formats.of_name(name or file.name):
        case "parquet":
            yield from parquet_rows.read(file, columns, limits)
        case "csv":
            with file.open("rb") as stream:
                yield from csv_rows.read(stream, size, pipeline.source, columns, limits)
        case "jsonl":
            with file.open("rb") as stream:
                yield from json_rows.read(stream, size, pipeline.source, columns, limits, pipeline.columns)
        case None:
            raise Unreadable(f"the file's name ends in none of {', '.join(formats.ALL_ENDINGS)}")


@dataclass(frozen=True)
class _Decision:
    """Judges the keys of staged rows. The arguments of `decide`."""

    known: Sequence[Path]
    pipeline: Pipeline
    folder: Path
    resources: Resources
    limits: Limits
    part_bytes: int
    late: bool

    def taken(self, deliveries: Sequence[StagedDelivery], without: frozenset[int]) -> TakenIn:
        """Return the deliveries with the rows that their keys refuse, and the parts of the others.

        If a delivery refuses too many, it is returned with its fault, and no part is written. No row is taken of
        `without`.
        """
        used = [i for i, delivery in enumerate(deliveries) if i not in without and delivery.good]
        found = list(deliveries)
        if not used:
            return TakenIn(found, without, [])
        pipeline, folder = self.pipeline, self.folder
        folders = sorted({folder, *(file.parent for file in (*self.known, *(deliveries[i].file for i in used)))})
        with opened(self.resources, folders) as connection:
            files = [deliveries[i].file for i in used]
            verdict = rule.judge(connection, files, self.known, pipeline, late=self.late)
            for position, (count, text) in verdict.refused.items():
                before, fault = deliveries[used[position]], None
                if count + len(before.refused) > self.limits.refused:
                    why = "an earlier row has the same key"
                    fault = f"more than {self.limits.refused} rows have a fault, for example: {why}"
                elif text + before.refused.text_bytes > self.limits.refused_text:
                    fault = _too_long(self.limits)
                if fault:
                    found[used[position]] = StagedDelivery(before.file, fault=fault)
            if any(now.fault != before.fault for now, before in zip(found, deliveries, strict=True)):
                return TakenIn(found, without, [])
            repeated = rule.refused(connection, pipeline) if verdict.refused else iter(())
            for position, rows in itertools.groupby(repeated, lambda row: row.delivery):
                delivery = found[used[position]]
                refused = delivery.refused.plus(row.row for row in rows)
                good = delivery.good - verdict.refused[position][0]
                found[used[position]] = replace(delivery, good=good, refused=refused)
            for position, i in enumerate(used):
                counts = verdict.replaced.get(position, 0), verdict.passed_over.get(position, 0)
                found[i] = replace(found[i], replaced=counts[0], passed_over=counts[1])
            written = parts.write(
                connection,
                keys.ACCEPTED,
                snapshot_columns(pipeline),
                pipeline.row_key,
                parts.period_of(pipeline),
                folder,
                most=self.part_bytes,
            )
            return TakenIn(found, without, written, rule.without_replaced(connection, verdict, pipeline, folder))


@dataclass(frozen=True)
class HeldRows:
    """All rows of a held-back delivery in order of lines: the refused ones, and the good ones as held back.

    The good rows are read from the staged file, as often as somebody iterates.
    """

    delivery: StagedDelivery
    resources: Resources

    def __len__(self) -> int:
        return self.delivery.delivered

    def __iter__(self) -> Iterator[RefusedRow]:
        refused = iter(self.delivery.refused)
        waiting = next(refused, None)
        for row in self._staged():
            while waiting is not None and waiting.line < row.line:
                yield waiting
                waiting = next(refused, None)
            if waiting is not None and waiting.line == row.line:
                continue  # its key is repeated
            yield row
        if waiting is not None:
            yield waiting
            yield from refused

    def _staged(self) -> Iterator[RefusedRow]:
        if not self.delivery.file.exists():
            return
        with opened(self.resources, [self.delivery.file.parent]) as connection:
            query = f"SELECT * FROM {parquet([self.delivery.file])} ORDER BY {LINE}"  # noqa: S608 - our own names
            for batch in batches(connection, query, 10_000):
                for row in batch.to_pylist():
                    yield RefusedRow(row[LINE], (HELD,), staging.raw_text(row))
