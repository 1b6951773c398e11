"""Find the known rows of a run on Spark: what an order tells of them, and what its result is checked against.

The platform searches erased rows itself: an order tells their positions, and no key or secret leaves the platform.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rempart.errors import IntegrityError
from rempart.flows.distributed.known import KnownForm
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import erasing, landing, snapshots
from rempart.ingestion.content import evolution, growth
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.engine import parts
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.snapshots import Part, Snapshot

_ROWS = 50_000


@dataclass(frozen=True)
class EarlierRows:
    """Rows of the snapshot before.

    `before`: the snapshot whose rows stay; None for a derived pipeline, whose delivery stands for the whole. `gone`:
    positions of erased rows, by the SHA-256 of their part. `rewritten`: if the schema, the key or the partition
    changed, all rows on this disk in the present form, by partition, without erased ones.
    """

    before: Snapshot | None = None
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)
    rewritten: Mapping[str, Sequence[WrittenPart]] | None = None

    @property
    def form(self) -> KnownForm:
        """Return the form of the known parts, for an order."""
        return KnownForm.of(self.before.id, self.before.columns, self.gone) if self.before else KnownForm()

    @property
    def parts(self) -> Sequence[Part]:
        return self.before.parts if self.before else ()

    @property
    def same_form(self) -> bool:
        return self.rewritten is None

    @property
    def erased(self) -> int:
        """Return the number of erased rows."""
        return sum(map(len, self.gone.values()))

    @property
    def erased_in_files(self) -> int:
        """Return the number of erased rows in `files_before` of all partitions."""
        return self.erased if self.same_form else 0


def known(run: IngestionRun, before: Snapshot | None, folder: Path) -> EarlierRows:
    """Return the known rows of a run.

    After a change of the schema, the key or the partition, all rows are brought here in the present form, and checked
    as with DuckDB. Raises IngestError, IntegrityError.
    """
    if before is None or is_derived(run.pipeline):
        return EarlierRows()
    gone = erased_positions(run, before, folder / "searched")
    if growth.has_same_form(before, run.pipeline):
        return EarlierRows(before, gone)
    return EarlierRows(before, gone, _rewritten(run, before, folder))


def erased_positions(run: IngestionRun, before: Snapshot, folder: Path) -> dict[str, list[int]]:
    """Return the positions of erased rows in the parts of a snapshot, by the SHA-256 of the part. One part is on this
    disk at a time for each worker. Raises IngestError, IntegrityError.
    """
    import pyarrow.parquet as pq

    erased = run.erased
    if not erased:
        return {}
    folder.mkdir()
    key, earlier = run.pipeline.key, snapshots.arrow_schema(before.columns)
    same = list(before.columns.items()) == list(snapshots.snapshot_columns(run.pipeline).items())

    def positions(part: Part) -> list[int]:
        import pyarrow as pa

        file, found, first = folder / f"{part.sha256}.parquet", list[int](), 0
        landing.fetch(run.site, run.lake, part.key, file, part.sha256)
        with pq.ParquetFile(file) as source:
            for batch in source.iter_batches(_ROWS, columns=list(key) if same else None):
                table = pa.Table.from_batches([batch])
                if not same:
                    table = evolution.conform(table.cast(earlier), before.columns, before.id, run.pipeline)
                found += [first + i for i, values in enumerate(erasing.keys_of(table, key)) if erased.has(values)]
                first += batch.num_rows
        file.unlink()
        return found

    found = bounded_map(before.parts, positions, WORKERS)
    return {part.sha256: places for part, places in zip(before.parts, found, strict=True) if places}


def _rewritten(run: IngestionRun, before: Snapshot, folder: Path) -> dict[str, list[WrittenPart]]:
    """Return files of all known rows in the present form, by partition, brought up to date as with DuckDB."""
    files = list(ingest_run.known_rows(run, before, folder).files.values())
    if not files:
        return {}
    place, pipeline = folder / "present", run.pipeline
    with opened(
        ingest_run.resources(run.config, folder), sorted({folder, *(file.parent for file in files)})
    ) as connection:
        written = parts.write(
            connection,
            parquet(files),
            snapshots.snapshot_columns(pipeline),
            pipeline.row_key,
            parts.period_of(pipeline),
            place,
            most=growth.PART_BYTES,
        )
    for file in files:
        file.unlink()
    found: dict[str, list[WrittenPart]] = {}
    for part in written:
        found.setdefault(part.partition, []).append(part)
    return found


def rows_before(found: EarlierRows, partition: str) -> int:
    """Return the number of rows in `files_before`."""
    some = found.parts if found.rewritten is None else found.rewritten.get(partition, ())
    return sum(part.rows for part in some if part.partition == partition)


def check_all_told(run: IngestionRun, found: EarlierRows, told: Mapping[str, int]) -> None:
    """Check that a job that wrote all partitions again told of each known row. `told`: rows before, by partition.

    Raises IntegrityError.
    """
    if found.before is None or found.rewritten is None:
        return
    lacking = sorted(found.rewritten.keys() - told.keys())
    if lacking or sum(told.values()) != found.before.rows:
        raise IntegrityError(
            f"check the rows that Spark brought to the present form of '{run.pipeline.name}': it told of "
            f"{sum(told.values())} of {found.before.rows} known rows",
            "Run the ingestion again. If this repeats, set `engine: duckdb` in the pipeline file and report it.",
        )


def files_before(run: IngestionRun, found: EarlierRows, partition: str, folder: Path) -> Iterator[Path]:
    """Yield files with the known rows of a partition, erased ones among them if the form is the same."""
    if found.rewritten is not None:
        yield from (part.file for part in found.rewritten.get(partition, ()))
        return

    def bring(part: Part) -> Path:
        file = folder / f"{part.sha256}.parquet"
        landing.fetch(run.site, run.lake, part.key, file, part.sha256)
        return file

    yield from bounded_map([part for part in found.parts if part.partition == partition], bring, WORKERS)
