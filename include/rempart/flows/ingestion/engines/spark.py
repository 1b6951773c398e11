"""Take new deliveries in on Spark: order a job, check what it made, and go on with it as with DuckDB's work.

What the job wrote is not believed: each object is read back by its SHA-256, rows are counted, the hash of each
partition is found again from its parts, each key is there once and each row in its partition, and known rows are gone
only as far as rows replaced them. How executors read and judged a delivery is believed: to check it is to ingest it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.engine_connection import EngineConnection
from rempart.errors import IngestError, IntegrityError, ObjectMissing
from rempart.flows.distributed import ingest as job
from rempart.flows.distributed import orders
from rempart.flows.distributed.ingest import Parameters
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.engines.result import EngineResult
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion import landing, snapshots
from rempart.ingestion.content import growth
from rempart.ingestion.deliveries import Refused
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.engine.database import literal, opened, parquet
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.identity import OrderedRows, quote
from rempart.ingestion.engine.parts import period_of
from rempart.ingestion.landing import Arrival
from rempart.ingestion.reading import LINE, RAW, RefusedRow
from rempart.ingestion.refused import REASONS
from rempart.ingestion.snapshots import Part, PartitionContent, Snapshot
from rempart.spark.order import InputObject, MadeObject, SparkOrder, SparkResult

_AGAIN = "Run the ingestion again. If this repeats, set `engine: duckdb` in the pipeline file and report it as a bug."
_ROWS = 5_000
_NO_ROWS = hashlib.sha256().hexdigest()
RunJob = Callable[[SparkOrder], SparkResult]
"""Runs a job to its end, or takes the result of one that ended before."""


def check(run: IngestionRun, before: Snapshot | None) -> None:
    """Refuse what Spark does not do yet, before anything is written. Raises IngestError."""
    name = run.pipeline.name
    why = None
    if is_derived(run.pipeline):
        why = "read a source that is derived from other pipelines"
    elif run.erased:
        why = "leave out the rows of erased people, and some were erased"
    elif before is not None and not growth.has_same_form(before, run.pipeline):
        why = f"bring the rows of snapshot {before.id} to another schema, key or partition"
    if why:
        raise IngestError(
            f"ingest '{name}': `engine: spark` does not {why} yet. Nothing was ingested",
            f"Set `engine: duckdb` in {name}.yaml for this run; the snapshots are the same.",
        )


def take_in(
    run: IngestionRun,
    before: Snapshot | None,
    new: Sequence[Arrival],
    folder: Path,
    run_job: RunJob,
) -> EngineResult:
    """Have deliveries judged and their rows written by a job, and store them as received (`folder` has their files).

    Raises IntegrityError if what the job made is not what it tells, and what the job raised.
    """
    if not new:
        return EngineResult([], [], [], frozenset(), before)
    result = run_job(order(run, before, new))
    try:
        return _checked(run, before, new, folder, result)
    except (IntegrityError, ObjectMissing):  # the next run must not adopt it
        orders.clear(run.site, run.lake, run.pipeline.name, "ingest")
        raise


def _checked(
    run: IngestionRun, before: Snapshot | None, new: Sequence[Arrival], folder: Path, result: SparkResult
) -> EngineResult:
    """Check what a job made, and store the deliveries as received. Raises IntegrityError, ObjectMissing."""
    deliveries = [
        StagedDelivery(
            folder / arrival.sha256,
            good=int(facts["good"]),
            judged=int(facts["judged"]),
            fault=facts["fault"],
            replaced=int(facts["replaced"]),
            repeated=int(facts["repeated"]),
        )
        for arrival, facts in zip(new, result.facts["deliveries"], strict=True)
    ]
    held = frozenset(int(i) for i in result.facts["held"])
    refused = _refused(run, result, len(new), folder)
    _check_counts(run, result, deliveries, held, refused)
    _keep_raw(run, new, deliveries, folder)
    delivered = [
        delivery.good + int(facts["refused"])
        for delivery, facts in zip(deliveries, result.facts["deliveries"], strict=True)
    ]
    replaced = sum(delivery.replaced for i, delivery in enumerate(deliveries) if i not in held)
    snapshot, added = _snapshot(run, before, result, folder, replaced)
    return EngineResult(deliveries, delivered, refused, held, snapshot, added)


def order(run: IngestionRun, before: Snapshot | None, new: Sequence[Arrival]) -> SparkOrder:
    """Return the order of a job that takes deliveries in, without the policy's permission."""
    known = before.parts if before else ()
    partitions = {part.sha256: part.partition for part in known}
    given = Parameters(ingest_run.limits(run.config), partitions, before.id if before else "")
    arrived = [
        InputObject(
            role=job.DELIVERIES, bucket=run.inbox, key=each.key, sha256=each.sha256, bytes=each.size, name=each.name
        )
        for each in new
    ]
    parts = [
        InputObject(role=job.KNOWN, bucket=run.lake, key=part.key, sha256=part.sha256, bytes=part.bytes, rows=part.rows)
        for part in known
    ]
    return orders.order(run.config, run.site.name, run.pipeline, "ingest", [*arrived, *parts], given.as_json())


@dataclass(frozen=True)
class _RefusedFile:
    """Refused rows in a file on this disk, in order of lines."""

    file: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[RefusedRow]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as source:
            for batch in source.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield RefusedRow(row[LINE], tuple(row[REASONS]), row[RAW] or "")


def _refused(run: IngestionRun, result: SparkResult, count: int, folder: Path) -> list[Refused]:
    """Bring the refused rows of each delivery. Raises IntegrityError for other bytes or another number of rows."""
    import pyarrow.parquet as pq

    found: list[Refused] = [()] * count

    def bring(made: MadeObject) -> tuple[int, _RefusedFile]:
        file = folder / f"refused-{made.sha256}"
        landing.fetch(run.site, run.lake, made.key, file, made.sha256)
        if pq.read_metadata(file).num_rows != made.rows:
            raise _untrue(run, "an object of refused rows has another number of rows")
        return int(made.facts["delivery"]), _RefusedFile(file, made.rows)

    for i, rows in bounded_map(result.of_role(job.MADE_REFUSED), bring, WORKERS):
        found[i] = rows
    return found


def _check_counts(
    run: IngestionRun,
    result: SparkResult,
    deliveries: Sequence[StagedDelivery],
    held: frozenset[int],
    refused: Sequence[Refused],
) -> None:
    """Check that each row is in the snapshot, in quarantine, or repeated. Raises IntegrityError."""
    for i, (delivery, facts) in enumerate(zip(deliveries, result.facts["deliveries"], strict=True)):
        wanted = int(facts["refused"]) + (delivery.good if i in held else 0)
        if len(refused[i]) != wanted:
            raise _untrue(run, f"of delivery {i + 1}, {len(refused[i])} rows are in quarantine, not {wanted}")
    used = [delivery for i, delivery in enumerate(deliveries) if i not in held]
    added = sum(delivery.good - delivery.repeated - delivery.replaced for delivery in used)
    partitions = result.facts["partitions"].values()
    grew = sum(int(each["has"][0]) - int(each["had"][0]) for each in partitions)
    if grew != added:
        raise _untrue(run, f"its parts have {grew} rows more than before, but {added} rows were accepted")


def _keep_raw(run: IngestionRun, new: Sequence[Arrival], deliveries: Sequence[StagedDelivery], folder: Path) -> None:
    """Store the deliveries as received; an unreadable one as long as quarantine is, too."""

    def keep(pair: tuple[Arrival, StagedDelivery]) -> None:
        arrival, delivery = pair
        until = run.retain_until("raw")
        if delivery.fault:
            until = max(until, run.retain_until("quarantine"))
        file = folder / arrival.sha256
        landing.keep(run.site, run.lake, run.pipeline.name, arrival, file, {"retain-until": until.isoformat()})
        file.unlink()

    for _ in bounded_map(list(zip(new, deliveries, strict=True)), keep, WORKERS):
        pass


def _snapshot(
    run: IngestionRun, before: Snapshot | None, result: SparkResult, folder: Path, replaced: int
) -> tuple[Snapshot | None, list[tuple[Part, Path]]]:
    """Return the snapshot of the known rows and those that the job wrote, and its new parts.

    `replaced`: how many known rows may be gone. Raises IntegrityError.
    """
    told: Mapping[str, Mapping[str, Any]] = result.facts["partitions"]
    if not told:
        if replaced or result.of_role(job.MADE_PART):
            raise _untrue(run, "it tells of no partition, but of parts or replaced rows")
        return before, []
    gone = 0
    parts_before = growth.by_partition(before.parts if before else ())
    had = dict(parts_before)
    contents = {content.partition: content for content in (before.partitions if before else ())}
    made = {each.sha256: each.key for each in result.of_role(job.MADE_PART)}
    new = growth.by_partition(
        Part(
            str(each.facts["partition"]),
            snapshots.part_key(run.pipeline.name, each.sha256),
            each.sha256,
            each.rows,
            each.bytes,
        )
        for each in result.of_role(job.MADE_PART)
    )
    if not new.keys() <= told.keys():
        raise _untrue(run, "it made parts of partitions of which it does not tell")
    kept = folder / "added"
    kept.mkdir()
    for name, facts in sorted(told.items()):
        known = contents.pop(name, PartitionContent(name, 0, _NO_ROWS))
        if [known.rows, known.sha256] != list(facts["had"]):
            raise growth.differing(run.pipeline.name, name)
        stay = () if facts["whole"] else had.get(name, ())
        had[name] = [*stay, *new.get(name, ())]
        rows, sha256 = facts["has"]
        if had[name]:
            brought = [(part, part.key) for part in stay]
            brought += [(part, made[part.sha256]) for part in new.get(name, ())]
            was = parts_before.get(name, ()) if facts["whole"] else ()
            found, lacks = _content(run, name, brought, was, folder)
            gone += lacks
            if (found.rows, found.sha256) != (rows, sha256):
                raise _untrue(run, f"the parts of partition {name} do not have the rows that it tells")
            contents[name] = found
        elif rows:
            raise _untrue(run, f"partition {name} has no parts")
        else:
            gone += known.rows
    if gone != replaced:
        raise _untrue(run, f"{gone} known rows are gone from its parts, but {replaced} were replaced")
    snapshot = growth.snapshot_of(run.pipeline, before, had, contents, run.now, run.retain_until("snapshots"))
    added = [(part, kept / f"{part.sha256}.parquet") for some in new.values() for part in some]
    return snapshot, added


def _content(
    run: IngestionRun, name: str, parts: Sequence[tuple[Part, str]], was: Sequence[Part], folder: Path
) -> tuple[PartitionContent, int]:
    """Bring the parts of one partition, each with its key, and hash their rows. Those that are new stay in `added`.

    Return also how many rows of its parts before (`was`) are not among them. Raises IntegrityError for parts with other
    columns or another number of rows, rows of another partition, and a key that is there twice.
    """
    import pyarrow.parquet as pq

    place, older, pipeline = folder / "checked", folder / "older", run.pipeline
    place.mkdir()
    older.mkdir()
    columns, key = snapshots.snapshot_columns(pipeline), pipeline.row_key

    def bring(found: tuple[Part, str]) -> Path:
        part, at = found
        file = (place if at == part.key else folder / "added") / f"{part.sha256}.parquet"
        landing.fetch(run.site, run.lake, at, file, part.sha256)
        if file.stat().st_size != part.bytes:
            raise _untrue(run, f"a part of partition {name} has another size")
        if pq.read_metadata(file).num_rows != part.rows:
            raise _untrue(run, f"a part of partition {name} has another number of rows")
        if at != part.key and not pq.read_schema(file).equals(snapshots.arrow_schema(columns)):
            raise _untrue(run, f"a part of partition {name} has other columns")
        return file

    def bring_older(part: Part) -> Path:
        file = older / f"{part.sha256}.parquet"
        landing.fetch(run.site, run.lake, part.key, file, part.sha256)
        return file

    try:
        now = parquet(list(bounded_map(parts, bring, WORKERS)))
        before = list(bounded_map(was, bring_older, WORKERS))
        with opened(ingest_run.resources(run.config, folder), [place, older, folder / "added"]) as connection:
            elsewhere = f"SELECT count(*) FROM {now} WHERE {period_of(pipeline)} IS DISTINCT FROM {literal(name)}"  # noqa: S608 - our own names
            if connection.execute(elsewhere).fetchall() != [(0,)]:
                raise _untrue(run, f"the parts of partition {name} have rows of others")
            found = _hashed(connection, now, columns, key)
            if found is None:
                raise _untrue(run, f"the parts of partition {name} have a key twice")
            lacks = 0
            if before:
                names = ", ".join(map(quote, columns))
                less = f"SELECT {names} FROM {parquet(before)} EXCEPT SELECT {names} FROM {now}"  # noqa: S608
                ((lacks,),) = connection.execute(f"SELECT count(*) FROM ({less})").fetchall()  # noqa: S608
        return found.content(name), int(lacks)
    finally:
        shutil.rmtree(place)
        shutil.rmtree(older)


def _hashed(
    connection: EngineConnection, relation: str, columns: Mapping[str, Any], key: Sequence[str]
) -> OrderedRows | None:
    """Return the hash of rows, sorted if they do not come so; None if two of them have one key."""
    for sort in (0, len(key)):
        found = OrderedRows()
        if found.reads(connection, relation, columns, key, sort=sort):
            return found
    return None


def _untrue(run: IngestionRun, why: str) -> IntegrityError:
    return IntegrityError(f"check what Spark made of deliveries of '{run.pipeline.name}': {why}", _AGAIN)
