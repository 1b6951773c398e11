"""Take deliveries in: read, judge, find the new rows, write their parts. Files in, files out; no site, no secret."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rempart.engine_connection import EngineConnection
from rempart.ingestion.acceptance import HELD, held_back
from rempart.ingestion.engine import csv_rows, json_rows, keys, parquet_rows, parts, staging
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow, TextRows
from rempart.ingestion.engine.database import batches, opened, parquet
from rempart.ingestion.engine.keys import FILE, KeyVerdict, Relations
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.engine.staging import Judge, Staged
from rempart.ingestion.engine.versions import rule
from rempart.ingestion.parsing import formats
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.ingestion.refused import RefusedRows, each, schema
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

ERASED = "erased"
"""Reason of a refused row whose key is in the register of erasures; nothing of it is stored."""
_FEW = 1_000
"""Left-out lines that a query names one by one, so that the other rows stay in their order."""


@dataclass(frozen=True)
class StagedDelivery:
    """A delivery on disk as far as it was judged.

    `file`: Parquet of its `good` rows (the schema's columns, `LINE`, `RAW`). `left_out`: Parquet with the `LINE` of
    rows in `file` that were refused later. `judged`: rows that the expectations saw. A delivery with a `fault` is
    refused as a whole and has no rows. `replaced`, `repeated`: see `KeyVerdict`.
    """

    file: Path
    good: int = 0
    judged: int = 0
    refused: RefusedRows = field(default_factory=lambda: RefusedRows.of(()))
    fault: str | None = None
    left_out: Path | None = None
    replaced: int = 0
    repeated: int = 0

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
    late: bool = False,
) -> TakenIn:
    """Accept rows by the rule for their keys (`on_conflict`) and `known` rows, and write them to parts in `folder`.

    Held back are deliveries with too many refused rows (`max_quarantined`), unless `hold_back` is false. `late`: some
    known rows may have come after these.
    """
    files = _OnFiles(known, pipeline, folder, resources, part_bytes)
    return decide_with(files, deliveries, pipeline, limits, hold_back=hold_back, late=late, spill=folder)


class Engine(Protocol):
    """Where the staged and the known rows are: in files (DuckDB), or with another engine that takes the same SQL."""

    def opened(self, used: Sequence[StagedDelivery]) -> AbstractContextManager[EngineConnection]:
        """Open a connection without tables and views that reads the known rows and those of some deliveries."""

    def staged(self, used: Mapping[int, StagedDelivery]) -> Relations:
        """Return the good rows of some deliveries, by their position."""

    def known(self) -> str | None:
        """Return the relation of the known rows, with the column `keys.FILE`, or None if there are none."""

    def written(
        self, connection: EngineConnection, verdict: KeyVerdict
    ) -> tuple[Sequence[WrittenPart], Mapping[Path, Path]]:
        """Write the rows of `keys.ACCEPTED`. Return their parts, and the displaced files (`TakenIn`)."""


def decide_with(
    engine: Engine,
    deliveries: Sequence[StagedDelivery],
    pipeline: Pipeline,
    limits: Limits,
    *,
    hold_back: bool = True,
    late: bool = False,
    spill: Path | None = None,
) -> TakenIn:
    """Do what `decide` does with any engine. `spill`: folder of refused rows, which stay in memory without it."""
    using = _Decision(engine, pipeline, limits, late, spill)
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
            yield from parquet_rows.read(file, pipeline.columns, pipeline.source, limits)
        case "csv":
            with file.open("rb") as stream:
                yield from csv_rows.read(stream, size, pipeline.source, columns, limits)
        case "jsonl":
            with file.open("rb") as stream:
                yield from json_rows.read(stream, size, pipeline.source, columns, limits, pipeline.columns)
        case None:
            raise Unreadable(formats.UNKNOWN)


@dataclass(frozen=True)
class _Decision:
    """Judges the keys of staged rows. The arguments of `decide`."""

    engine: Engine
    pipeline: Pipeline
    limits: Limits
    late: bool
    spill: Path | None

    def taken(self, deliveries: Sequence[StagedDelivery], without: frozenset[int]) -> TakenIn:
        """Return the deliveries with the rows that their keys refuse, and the parts of the others.

        If a delivery refuses too many, it is returned with its fault, and no part is written. No row is taken of
        `without`.
        """
        used = {i: delivery for i, delivery in enumerate(deliveries) if i not in without and delivery.good}
        found = list(deliveries)
        if not used:
            return TakenIn(found, without, [])
        pipeline, engine = self.pipeline, self.engine
        with engine.opened(list(used.values())) as connection:
            verdict = rule.judge(connection, engine.staged(used), engine.known(), pipeline, late=self.late)
            for i, (count, text) in verdict.refused.items():
                before, fault = used[i], None
                if count + len(before.refused) > self.limits.refused:
                    why = "an earlier row has the same key"
                    fault = f"more than {self.limits.refused} rows have a fault, for example: {why}"
                elif text + before.refused.text_bytes > self.limits.refused_text:
                    fault = too_long(self.limits)
                if fault:
                    found[i] = StagedDelivery(before.file, fault=fault)
            if any(now.fault != before.fault for now, before in zip(found, deliveries, strict=True)):
                return TakenIn(found, without, [])
            repeated = rule.refused(connection, pipeline) if verdict.refused else iter(())
            for i, rows in itertools.groupby(repeated, lambda row: row.delivery):
                refused = found[i].refused.plus(row.row for row in rows)
                if self.spill:
                    refused = refused.spilled(self.spill / f"refused-{i:06d}")
                found[i] = replace(found[i], good=found[i].good - verdict.refused[i][0], refused=refused)
            for i in used:
                counts = verdict.replaced.get(i, 0), verdict.repeated.get(i, 0)
                found[i] = replace(found[i], replaced=counts[0], repeated=counts[1])
            return TakenIn(found, without, *engine.written(connection, verdict))


@dataclass(frozen=True)
class _OnFiles:
    """Staged and known rows in files, for DuckDB. The arguments of `decide`."""

    files: Sequence[Path]
    pipeline: Pipeline
    folder: Path
    resources: Resources
    part_bytes: int

    def opened(self, used: Sequence[StagedDelivery]) -> AbstractContextManager[EngineConnection]:
        folders = {self.folder, *(file.parent for file in self.files)}
        return opened(self.resources, sorted(folders.union(*(delivery.folders for delivery in used))))

    def staged(self, used: Mapping[int, StagedDelivery]) -> Relations:
        return {i: delivery.rows for i, delivery in used.items()}

    def known(self) -> str | None:
        return parquet(self.files, named=FILE) if self.files else None

    def written(
        self, connection: EngineConnection, verdict: KeyVerdict
    ) -> tuple[Sequence[WrittenPart], Mapping[Path, Path]]:
        columns, period = snapshot_columns(self.pipeline), parts.period_of(self.pipeline)
        key, most = self.pipeline.row_key, self.part_bytes
        made = parts.write(connection, keys.ACCEPTED, columns, key, period, self.folder, most=most)
        return made, rule.without_replaced(connection, verdict, self.pipeline, self.folder)


@dataclass(frozen=True)
class HeldRows:
    """All rows of a held-back delivery in order of lines: the refused ones, and the good ones as held back.

    `good`: reads the good rows as record batches in order of lines, as often as somebody iterates.
    """

    delivery: StagedDelivery
    good: Callable[[], Iterator[Any]]

    @staticmethod
    def on_disk(delivery: StagedDelivery, resources: Resources) -> HeldRows:
        """Return the rows of a delivery whose good rows are in its file."""

        def good() -> Iterator[Any]:
            if delivery.file.exists():
                with opened(resources, sorted(delivery.folders)) as connection:
                    query = f"SELECT * FROM {delivery.rows} ORDER BY {LINE}"  # noqa: S608 - our own names
                    yield from batches(connection, query, 10_000)

        return HeldRows(delivery, good)

    def __len__(self) -> int:
        return self.delivery.delivered

    def tables(self) -> Iterator[pa.Table]:
        import numpy as np
        import pyarrow as pa

        refused, done = self.delivery.refused.table, 0
        lines = refused[LINE].to_numpy()
        for batch in self.good():
            rows = _held(pa.Table.from_batches([batch]))
            numbers = rows[LINE].to_numpy()
            upto = int(np.searchsorted(lines, numbers[-1], "right")) if len(numbers) else done
            if upto > done:  # a row whose key is repeated is among the refused ones
                left = rows.filter(pa.array(np.isin(numbers, lines[done:upto], invert=True)))
                rows = pa.concat_tables([refused.slice(done, upto - done), left]).sort_by(LINE)
                done = upto
            yield rows
        if done < len(lines):
            yield refused.slice(done)

    def __iter__(self) -> Iterator[RefusedRow]:
        return each(self.tables())


def _held(rows: pa.Table) -> pa.Table:
    """Return good rows as those of a held-back delivery."""
    import pyarrow as pa

    raw = rows[RAW]
    if raw.null_count:  # a format without text
        raw = pa.chunked_array([[staging.raw_text(row) for row in staging.values(rows)]], pa.string())
    why = pa.repeat(pa.scalar([HELD], pa.list_(pa.string())), rows.num_rows)
    return pa.table([rows[LINE], why, raw], schema=schema())
