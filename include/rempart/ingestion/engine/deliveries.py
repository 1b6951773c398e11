"""Take deliveries in: read, judge, find the new rows, write their parts. Files in, files out; no site, no secret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rempart.ingestion.acceptance import HELD, held_back
from rempart.ingestion.engine import csv_rows, json_rows, keys, parquet_rows, parts, staging
from rempart.ingestion.engine.batches import LINE, RefusedRow, TextRows
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.engine.staging import Judge, Staged
from rempart.ingestion.snapshots import snapshot_columns
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Pipeline


@dataclass(frozen=True)
class TakenIn:
    """What the engine made of some deliveries.

    `deliveries`: as staged, in their order, each with all its refused rows in order of lines. `held`: positions of
    those of which no row is accepted. `parts`: the new rows.
    """

    deliveries: Sequence[Staged]
    held: frozenset[int]
    parts: Sequence[WrittenPart]


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
    """Judge deliveries in order against `known` rows (Parquet parts), and write the new rows to parts in `folder`.

    Held back are deliveries with too many refused rows (`max_quarantined`). Raises PipelineError from `judge`.
    """
    staged = [
        staging.stage(rows_of(file, pipeline, limits), pipeline, folder / f"staged-{i:04d}.parquet", limits, judge)
        for i, file in enumerate(files)
    ]
    while True:  # again without a delivery that repeats too many keys: another row may be the first of its key then
        found, written = _judged(staged, frozenset(), known, pipeline, folder, resources, limits, part_bytes)
        if all(delivery.fault == before.fault for delivery, before in zip(found, staged, strict=True)):
            break
        staged = [
            Staged(before.file, fault=delivery.fault) if delivery.fault else before
            for delivery, before in zip(found, staged, strict=True)
        ]
    held = held_back([(delivery.delivered, len(delivery.refused)) for delivery in found], pipeline.max_quarantined)
    if not held:
        return TakenIn(found, held, written)
    left, written = _judged(staged, held, known, pipeline, folder, resources, limits, part_bytes)
    return TakenIn([found[i] if i in held else delivery for i, delivery in enumerate(left)], held, written)


def rows_of(file: Path, pipeline: Pipeline, limits: Limits) -> Iterator[TextRows]:
    """Yield the rows of a delivery by the ending of its name. Raises Unreadable."""
    name, columns, size = file.name.lower(), list(pipeline.columns), file.stat().st_size
    if name.endswith(".parquet"):
        yield from parquet_rows.read(file, columns, limits)
        return
    with file.open("rb") as stream:
        if name.endswith((".csv", ".csv.gz")):
            yield from csv_rows.read(stream, size, pipeline.source, columns, limits)
        elif name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
            yield from json_rows.read(stream, size, pipeline.source, columns, limits, pipeline.columns)
        else:
            raise Unreadable("the file's name ends in none of .csv, .jsonl, .ndjson (or these with .gz) and .parquet")


def _judged(
    staged: Sequence[Staged],
    without: frozenset[int],
    known: Sequence[Path],
    pipeline: Pipeline,
    folder: Path,
    resources: Resources,
    limits: Limits,
    part_bytes: int,
) -> tuple[list[Staged], list[WrittenPart]]:
    """Return the deliveries with rows of repeated keys refused, and the parts of the others."""
    used = [i for i, delivery in enumerate(staged) if i not in without and delivery.good]
    found = [
        Staged(delivery.file, delivery.good, delivery.judged, list(delivery.refused), delivery.fault)
        for delivery in staged
    ]
    if not used:
        return found, []
    columns = snapshot_columns(pipeline)
    folders = sorted({folder, *(file.parent for file in known)})
    with opened(resources, folders) as connection:
        keys.judge(connection, [staged[i].file for i in used], known, list(columns), pipeline.key)
        repeated = keys.count(connection)
        for position, rows in repeated.items():
            if rows + len(staged[used[position]].refused) > limits.refused:
                fault = f"more than {limits.refused} rows have a fault, for example: an earlier row has the same key"
                found[used[position]] = Staged(found[used[position]].file, fault=fault)
        if any(delivery.fault != before.fault for delivery, before in zip(found, staged, strict=True)):
            return found, []
        for repeat in keys.repeated(connection, list(columns), pipeline.key) if repeated else ():
            target = found[used[repeat.delivery]]
            target.refused.append(repeat.row)
            target.good -= 1
        written = parts.write(
            connection,
            keys.ACCEPTED,
            columns,
            pipeline.key,
            parts.month(pipeline.partition_by),
            folder,
            most=part_bytes,
        )
    for target in found:
        target.refused.sort(key=lambda row: row.line)
    return found, written


def held_rows(staged: Staged) -> Iterator[RefusedRow]:
    """Yield all rows of a held-back delivery the refused ones, then the good ones as held back.

    The good rows are read from the staged file in batches.
    """
    import pyarrow.parquet as pq

    yield from staged.refused
    refused = {row.line for row in staged.refused}
    with pq.ParquetFile(staged.file) as file:
        for batch in file.iter_batches(10_000):
            for row in batch.to_pylist():
                if row[LINE] not in refused:
                    yield RefusedRow(row[LINE], (HELD,), staging.raw_text(row))
