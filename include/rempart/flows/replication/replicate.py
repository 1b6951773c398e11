"""Replicate every object of a pair's buckets to the target, verify it there, and measure the lag.

`replicate` does this in one process, flows.replication.replicate_in_tasks in several.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from rempart.backup.watch import heartbeat
from rempart.coordination.lease import Lease
from rempart.counts import size
from rempart.errors import ReplicationError, SiteError, SiteUnavailable
from rempart.flows.doctor.doctor_site import require
from rempart.flows.replication.reconcile import before_bringing
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.leases import when_free
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import check_direction, pair_of, physical_bucket
from rempart.ledger.port import Ledger
from rempart.replication.continuity import Continuity
from rempart.replication.guards import DeleteLimits
from rempart.replication.outcome import Outcome, Planned, Rules, Trouble, grade_of, lag_seconds, quantiles
from rempart.replication.run import BucketRun
from rempart.replication.transfer import KeyResult, Mover, Throttle
from rempart.replication.work import FolderStore, Store
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all
from rempart.settings.sections import ReplicationPair
from rempart.sites.capabilities import CapabilityRecord
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.training.attempts.checkpoints import is_checkpoint

logger = logging.getLogger(__name__)

LOG_EVERY = 5.0


@dataclass(frozen=True)
class ReplicationResult:
    """Result of a replication. `objects` and `bytes` count the source, `verified` the objects with a verified replica.

    `copied` (`copied_bytes`) objects were written by this run. `hidden` objects are deleted at the source and hidden at
    the target. `purged` versions were deleted at the target for good. `kept` objects remain at the target although the
    source deleted them. `failed` names the first `bucket/key` that did not reach the target; `failures` counts them.
    `lag_seconds` is the age of the oldest missing change; the other lags describe the changes of this run. `pending`
    (`pending_bytes`) changes are not at the target yet. `throughput` is in bytes per second.

    `grade` tells how replicas were verified: `read_back` at the target, or `accepted` by checksum and listing. Accepted
    replicas are read back by `read_back_due` (ISO 8601, or None). `unvouched` objects have no digest from their writer;
    they were compared with the ETag of the source.
    """

    objects: int
    bytes: int
    copied: int
    copied_bytes: int
    verified: int
    kept: int
    hidden: int
    purged: int
    failed: tuple[str, ...]
    failures: int
    pending: int
    pending_bytes: int
    lag_seconds: float
    lag_p50: float
    lag_p95: float
    lag_max: float
    seconds: float
    throughput: float
    grade: str
    read_back: int
    accepted: int
    read_back_due: str | None
    unvouched: int


OnMeasured = Callable[[ReplicationResult], object]


def replicate(platform: Platform, source: str, target: str, *, accept_deletes: int = 0) -> ReplicationResult:
    """Replicate changes and deletions of the pair's buckets from `source` to `target`.

    A failed key does not stop the others. At the end SiteError names the failed keys (SiteUnavailable if a retry may
    help for each). A failed listing, or an empty listing where objects were before, changes nothing. If more objects
    are gone at the source than the pair's limits and `accept_deletes` allow, the rest is replicated and
    ReplicationError is raised. Writes evidence of kind `replication`, and a heartbeat on success. Raises FailoverError
    if the source is not the active site, LeaseHeld, CapabilityMissing, PlacementDenied, ConfigError.
    """
    pair = pair_of(platform.config, source, target)
    check_direction(platform.active(), source)
    before_bringing(platform, source, target)
    result = bring(platform, source, target, pair.buckets, accept_deletes=accept_deletes)
    beat(platform, heartbeat.replication(source, target), facts_of(source, target, result))
    return result


def facts_of(source: str, target: str, result: ReplicationResult) -> dict[str, Any]:
    """Return the facts of the pair's heartbeat: every object arrived, and the lag of the target."""
    facts = {name: getattr(result, name) for name in ("objects", "verified", "pending", "lag_seconds")}
    return {"source": source, "target": target, **facts}


def bring(
    platform: Platform,
    source: str,
    target: str,
    buckets: Sequence[str],
    *,
    accept_deletes: int = 0,
    thorough: bool = False,
    whenever: bool = False,
    patience: float = 0,
) -> ReplicationResult:
    """Replicate these logical buckets as `replicate` does, in either direction, whichever site is active.

    `thorough` compares all versions, however recent the last comparison is. `whenever` ignores the pair's window.
    `patience` is the number of seconds to wait for the pair's lease.
    """
    with (
        when_free(platform.continuity, source, target, patience) as lease,
        spool_folder() as folder,
        open_pair(platform, source, target, lease, thorough=thorough) as pair,
    ):
        open_now = whenever or pair.open_now()
        return pair.whole(buckets, FolderStore(folder), folder, accept_deletes, open_now)


def check_objective(config: Config, source: str, target: str, result: ReplicationResult) -> None:
    """Check the age of the oldest missing change against the pair's objective. Raises ReplicationError."""
    objective = pair_of(config, source, target).lag_objective.total_seconds()
    if result.lag_seconds > objective:
        raise ReplicationError(
            f"{source} -> {target}: lag {result.lag_seconds:.0f} s exceeds the objective of {objective:.0f} s; "
            f"{result.pending} changes ({size(result.pending_bytes)}) are pending",
            "Widen the pair's `window` in rempart.yaml, or raise its `lag_objective`. The changes wait for the window.",
        )


def lines(result: ReplicationResult) -> list[str]:
    """Yield a result as lines for people."""
    shown = [
        f"{result.verified} of {result.objects} objects ({size(result.bytes)}) have a verified replica",
        f"grade: {result.grade}",
        f"copied {result.copied} ({size(result.copied_bytes)}) in {result.seconds:.1f} s",
        f"hidden {result.hidden}, purged {result.purged}, kept {result.kept} that the source deleted",
        f"lag {result.lag_seconds:.0f} s, {result.pending} changes ({size(result.pending_bytes)}) pending",
    ]
    if result.copied:
        age = f"median {result.lag_p50:.0f} s, 95 % {result.lag_p95:.0f} s, longest {result.lag_max:.0f} s"
        shown.append(f"lag of the copied changes: {age}")
    return shown


def late_line(config: Config, source: str, target: str, run: str, since: str) -> str:
    """Return the message about a run that exceeds the objective of its pair."""
    objective = pair_of(config, source, target).lag_objective.total_seconds()
    return (
        f"{source} -> {target}: run {run}, queued at {since}, is still running after {objective:.0f} s; changes "
        "from before that time may be missing at the target"
    )


def record_late(platform: Platform, source: str, target: str, run: str, since: datetime, until: datetime) -> bool:
    """Write evidence if a run took longer than the objective of its pair. Return whether it did."""
    objective = pair_of(platform.config, source, target).lag_objective
    if until - since <= objective:
        return False
    body = {"run": run, "since": since.isoformat(), "objective_seconds": objective.total_seconds()}
    platform.ledger.append("replication", f"late {source}->{target}", body)
    return True


class OpenPair:
    """Both sites of a pair, opened and proven, with the operations done under one lease."""

    def __init__(
        self,
        sites: tuple[Site, Site],
        able: tuple[CapabilityRecord, CapabilityRecord],
        lease: Lease,
        config: Config,
        ledger: Ledger,
        continuity: Continuity,
        clock: Callable[[], datetime],
        *,
        thorough: bool = False,
    ) -> None:
        (self.source, self.target), self.able, self.lease, self.thorough = sites, able, lease, thorough
        self.config, self.ledger, self.clock = config, ledger, clock
        self.known = continuity.catalogue(self.source.name, self.target.name)
        ends = {self.source.name, self.target.name}
        # in both directions: the way back has the same rules
        declared = (pair for pair in config.replication if {pair.source, pair.target} == ends)
        self.pair = next(declared, None) or ReplicationPair(source=self.source.name, target=self.target.name)
        self.throttle = Throttle(self.pair.bandwidth)
        self.pool = ThreadPoolExecutor(self.pair.transfers, thread_name_prefix="replicate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def run(self, bucket: str) -> BucketRun:
        deletes = self.pair.deletes
        rules = Rules(
            DeleteLimits(deletes.share, deletes.count),
            deletes.sightings,
            deletes.interval,
            deletes.keep,
            timedelta() if self.thorough else self.pair.compare,
            self.pair.tags,
            self.pair.transfers,
        )
        mover = Mover(
            self.source,
            self.target,
            bucket,
            self.clock,
            arrival=self._proven("wrong digest refused"),
            parts_arrival=self._proven("wrong part refused"),
            md5_etags=self.able[0].outcome("MD5 ETags") == "proven",
            tags=self.pair.tags and self._proven("tags"),
            throttle=self.throttle,
        )
        # a job's checkpoints live for minutes and are learnt from data: they are not copied
        return BucketRun(
            self.source,
            self.target,
            bucket,
            self.known,
            self.lease,
            self.able,
            rules,
            mover,
            self.pool,
            self.clock,
            is_checkpoint,
        )

    def _proven(self, capability: str) -> bool:
        return self.able[1].outcome(capability) == "proven"

    def plan(self, name: str, store: Store, folder: Path) -> Planned:
        bucket = physical_bucket(self.config, name)
        bucket_plan = self.run(bucket).plan(store, folder)
        logger.info(
            "%s: %d objects at '%s'; %d changes to copy to '%s', %d deletions",
            bucket,
            bucket_plan.outcome.objects,
            self.source.name,
            bucket_plan.todo.waiting,
            self.target.name,
            bucket_plan.hides,
        )
        return bucket_plan

    def whole(
        self, buckets: Sequence[str], store: Store, folder: Path, accept_deletes: int, open_now: bool
    ) -> ReplicationResult:
        began = self.clock()
        plans = [self.plan(name, store, folder) for name in buckets]  # all listings end before the first copy
        carried = {plan.bucket: Outcome() for plan in plans}
        report = self.progress(f" of {sum(plan.todo.waiting for plan in plans)}")
        for plan in plans if open_now else ():
            for piece in plan.pieces:
                carried[plan.bucket].add(self.run(plan.bucket).carry(store.get(piece), report))
        return self.conclude(plans, carried if open_now else None, store, folder, began, accept_deletes)

    def open_now(self) -> bool:
        """Return whether the pair's window is open. Report it if not."""
        window = self.pair.window
        if window is None or window.open_at(self.clock().time()):
            return True
        logger.info("nothing copied: outside the window %s to %s UTC", f"{window.begin:%H:%M}", f"{window.end:%H:%M}")
        return False

    def conclude(
        self,
        plans: Sequence[Planned],
        carried: Mapping[str, Outcome] | None,
        store: Store,
        folder: Path,
        began: datetime,
        accept_deletes: int,
        measured: OnMeasured = lambda result: None,
        run: str | None = None,
    ) -> ReplicationResult:
        """Return the result of a run. `carried` holds the outcome of each bucket, or None outside the window.

        The evidence names `run`.
        """
        total, stopped = Outcome(), None
        failed: list[str] = []
        troubles: list[Trouble] = []
        for plan in plans:
            outcome = Outcome()
            outcome.add(plan.outcome)
            if carried is None:
                outcome.add(plan.todo)
            else:
                outcome.add(carried[plan.bucket])
                settled, why = self.run(plan.bucket).settle(plan, store, folder, accept_deletes)
                outcome.add(settled)
                stopped = stopped or why
            failed += [f"{plan.bucket}/{trouble.key}" for trouble in outcome.troubles]
            troubles += outcome.troubles
            total.add(outcome)
        result = self._result(total, failed, began)
        names = [plan.bucket for plan in plans]
        subject = f"{self.source.name}->{self.target.name}"
        facts = {"failed": failed, "buckets": names, "run": run, "stopped": stopped.what if stopped else None}
        self.ledger.append("replication", subject, asdict(result) | facts)
        store.drop([piece for plan in plans for piece in (*plan.pieces, *plan.hiding, *plan.last)])
        measured(result)
        if total.failures:
            raise _incomplete(result, self.pair, self.target.name, failed, troubles)
        if stopped:
            raise stopped
        return result

    def _result(self, total: Outcome, failed: list[str], began: datetime) -> ReplicationResult:
        now = self.clock()
        seconds = max((now - began).total_seconds(), 1e-3)
        p50, p95, longest = quantiles(total.lags)
        grade = grade_of(total)
        return ReplicationResult(
            total.objects,
            total.bytes,
            total.copied,
            total.copied_bytes,
            total.verified,
            total.kept,
            total.hidden,
            total.purged,
            tuple(failed),
            total.failures,
            total.waiting,
            total.waiting_bytes,
            lag_seconds(total.oldest, now),
            p50,
            p95,
            longest,
            round(seconds, 3),
            round(total.copied_bytes / seconds, 1),
            str(grade),
            grade.read_back,
            grade.accepted,
            grade.due.isoformat(timespec="seconds") if grade.due else None,
            grade.unvouched,
        )

    def progress(self, of: str = "") -> Callable[[KeyResult], None]:
        """Log every few seconds how many objects are copied; `of` tells how many there are in all."""
        last, copied, sent = self.clock(), 0, 0

        def count(done: KeyResult) -> None:
            nonlocal last, copied, sent
            copied, sent, now = copied + done.put, sent + done.bytes, self.clock()
            if (now - last).total_seconds() >= LOG_EVERY:
                last = now
                logger.info("copied %d%s objects (%s)", copied, of, size(sent))

        return count


def open_pair(platform: Platform, source: str, target: str, lease: Lease, *, thorough: bool = False) -> OpenPair:
    """Open both sites of a pair. Raises PlacementDenied, CapabilityMissing, SiteError."""
    classification = classification_of(load_all())
    sites = (platform.site(source, classification), platform.site(target, classification, "replica", replica_of=source))
    able = (require(platform, sites[0], "replication"), require(platform, sites[1], "replication"))
    config, ledger, continuity = platform.config, platform.ledger, platform.continuity
    return OpenPair(sites, able, lease, config, ledger, continuity, platform.clock, thorough=thorough)


def _incomplete(
    result: ReplicationResult, pair: ReplicationPair, target: str, failed: Sequence[str], troubles: Sequence[Trouble]
) -> SiteError:
    kind = SiteUnavailable if all(trouble.transient for trouble in troubles) else SiteError
    shown = "\n".join(f"  {where}: {trouble.what}" for where, trouble in list(zip(failed, troubles, strict=True))[:10])
    more = f"\n  and {result.failures - 10} more" if result.failures > 10 else ""
    return kind(
        f"{result.failures} of {result.objects} objects did not reach site '{target}' (lag "
        f"{result.lag_seconds:.0f} s, objective {pair.lag_objective.total_seconds():.0f} s):\n{shown}{more}",
        f"The other objects were copied. {troubles[0].hint} Then run the replication again (docs/runbooks/replica.md).",
    )
