"""Extract new data of a pipeline's source into deliveries in the landing bucket, before they are ingested.

Order of the writes, so that the next run completes an interrupted one: the folder of the deliveries (`pending.json`),
the deliveries, their list with the source's next state (`pending.json` again), evidence. The state counts once all
deliveries were ingested: see `source_state`. Nothing is lost and nothing comes twice, wherever a run was killed:
leftovers of an extraction without a list are deleted, and one with a list is never repeated.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rempart.counts import counted, size
from rempart.errors import IngestError, IntegrityError, ObjectMissing
from rempart.flows.distributed import orders
from rempart.flows.ingestion import current_snapshot, derived_run, ingest_run, source_state
from rempart.flows.ingestion.current_snapshot import AcceptedLoss
from rempart.flows.ingestion.engines.derivation import OnSpark
from rempart.flows.ingestion.engines.spark import RunJob
from rempart.flows.ingestion.ingest_run import IngestionRun
from rempart.flows.ingestion.source_state import Pending, Stand
from rempart.flows.shared.leases import PATIENCE, wait_for
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.ingestion.derived.inputs import is_derived
from rempart.ingestion.snapshots import Snapshot
from rempart.ingestion.sources.port import Delivery, Extraction, Source, State, Surroundings
from rempart.ingestion.sources.registry import opener_of
from rempart.ingestion.sources.row_memory import ROWS
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import SqlSource
from rempart.sites.digests import file_sha256
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)
LISTED = 500
"""Deliveries that a record of evidence names by their SHA-256."""
DESCENT = 1000
"""Snapshots that are searched at most for one that the current snapshot descends from."""
_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")


@dataclass(frozen=True)
class ExtractResult:
    """Result of an extraction. `waiting`: deliveries of an earlier one that are still to be ingested.

    `absent`: keys of the snapshot that a comparison did not find at the source; None if keys were not compared.
    `complete` is False if a limit of the source ended it early: the next run goes on.
    """

    deliveries: int
    bytes: int
    waiting: int = 0
    absent: int | None = None
    complete: bool = True

    def lines(self) -> Iterator[str]:
        """Return the result as text."""
        if self.waiting:
            wait = counted(self.waiting, "delivery of the last extraction is", "deliveries of the last extraction are")
            yield f"{wait} not ingested yet: nothing new was extracted"
        else:
            yield f"extracted {counted(self.deliveries, 'delivery', 'deliveries')} ({size(self.bytes)})"
        if self.absent is not None:
            yield f"rows of the snapshot that are no longer at the source: {self.absent}"
        if not self.complete:
            yield "a limit of the source ended the extraction; the next run goes on"


Committing = Callable[[], AbstractContextManager[object]]
"""Opens the time in which a run writes what counts."""


def nothing() -> ExtractResult:
    """Return the result of a run that extracts nothing."""
    return ExtractResult(0, 0)


def extract(
    platform: Platform,
    pipeline: Pipeline,
    *,
    source: Source | None = None,
    accepted_loss: AcceptedLoss | None = None,
    run_job: RunJob | None = None,
) -> ExtractResult:
    """Extract what is new at the pipeline's source. Without one, and without news, nothing changes.

    `source` replaces the one that the pipeline file declares. `run_job`: runs the job that derives rows with `engine:
    spark`; by default on this machine. Raises SourceUnavailable, IngestError, PlacementDenied,
    ConnectionMissing, SiteError, SiteFenced, LeaseHeld, LeaseLost.
    """
    opener = opener_of(pipeline)
    if opener is None and source is None:
        return nothing()
    with wait_for(platform.continuity, f"extract {pipeline.name}", PATIENCE) as lease:
        run = ingest_run.begin(platform, pipeline)
        committing = partial(
            _committing, partial(platform.continuity.still, lease), partial(platform.committing, run.active)
        )
        before = current_snapshot.current(run, accepted_loss)
        pending = source_state.read_pending(run.site, run.lake, pipeline.name)
        if pending is not None and pending.whole:
            _tell(run, pending)
            unfinished = _unfinished(run, pending)
            if unfinished and _still_there(run, unfinished) and not derived_run.is_stale(run, pending):
                _clear_jobs(committing, run)
                return ExtractResult(0, 0, waiting=len(unfinished))
            if not unfinished and _holds(run, before, pending):
                _finish(committing, run, before, pending.after)
                pending = None
        if pending is not None:  # interrupted, or its deliveries are gone: take them again
            with committing():
                _clear(run, pending.folder)
        stand = source_state.read_stand(run.site, run.lake, pipeline.name, before)
        if source is None and opener is not None:
            lake = derived_run.lake(platform, run)

            def job(folder: Path) -> RunJob:
                return run_job or partial(orders.run, platform, pipeline, keep=folder)

            derive = OnSpark(run, partial(ingest_run.begin, platform), job) if pipeline.engine == "spark" else None
            around = Surroundings(run.config, platform.connections, run.now, platform.record, lake, derive)
            source = opener(pipeline, around)
        assert source is not None  # noqa: S101 - one of both is there
        result = _extract(committing, run, before, stand, source)
        _clear_jobs(committing, run)
        return result


def _clear_jobs(committing: Committing, run: IngestionRun) -> None:
    """Delete what a derivation left that was killed: under the lease of an extraction nobody else needs it."""
    if is_derived(run.pipeline):
        with committing():
            orders.clear(run.site, run.lake, run.pipeline.name, "derive")


@contextmanager
def _committing(held: Committing, active: Committing) -> Iterator[None]:
    """Keep the lease of this extraction, and the active site, while the block writes. Raises LeaseLost, SiteFenced."""
    with held(), active():
        yield


def _extract(
    committing: Committing, run: IngestionRun, before: Snapshot | None, stand: Stand, source: Source
) -> ExtractResult:
    _check_columns(run.pipeline, stand)
    number = stand.number + 1
    folder = f"{run.pipeline.source.prefix}extract-{number:08}/"
    with committing():
        source_state.write_pending(run.site, run.lake, run.pipeline.name, Pending(folder, False))
        _clear(run, folder)  # what a source left there without naming it
    with spool_folder() as spool:
        sink = LandingSink(run, folder, spool)
        compared = _compare(run, before, stand, source, sink)
        taken = source.extract(stand.state, sink, run.now)
    made = [*(compared.deliveries if compared else ()), *taken.deliveries]
    absent = len(compared.absent_keys) if compared else None
    at = run.now.isoformat() if compared else stand.compared_at
    after = Stand(number if made else stand.number, dict(taken.state), at, list(run.pipeline.columns))
    result = ExtractResult(len(made), sum(delivery.bytes for delivery in made), 0, absent, taken.complete)
    if not made and compared is None:
        if after == stand:
            with committing():
                source_state.drop_pending(run.site, run.lake, run.pipeline.name)
        else:
            _finish(committing, run, before, after)
        return result
    pending = Pending(folder, True, tuple(made), after, _evidence(run, source, number, result, made, taken.state))
    lost = list(_lost(run, before, made))
    with committing():
        for key in lost:
            run.site.delete(run.lake, key)
        source_state.write_pending(run.site, run.lake, run.pipeline.name, pending)
    _tell(run, pending)
    if not made:
        _finish(committing, run, before, after)
    return result


def _check_columns(pipeline: Pipeline, stand: Stand) -> None:
    """Raise IngestError if known rows would come again, in other columns, only to be refused.

    A source that remembers rows does so by their text, which has the pipeline's columns in their order.
    """
    columns = {name: spec.renamed_from for name, spec in pipeline.columns.items()}
    if pipeline.source.format == "csv":  # the text of a row does not have their names
        known = [name if name in stand.columns else earlier or name for name, earlier in columns.items()]
    else:
        known = list(columns)
    refuses = pipeline.conflict_rule == "refuse" and not is_derived(pipeline)
    if not refuses or not stand.state.get(ROWS) or known == list(stand.columns):
        return
    raise IngestError(
        f"extract {pipeline.name}: its columns changed, so each known row comes again, and `on_conflict: refuse` would "
        "refuse all of them. Nothing was taken",
        f"Set `on_conflict: newest` in {pipeline.name}.yaml, at least for the next run: known rows then get the new "
        "columns (docs/how-to/rows-that-change.md).",
    )


def _finish(committing: Committing, run: IngestionRun, snapshot: Snapshot | None, stand: Stand) -> None:
    """Make a state count from the current snapshot on."""
    with committing():
        source_state.write_stand(run.site, run.lake, run.pipeline.name, snapshot, stand)
        source_state.drop_pending(run.site, run.lake, run.pipeline.name)


def _compare(
    run: IngestionRun, before: Snapshot | None, stand: Stand, source: Source, sink: LandingSink
) -> Extraction | None:
    """Compare keys if that is due: at the first run after each time of the schedule, and once there is a snapshot."""
    schedule = _schedule(run.pipeline)
    if schedule is None or before is None or not stand.state or not due(schedule, stand.compared_at, run.now):
        return None
    return source.compare_keys(known_keys(run, before), stand.state, sink)


def _schedule(pipeline: Pipeline) -> str | None:
    return pipeline.source.compare_keys if isinstance(pipeline.source, SqlSource) else None


def due(schedule: str, last: str, now: datetime) -> bool:
    """Return whether a time of a cron expression (UTC) lies between `last` (ISO 8601, or empty) and now. Pure."""
    from croniter import croniter

    if not last:
        return True
    at: datetime = croniter(schedule, datetime.fromisoformat(last).astimezone(UTC)).get_next(datetime)
    return at <= now


def known_keys(run: IngestionRun, snapshot: Snapshot) -> Iterator[tuple[object, ...]]:
    """Yield the keys of a snapshot in ascending order. Only key columns are held, as Arrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    version = set(run.pipeline.row_key) - set(run.pipeline.key)  # a source has each row once
    key = [name for name in snapshot.key if name not in version]
    tables = []
    with spool_folder() as folder:
        for part in snapshot.parts:
            file = folder / "part"
            landing.fetch(run.site, run.lake, part.key, file, part.sha256)
            tables.append(pq.read_table(file, columns=key))
    once = pa.concat_tables(tables).group_by(key).aggregate([]) if tables else None
    table = once.sort_by([(name, "ascending") for name in key]) if once is not None else None
    for batch in table.to_batches(10_000) if table is not None else ():
        yield from zip(*(batch[name].to_pylist() for name in key), strict=True)


def _evidence(
    run: IngestionRun, source: Source, number: int, result: ExtractResult, made: Sequence[Delivery], state: State
) -> dict[str, object]:
    """Return the record of an extraction: what was taken, from whom, under whose law. It holds no value of a row."""
    origin = source.origin
    return {
        "extraction": number,
        "site": run.site.name,
        "bucket": run.inbox,
        "kind": run.pipeline.source.kind,
        "operator": origin.operator,
        "place": origin.place,
        "jurisdiction": origin.jurisdiction,
        "owner_jurisdiction": origin.owner_jurisdiction,
        "deliveries": result.deliveries,
        "bytes": result.bytes,
        "sources": [delivery.sha256 for delivery in made[:LISTED]],
        "absent": result.absent,
        "at": run.now.isoformat(),
        **({"derived_from": dict(state)} if is_derived(run.pipeline) else {}),
    }


def _tell(run: IngestionRun, pending: Pending) -> None:
    """Write evidence of an extraction, once."""
    newest = run.ledger.find("extraction", run.pipeline.name, limit=1)
    if not newest or dict(newest[0].body) != dict(pending.evidence):
        run.ledger.append("extraction", run.pipeline.name, dict(pending.evidence))


def _unfinished(run: IngestionRun, pending: Pending) -> list[Delivery]:
    return [
        delivery
        for delivery in pending.deliveries
        if not deliveries.is_known(run.site, run.lake, run.pipeline.name, delivery.sha256)
    ]


def _holds(run: IngestionRun, current: Snapshot | None, pending: Pending) -> bool:
    """Return whether the current snapshot holds what was ingested: not after a restore or failover went back."""
    outcomes = (
        deliveries.read(run.site, run.lake, run.pipeline.name, delivery.sha256) for delivery in pending.deliveries
    )
    return not any(_is_behind(run, current, name) for name in {outcome["snapshot"] for outcome in outcomes})


def _is_behind(run: IngestionRun, current: Snapshot | None, name: str | None) -> bool:
    """Return whether the current snapshot is without the rows of another one, `name`: it does not descend from it."""
    if current is not None and current.id == name:
        return False
    taken_in = _manifest(run, name)
    if taken_in is None:  # without rows, or an erasure replaced it
        return False
    found = current
    for _ in range(DESCENT):
        if found is None or found.created_at < taken_in.created_at:
            return True
        if found.id == name:
            return False
        earlier = _manifest(run, found.previous)
        if earlier is None and found.previous is not None:  # an erasure replaced it
            return False
        found = earlier
    return False


def _manifest(run: IngestionRun, name: str | None) -> Snapshot | None:
    try:
        return snapshots.read(run.site, run.lake, run.pipeline.name, name) if name else None
    except ObjectMissing:
        return None


def _lost(run: IngestionRun, before: Snapshot | None, made: Sequence[Delivery]) -> Iterator[str]:
    """Yield the keys of outcomes whose snapshot a restore or failover left behind: their rows are ingested again."""
    for delivery in made:
        outcome = deliveries.recorded(run.site, run.lake, run.pipeline.name, delivery.sha256)
        if outcome is None:
            continue
        named, current = outcome.get("snapshot"), before.id if before else None
        # a derived delivery stands for the whole: it counts again if another one has replaced it since
        if named != current if is_derived(run.pipeline) else _is_behind(run, before, named):
            yield deliveries.outcome_key(run.pipeline.name, delivery.sha256)


def _still_there(run: IngestionRun, unfinished: Sequence[Delivery]) -> bool:
    there = {info.key: info.size for info in landing.waiting(run.site, run.inbox, run.pipeline.source.prefix)}
    return all(there.get(delivery.key) == delivery.bytes for delivery in unfinished)


def _clear(run: IngestionRun, folder: str) -> None:
    """Delete what an interrupted extraction left in its folder of the landing bucket."""
    if not folder.startswith(f"{run.pipeline.source.prefix}{landing.EXTRACTED}"):
        raise IngestError(
            f"extract {run.pipeline.name}: the last extraction wrote to {folder[:80]}, which is not a folder below "
            f"`source.prefix` ({run.pipeline.source.prefix})",
            f"Set `source.prefix` back, run the pipeline once, and then change it. Or delete "
            f"{source_state.folder(run.pipeline.name)}pending.json in bucket {run.lake}, and the folder.",
        )
    for info in run.site.list(run.inbox, folder):
        run.site.delete(run.inbox, info.key)


@dataclass(frozen=True)
class LandingSink:
    """Writes deliveries to one folder of the landing bucket. Each is complete before it is visible there."""

    run: IngestionRun
    folder: str
    spool: Path
    count: Iterator[int] = field(default_factory=itertools.count)

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        """Store one delivery: on disk first, so that an interrupted source leaves no half of it. See `Sink`."""
        if not _NAME.fullmatch(name):
            raise IngestError(
                f"extract {self.run.pipeline.name}: the source named a delivery '{name[:80]}'",
                "This is a fault of the source's module: names have letters, digits, and _ - . inside.",
            )
        site, bucket, key, file = self.run.site, self.run.inbox, self.folder + name, self.spool / "delivery"
        with file.open("wb") as out:
            for block in blocks:
                out.write(block)
        size, sha256 = file.stat().st_size, file_sha256(file)
        site.write_file(bucket, key, file, metadata={"sha256": sha256, landing.ORDER: str(next(self.count))})
        file.unlink()
        stored = landing.fetch(site, bucket, key, file)
        if stored != sha256:
            raise IntegrityError(
                f"extract {self.run.pipeline.name}: site '{site.name}' returned other bytes of {bucket}/{key} than "
                "were written",
                "Run again. If it fails again, ask the operator of the site. Nothing was ingested.",
            )
        return Delivery(key, size, sha256)
