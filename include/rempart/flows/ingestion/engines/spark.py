"""Take new deliveries in on Spark: order a job, check what it made, and go on with it as with DuckDB's work.

What the job wrote is not believed: each object is read back by its SHA-256, rows are counted, the hash of each
partition is found again from its parts, each key is there once and each row in its partition, and known rows are gone
only as far as rows replaced them or people were erased. How executors read and judged a delivery is believed: to check
it is to ingest it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing, SparkError
from rempart.flows.distributed import facts, orders
from rempart.flows.distributed import ingest as job
from rempart.flows.distributed.facts import IngestFacts, RefusedFacts
from rempart.flows.distributed.ingest import Parameters
from rempart.flows.ingestion import ingest_run
from rempart.flows.ingestion.engines import known as known_rows
from rempart.flows.ingestion.engines import read_back, received
from rempart.flows.ingestion.engines.known import EarlierRows
from rempart.flows.ingestion.engines.read_back import untrue
from rempart.flows.ingestion.engines.result import EngineResult
from rempart.flows.ingestion.ingest_run import WORKERS, IngestionRun
from rempart.flows.shared.bounded_map import bounded_map
from rempart.ingestion.engine.deliveries import ERASED, StagedDelivery
from rempart.ingestion.erasing import Cut
from rempart.ingestion.landing import Arrival
from rempart.ingestion.refused import REASONS, Refused, RefusedFile, RefusedRows, schema
from rempart.ingestion.snapshots import Snapshot
from rempart.spark.order import InputObject, MadeObject, SparkOrder, SparkResult

_ROWS = 5_000
RunJob = Callable[[SparkOrder], SparkResult]
"""Runs a job to its end, or takes the result of one that ended before."""


def take_in(
    run: IngestionRun,
    before: Snapshot | None,
    new: Sequence[Arrival],
    folder: Path,
    run_job: RunJob,
    *,
    changed: bool = False,
) -> EngineResult:
    """Have deliveries judged and their rows written by a job, and store them as received (`folder` has their files).

    `changed`: the schema changed, which makes a snapshot without new rows too. Raises IngestError for known rows that
    do not fit the present form, IntegrityError if what the job made is not what it tells, SparkError for malformed
    facts, and what the job raised.
    """
    known = known_rows.known(run, before, folder)
    cuts = list(bounded_map(new, lambda arrival: received.cut(run, folder / arrival.sha256), WORKERS))
    ordered = order(run, known, new, cuts, changed=changed)
    result = run_job(ordered)
    try:
        return _checked(_EndedJob(run, known, folder, result), before, new, cuts, changed=changed)
    except (IntegrityError, ObjectMissing, SparkError):  # the next run must not adopt it
        orders.forget(run.site, ordered)
        raise


@dataclass(frozen=True)
class _EndedJob:
    """A run whose job has ended. `folder`: its files on this disk."""

    run: IngestionRun
    known: EarlierRows
    folder: Path
    result: SparkResult


def _checked(
    ended: _EndedJob, before: Snapshot | None, new: Sequence[Arrival], cuts: Sequence[Cut], *, changed: bool
) -> EngineResult:
    """Check what a job made, and store the deliveries as received.

    Raises IntegrityError, ObjectMissing, SparkError, IngestError for a delivery that cannot be searched.
    """
    run, folder = ended.run, ended.folder
    told = facts.ingested(ended.result, len(new))
    deliveries = [
        StagedDelivery(
            folder / arrival.sha256,
            good=found.good,
            judged=found.judged,
            fault=found.fault,
            replaced=found.replaced,
            repeated=found.repeated,
        )
        for arrival, found in zip(new, told.deliveries, strict=True)
    ]
    refused = _refused(ended, len(new))
    _check_counts(ended, told, deliveries, refused, cuts)

    def keep(delivery: tuple[Arrival, StagedDelivery, Cut]) -> None:
        arrival, rows, cut = delivery
        received.keep(run, arrival, folder / arrival.sha256, cut, rows.fault)

    for _ in bounded_map(list(zip(new, deliveries, cuts, strict=True)), keep, WORKERS):
        pass
    delivered = [found.good + found.refused for found in told.deliveries]
    replaced = sum(delivery.replaced for i, delivery in enumerate(deliveries) if i not in told.held)
    snapshot, added = read_back.snapshot(
        run, before, ended.known, ended.result, told, folder, replaced=replaced, changed=changed
    )
    return EngineResult(deliveries, delivered, refused, told.held, snapshot, added)


def order(
    run: IngestionRun, known: EarlierRows, new: Sequence[Arrival], cuts: Sequence[Cut], *, changed: bool = False
) -> SparkOrder:
    """Return the order of a job that takes deliveries in, without the policy's permission.

    `cuts`: the erased rows of each delivery.
    """
    given = Parameters(
        ingest_run.limits(run.config),
        {part.sha256: part.partition for part in known.parts},
        known.form,
        known.same_form,
        changed,
        {each.sha256: sorted(cut.lines) for each, cut in zip(new, cuts, strict=True) if cut.lines},
    )
    arrived = [
        InputObject(
            role=job.DELIVERIES, bucket=run.inbox, key=each.key, sha256=each.sha256, bytes=each.size, name=each.name
        )
        for each in new
    ]
    parts = [
        InputObject(role=job.KNOWN, bucket=run.lake, key=part.key, sha256=part.sha256, bytes=part.bytes, rows=part.rows)
        for part in known.parts
    ]
    return orders.order(run.config, run.site.name, run.pipeline, "ingest", [*arrived, *parts], given.as_json())


@dataclass(frozen=True)
class _RefusedFile(RefusedFile):
    """`erased`: how many of the rows were erased."""

    erased: int


def _refused(ended: _EndedJob, count: int) -> list[Refused]:
    """Bring the refused rows of each delivery. Raises IntegrityError for other bytes or another number of rows."""
    import pyarrow.parquet as pq

    found: list[Refused] = [RefusedRows.of(())] * count
    made = ended.result.of_role(job.MADE_REFUSED)

    def bring(each: MadeObject) -> tuple[str, _RefusedFile]:
        file = read_back.brought(ended.run, each, ended.folder, ended.folder / f"refused-{each.sha256}")
        if not pq.read_schema(file).equals(schema()):
            raise untrue(ended.run, "an object of refused rows has other columns")
        return each.sha256, _RefusedFile(file, *_counted(file))

    once = {each.sha256: each for each in made}  # deliveries that were refused alike have one object
    files = dict(bounded_map(once.values(), bring, WORKERS))
    for each in made:
        position = facts.of_object(RefusedFacts, ended.result, each).delivery
        if position >= count:
            raise facts.malformed(ended.result, "facts", "an object of refused rows is of no delivery")
        if files[each.sha256].rows != each.rows:
            raise untrue(ended.run, "an object of refused rows has another number of rows")
        found[position] = files[each.sha256]
    return found


def _counted(file: Path) -> tuple[int, int]:
    """Return the number of refused rows in a file, and how many of them were erased."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    erased = 0
    with pq.ParquetFile(file) as source:
        for batch in source.iter_batches(_ROWS, columns=[REASONS]):
            erased += pc.sum(pc.equal(pc.binary_join(batch[REASONS], "; "), ERASED)).as_py() or 0
        return source.metadata.num_rows, erased


def _check_counts(
    ended: _EndedJob,
    told: IngestFacts,
    deliveries: Sequence[StagedDelivery],
    refused: Sequence[Refused],
    cuts: Sequence[Cut],
) -> None:
    """Check that each row is in the snapshot, in quarantine, or repeated, and that all erased rows of deliveries were
    left out. Raises IntegrityError.
    """
    for i, (delivery, found, cut) in enumerate(zip(deliveries, told.deliveries, cuts, strict=True)):
        wanted = found.refused + (delivery.good if i in told.held else 0)
        if len(refused[i]) != wanted:
            raise untrue(ended.run, f"of delivery {i + 1}, {len(refused[i])} rows are in quarantine, not {wanted}")
        rows = refused[i]
        erased = rows.erased if isinstance(rows, _RefusedFile) else 0
        if not delivery.fault and erased != cut.rows:
            raise untrue(ended.run, f"of delivery {i + 1}, {erased} rows were left out as erased, not {cut.rows}")
    used = [delivery for i, delivery in enumerate(deliveries) if i not in told.held]
    added = sum(delivery.good - delivery.repeated - delivery.replaced for delivery in used)
    grew = sum(each.has[0] - each.had[0] for each in told.partitions.values())
    less = ended.known.erased if told.partitions else 0
    if grew != added - less:
        raise untrue(
            ended.run, f"its parts have {grew} rows more than before, but {added} were accepted and {less} erased"
        )
