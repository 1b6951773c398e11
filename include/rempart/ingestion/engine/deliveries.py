"""Take deliveries in: read, judge, find the new rows, write their parts. Files in, files out; no site, no secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rempart.ingestion.acceptance import HELD, held_back
from rempart.ingestion.engine import csv_rows, json_rows, keys, parquet_rows, parts, staging
from rempart.ingestion.engine.batches import LINE, RefusedRow, TextRows
from rempart.ingestion.engine.database import batches, opened, parquet
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.engine.staging import Judge, Staged
from rempart.ingestion.parsing import formats
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.refused import RefusedRows
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Pipeline

ERASED = "erased"
"""Reason of a refused row whose key is in the register of erasures; nothing of it is stored."""
_FEW = 1_000
"""Left-out lines that a query names one by one, so that the other rows stay in their order."""


@dataclass(frozen=True)
class StagedDelivery:
    """A delivery on disk as far as it was judged.

    `file`: Parquet of its `good` rows (the schema's columns, `LINE`, `RAW`). `left_out`: Parquet with the `LINE` of
    rows in `file` that were refused later. `judged`: rows that the expectations saw. A delivery with a `fault` is
    refused as a whole and has no rows.
    """

    file: Path
    good: int = 0
    judged: int = 0
    refused: RefusedRows = field(default_factory=lambda: RefusedRows.of(()))
    fault: str | None = None
    left_out: Path | None = None

    @property
    def delivered(self) -> int:
        return self.good + len(self.refused)

    @property
    def rows(self) -> str:
        """The relation (SQL) of the good rows."""
        import pyarrow.parquet as pq

        rows = parquet([self.file])
        if self.left_out is None:
            return rows
        if pq.read_metadata(self.left_out).num_rows > _FEW:
            return f"(SELECT r.* FROM {rows} r ANTI JOIN {parquet([self.left_out])} o ON r.{LINE} = o.{LINE})"  # noqa: S608
        few = ", ".join(map(str, pq.read_table(self.left_out)[LINE].to_pylist()))
        return f"(SELECT * FROM {rows} WHERE {LINE} NOT IN ({few}))"  # noqa: S608 - numbers; a join would mix the rows

    @property
    def folders(self) -> set[Path]:
        """The folders in which the good rows are."""
        return {self.file.parent, *({self.left_out.parent} if self.left_out else ())}

    @staticmethod
    def of(staged: Staged) -> StagedDelivery:
        return StagedDelivery(staged.file, staged.good, staged.judged, RefusedRows.of(staged.refused), staged.fault)


@dataclass(frozen=True)
class TakenIn:
    """What the engine made of some deliveries.

    `deliveries`: as staged, in their order, each with all its refused rows in order of lines. `held`: positions of
    those of which no row is accepted. `parts`: the new rows.
    """

    deliveries: Sequence[StagedDelivery]
    held: frozenset[int]
    parts: Sequence[WrittenPart]

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


def too_long(limits: Limits) -> str:
    """Return the fault of a delivery whose refused rows have too much text."""
    example = "the faulty rows are too long to be stored one by one"
    return f"more than {limits.refused} rows have a fault, for example: {example}"


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
) -> TakenIn:
    """Accept the first row of each key that is not among `known` rows, and write these rows to parts in `folder`.

    Held back are deliveries with too many refused rows (`max_quarantined`), unless `hold_back` is false.
    """
    while True:  # again without a delivery that repeats too many keys: another row may be the first of its key then
        found, written = _decided(deliveries, frozenset(), known, pipeline, folder, resources, limits, part_bytes)
        if all(now.fault == before.fault for now, before in zip(found, deliveries, strict=True)):
            break
        deliveries = [
            StagedDelivery(before.file, fault=now.fault) if now.fault else before
            for now, before in zip(found, deliveries, strict=True)
        ]
    held = held_back([(delivery.delivered, len(delivery.refused)) for delivery in found], pipeline.max_quarantined)
    if not held or not hold_back:
        return TakenIn(found, frozenset(), written)
    left, written = _decided(deliveries, held, known, pipeline, folder, resources, limits, part_bytes)
    return TakenIn([found[i] if i in held else delivery for i, delivery in enumerate(left)], held, written)


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


def _decided(
    deliveries: Sequence[StagedDelivery],
    without: frozenset[int],
    known: Sequence[Path],
    pipeline: Pipeline,
    folder: Path,
    resources: Resources,
    limits: Limits,
    part_bytes: int,
) -> tuple[list[StagedDelivery], list[WrittenPart]]:
    """Return the deliveries with rows of repeated keys refused, and the parts of the others."""
    used = [i for i, delivery in enumerate(deliveries) if i not in without and delivery.good]
    found = list(deliveries)
    if not used:
        return found, []
    columns = snapshot_columns(pipeline)
    folders = sorted({folder, *(file.parent for file in known)}.union(*(deliveries[i].folders for i in used)))
    with opened(resources, folders) as connection:
        all_new = keys.judge(connection, [deliveries[i].rows for i in used], known, list(columns), pipeline.key)
        repeats = {} if all_new else keys.count(connection)
        for position, (rows, text) in repeats.items():
            refused = deliveries[used[position]].refused
            fault: str | None = None
            if rows + len(refused) > limits.refused:
                fault = f"more than {limits.refused} rows have a fault, for example: an earlier row has the same key"
            elif text + refused.text_bytes > limits.refused_text:
                fault = too_long(limits)
            if fault:
                found[used[position]] = StagedDelivery(found[used[position]].file, fault=fault)
        if any(now.fault != before.fault for now, before in zip(found, deliveries, strict=True)):
            return found, []
        if repeats:
            _refuse_repeated(found, used, keys.repeated(connection, list(columns), pipeline.key), repeats)
        written = parts.write(
            connection,
            keys.ACCEPTED,
            columns,
            pipeline.key,
            parts.period_of(pipeline),
            folder,
            most=part_bytes,
        )
    return found, written


def _refuse_repeated(
    found: list[StagedDelivery],
    used: Sequence[int],
    repeated: Iterator[keys.Repeated],
    repeats: Mapping[int, tuple[int, int]],
) -> None:
    """Add the rows of repeated keys to the refused ones; they come in order of their deliveries."""
    waiting = next(repeated, None)

    def of(position: int) -> Iterator[RefusedRow]:
        nonlocal waiting
        while waiting is not None and waiting.delivery == position:
            yield waiting.row
            waiting = next(repeated, None)

    for position in sorted(repeats):
        delivery = found[used[position]]
        refused = delivery.refused.plus(of(position))
        found[used[position]] = replace(delivery, good=delivery.good - repeats[position][0], refused=refused)


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
        with opened(self.resources, sorted(self.delivery.folders)) as connection:
            query = f"SELECT * FROM {self.delivery.rows} ORDER BY {LINE}"  # noqa: S608 - our own names
            for batch in batches(connection, query, 10_000):
                for row in batch.to_pylist():
                    yield RefusedRow(row[LINE], (HELD,), staging.raw_text(row))
