"""Read the new parts of a Spark ingestion back, and draw up the snapshot of known rows and new ones.

One partition is hashed at a time. Each of its keys must be there once, each row must belong to it, and known rows may
be gone only if rows replaced them or people were erased.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rempart.engine_connection import EngineConnection
from rempart.errors import IntegrityError
from rempart.flows.distributed import facts, orders
from rempart.flows.distributed import ingest as job
from rempart.flows.distributed.facts import IngestFacts, PartFacts
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.engines import known as known_rows
from rempart.flows.ingestion.engines.known import EarlierRows
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import landing, snapshots
from rempart.ingestion.content import growth
from rempart.ingestion.engine.database import literal, opened, parquet
from rempart.ingestion.engine.identity import OrderedRows, quote
from rempart.ingestion.engine.parts import period_of
from rempart.ingestion.snapshots import Part, PartitionContent, Snapshot
from rempart.spark.order import MadeObject, SparkResult

_AGAIN = "Run the ingestion again. If this repeats, set `engine: duckdb` in the pipeline file and report it as a bug."
_NO_ROWS = hashlib.sha256().hexdigest()


def snapshot(
    run: IngestionRun,
    before: Snapshot | None,
    known: EarlierRows,
    result: SparkResult,
    told: IngestFacts,
    folder: Path,
    *,
    replaced: int,
    changed: bool,
) -> tuple[Snapshot | None, list[tuple[Part, Path]]]:
    """Return the snapshot of the known rows and those that the job wrote, and its new parts.

    `replaced`: how many known rows may be gone beside erased ones. `changed`: the schema changed, which makes a
    snapshot without new rows too. Raises IntegrityError, SparkError.
    """
    if not told.partitions and not changed:
        if replaced or result.of_role(job.MADE_PART):
            raise untrue(run, "it tells of no partition, but of parts or replaced rows")
        return before, []
    known_rows.check_all_told(run, known, {name: each.had[0] for name, each in told.partitions.items()})
    kept = known.before if known.same_form else None
    had = growth.by_partition(kept.parts if kept else ())
    contents = {content.partition: content for content in (kept.partitions if kept else ())}
    made, new = {each.sha256: each for each in result.of_role(job.MADE_PART)}, _new_parts(run, result)
    if not new.keys() <= told.partitions.keys():
        raise untrue(run, "it made parts of partitions of which it does not tell")
    (folder / "added").mkdir()
    gone = 0
    for name, each in sorted(told.partitions.items()):
        content = contents.pop(name, PartitionContent(name, 0, _NO_ROWS))
        if known.same_form and (content.rows, content.sha256) != each.had:
            raise growth.differing(run.pipeline.name, name)
        stay = () if each.whole or not known.same_form else had.get(name, ())
        had[name] = [*stay, *new.get(name, ())]
        rows_before = known_rows.rows_before(known, name)
        if had[name]:
            place = _Partition(run, name, folder)
            files = place.brought(stay, [made[part.sha256] for part in new.get(name, ())])
            found, lacks = place.content(files, known if rows_before and not stay else None)
            gone += lacks
            if (found.rows, found.sha256) != each.has:
                raise untrue(run, f"the parts of partition {name} do not have the rows that it tells")
            contents[name] = found
        elif each.has[0]:
            raise untrue(run, f"partition {name} has no parts")
        else:
            gone += rows_before
            del had[name]
    if gone != replaced + known.erased_in_files:
        raise untrue(run, f"{gone} known rows are gone from its parts, but {replaced} were replaced")
    drawn = growth.snapshot_of(run.pipeline, before, had, contents, run.now, run.retain_until("snapshots"))
    return drawn, [(part, folder / "added" / f"{part.sha256}.parquet") for some in new.values() for part in some]


def brought(run: IngestionRun, made: MadeObject, folder: Path, file: Path) -> Path:
    """Bring an object of a job into a file, by its SHA-256. One that `orders.run` has read already is moved there.

    Raises IntegrityError, ObjectMissing.
    """
    if (read := orders.read_file(folder, made)).exists():
        read.rename(file)
    else:
        landing.fetch(run.site, run.lake, made.key, file, made.sha256)
    return file


def _new_parts(run: IngestionRun, result: SparkResult) -> dict[str, list[Part]]:
    """Return the new parts by partition, as the manifest names them."""
    return growth.by_partition(
        Part(
            facts.of_object(PartFacts, result, each).partition,
            snapshots.part_key(run.pipeline.name, each.sha256),
            each.sha256,
            each.rows,
            each.bytes,
        )
        for each in result.of_role(job.MADE_PART)
    )


class _Partition:
    """Checks the parts of one partition. New parts stay in `added`."""

    def __init__(self, run: IngestionRun, name: str, folder: Path) -> None:
        self.run, self.name, self.folder = run, name, folder
        self.place, self.older = folder / "checked", folder / "older"

    def brought(self, stay: Sequence[Part], new: Sequence[MadeObject]) -> list[Path]:
        """Bring known parts and new ones. Raises IntegrityError for another size, number of rows, or columns."""
        import pyarrow.parquet as pq

        schema = snapshots.arrow_schema(snapshots.snapshot_columns(self.run.pipeline))
        self.place.mkdir()

        def bring(part: Part | MadeObject) -> Path:
            name = f"{part.sha256}.parquet"
            if isinstance(part, MadeObject):
                file = brought(self.run, part, self.folder, self.folder / "added" / name)
            else:
                file = self.place / name
                landing.fetch(self.run.site, self.run.lake, part.key, file, part.sha256)
            if file.stat().st_size != part.bytes:
                raise untrue(self.run, f"a part of partition {self.name} has another size")
            if pq.read_metadata(file).num_rows != part.rows:
                raise untrue(self.run, f"a part of partition {self.name} has another number of rows")
            if isinstance(part, MadeObject) and not pq.read_schema(file).equals(schema):
                raise untrue(self.run, f"a part of partition {self.name} has other columns")
            return file

        some: list[Part | MadeObject] = [*stay, *new]
        return list(bounded_map(some, bring, WORKERS))

    def content(self, files: Sequence[Path], known: EarlierRows | None) -> tuple[PartitionContent, int]:
        """Hash the rows in some files. Return also how many known rows are not among them.

        Raises IntegrityError for rows of another partition, and a key that is there twice.
        """
        pipeline, columns = self.run.pipeline, snapshots.snapshot_columns(self.run.pipeline)
        self.older.mkdir()
        try:
            now = parquet(files)
            before = list(known_rows.files_before(self.run, known, self.name, self.older)) if known else []
            places = sorted({self.place, self.older, *(file.parent for file in [*files, *before])})
            with opened(ingest_run.resources(self.run.config, self.folder), places) as connection:
                elsewhere = (
                    f"SELECT count(*) FROM {now} WHERE {period_of(pipeline)} IS DISTINCT FROM {literal(self.name)}"  # noqa: S608 - our own names
                )
                if connection.execute(elsewhere).fetchall() != [(0,)]:
                    raise untrue(self.run, f"the parts of partition {self.name} have rows of others")
                found = _hashed(connection, now, columns, pipeline.row_key)
                if found is None:
                    raise untrue(self.run, f"the parts of partition {self.name} have a key twice")
                lacks = 0
                if before:
                    names = ", ".join(map(quote, columns))
                    less = f"SELECT {names} FROM {parquet(before)} EXCEPT SELECT {names} FROM {now}"  # noqa: S608
                    ((lacks,),) = connection.execute(f"SELECT count(*) FROM ({less})").fetchall()  # noqa: S608
            return found.content(self.name), int(lacks)
        finally:
            shutil.rmtree(self.place)
            shutil.rmtree(self.older)


def _hashed(
    connection: EngineConnection, relation: str, columns: Mapping[str, Any], key: Sequence[str]
) -> OrderedRows | None:
    """Return the hash of rows, sorted if they do not come so; None if two of them have one key."""
    for sort in (0, len(key)):
        found = OrderedRows()
        if found.reads(connection, relation, columns, key, sort=sort):
            return found
    return None


def untrue(run: IngestionRun, why: str) -> IntegrityError:
    """Return the error of a job that tells of something else than it made."""
    return IntegrityError(f"check what Spark made of deliveries of '{run.pipeline.name}': {why}", _AGAIN)
