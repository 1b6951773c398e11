"""Replicate one site to another: each object of the pair's buckets, verified at the far side, and the lag measured.

`replicate` does all of it in one process. `prepare`, `carry` and `conclude` are the same in several: what is to be done
lies in pieces at the target, and each piece may be carried by a task of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from rempart.config import Config
from rempart.errors import (
    ConfigError,
    FailoverError,
    LeaseHeld,
    PipelineError,
    RempartError,
    ReplicationError,
    SiteError,
    SiteUnavailable,
)
from rempart.flows.doctor_site import require
from rempart.flows.platform import Platform
from rempart.pipeline import Pipeline, load_all
from rempart.replication.catalogue import Catalogue
from rempart.replication.lease import Lease
from rempart.replication.plan import DeleteLimits, lag_seconds, quantiles
from rempart.replication.run import SHOWN, BucketRun, Outcome, Planned, Rules, Trouble
from rempart.replication.transfer import Carried, Mover, Throttle
from rempart.replication.work import FolderStore, SiteStore, Store, decode
from rempart.sections import Classification, ReplicationPair
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder
from rempart.sovereignty.classification import highest
from rempart.training.checkpoints import is_checkpoint

Say = Callable[[str], object]
LAGS = 200
"""Samples of its lags that a piece tells."""
TURN_SECONDS = 900.0
"""How long a run of several tasks keeps its turn while none of them runs."""
PATIENCE = 900.0
"""How long those wait for a pair's turn who have more to do than this: its runs are short, or lose it by then."""
SAY_EVERY = 5.0


@dataclass(frozen=True)
class ReplicationResult:
    """`objects` and `bytes` as the source lists them; `verified` of them have a replica that was verified.

    `copied` (`copied_bytes`) were put by this run; `hidden` are gone at the source and hidden at the target, `purged`
    versions were deleted there for good; `kept` stand at the target though the source no longer has them; `failed`
    names `bucket/key` of the first that did not reach the target, `failures` counts them. `lag_seconds` is the age of
    the oldest change not yet there; the others are of the changes that this run brought. `pending` (`pending_bytes`):
    changes that are not yet there. `throughput`: bytes per second.
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


Measured = Callable[[ReplicationResult], object]


def classification_of(pipelines: Mapping[str, Pipeline | PipelineError]) -> Classification:
    """How to treat a bucket that all pipelines share: as its most protected data.

    Without any pipeline, and for one that does not load, that is `personal` at least: what they hold is not known.
    """
    loaded = pipelines.values()
    known: list[Classification] = [p.classification for p in loaded if not isinstance(p, PipelineError)]
    return highest(known if len(known) == len(loaded) > 0 else [*known, "personal"])


def physical_bucket(config: Config, logical: str) -> str:
    """The bucket's name at every site."""
    return str(getattr(config.buckets, logical))


def catalogue(platform: Platform, source: str, target: str) -> Catalogue:
    """What stands at the target, verified, by physical bucket."""
    return platform.continuity.catalogue(source, target)


def pair_of(config: Config, source: str, target: str) -> ReplicationPair:
    """The declared pair. Raises ConfigError."""
    for pair in config.replication:
        if (pair.source, pair.target) == (source, target):
            return pair
    declared = ", ".join(f"{pair.source} -> {pair.target}" for pair in config.replication) or "none"
    raise ConfigError(
        f"replication: the pair {source} -> {target} is not declared (declared: {declared})",
        "Add it to `replication` in rempart.yaml.",
    )


def replicate(
    platform: Platform, source: str, target: str, *, accept_deletes: int = 0, say: Say = lambda line: None
) -> ReplicationResult:
    """Bring every new or changed object of the pair's buckets from `source` to `target`, and what was deleted.

    A key that fails does not stop the others; then the call raises SiteError naming the failed keys (SiteUnavailable if
    each of them may work later). A listing that fails, or an empty one where objects were before, changes nothing.
    When more is gone at the source than the pair's limits and `accept_deletes` allow, the rest is done and
    ReplicationError raised. Writes evidence of kind `replication`. Raises FailoverError if the source is not the active
    site, LeaseHeld, CapabilityMissing, PlacementDenied, ConfigError.
    """
    pair = pair_of(platform.config, source, target)
    check_direction(platform, source)
    return bring(platform, source, target, pair.buckets, accept_deletes=accept_deletes, say=say)


def check_direction(platform: Platform, source: str) -> None:
    """Raises FailoverError unless the source is the active site: what is older must not replace what is newer."""
    active = platform.active()
    if active.site != source:
        raise FailoverError(
            f"Site '{source}' is not the active site ('{active.site}' is, generation {active.generation})",
            "Nothing was copied. `rempart failback` brings what is newer back, and then this pair goes on.",
        )


def check_objective(config: Config, source: str, target: str, result: ReplicationResult) -> None:
    """Raises ReplicationError if what is not at the target yet is older than the pair's objective."""
    objective = pair_of(config, source, target).lag_objective.total_seconds()
    if result.lag_seconds > objective:
        raise ReplicationError(
            f"{source} -> {target}: lag {result.lag_seconds:.0f} s is above the objective of {objective:.0f} s; "
            f"{result.pending} changes ({result.pending_bytes / 1e6:.1f} MB) are not there yet",
            "They wait for the pair's `window` in rempart.yaml: widen it, or state a `lag_objective` that it can keep.",
        )


def as_json(result: Any) -> str:
    """A result as one JSON document."""
    return json.dumps(asdict(result), indent=2)


def lines(result: ReplicationResult) -> list[str]:
    """A result as a person reads it."""
    shown = [
        f"{result.verified} of {result.objects} objects ({result.bytes / 1e6:.1f} MB) have a verified replica",
        f"copied {result.copied} ({result.copied_bytes / 1e6:.1f} MB) in {result.seconds:.1f} s",
        f"hidden {result.hidden}, deleted for good {result.purged}, kept {result.kept} that the source no longer has",
        f"lag {result.lag_seconds:.0f} s, {result.pending} changes ({result.pending_bytes / 1e6:.1f} MB) to come",
    ]
    if result.copied:
        age = f"median {result.lag_p50:.0f} s, 95 % {result.lag_p95:.0f} s, longest {result.lag_max:.0f} s"
        shown.append(f"age of what was copied when it arrived: {age}")
    return shown


def record_late(platform: Platform, source: str, target: str, run: str, since: str) -> str:
    """Evidence that a run has not ended within the objective of its pair; what to tell of it."""
    objective = pair_of(platform.config, source, target).lag_objective.total_seconds()
    body = {"run": run, "since": since, "objective_seconds": objective}
    platform.ledger.append("replication", f"late {source}->{target}", body)
    return (
        f"{source} -> {target}: run {run} has not ended {objective:.0f} s after it was queued at {since}: "
        "what changed before that may not be at the target yet"
    )


def bring(
    platform: Platform,
    source: str,
    target: str,
    buckets: Sequence[str],
    *,
    accept_deletes: int = 0,
    thorough: bool = False,
    patience: float = 0,
    say: Say = lambda line: None,
) -> ReplicationResult:
    """As `replicate`, for these logical buckets, in either direction, whichever site is the active one.

    `thorough`: all versions are compared, whenever that was done last; `patience`: seconds to wait for the pair's turn.
    """
    with (
        when_free(platform, source, target, patience, say) as lease,
        spool_folder() as folder,
        _Work(platform, source, target, lease, say, thorough=thorough) as work,
    ):
        return work.whole(buckets, FolderStore(folder), folder, accept_deletes, say)


@contextmanager
def when_free(
    platform: Platform, source: str, target: str, patience: float, say: Say = lambda line: None
) -> Iterator[Lease]:
    """The pair's turn, waited for that many seconds if another run has it. Raises LeaseHeld."""
    until = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            try:
                lease = held.enter_context(platform.continuity.turn(_name(source, target), _holder()))
                break
            except LeaseHeld as error:
                if time.monotonic() >= until:
                    raise
                say(f"waiting: {error.what}")
                time.sleep(min(5, patience))
        yield lease


# --- the same in several processes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A run that was planned: its turn, and its pieces. JSON both ways, so that tasks can hand it on."""

    source: str
    target: str
    run: str
    generation: int
    holder: str
    began: datetime
    planned: tuple[Planned, ...]
    open_now: bool = True

    def pieces(self) -> list[dict[str, str]]:
        """What `carry` is to be called with; nothing out of the pair's window."""
        if not self.open_now:
            return []
        return [{"bucket": one.bucket, "piece": piece} for one in self.planned for piece in one.pieces]

    def as_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = TypeAdapter(Prepared).dump_python(self, mode="json")
        return plain


def prepared(plain: Mapping[str, Any]) -> Prepared:
    """What `as_json` gave."""
    return TypeAdapter(Prepared).validate_python(plain)


def prepare(platform: Platform, source: str, target: str, say: Say = lambda line: None) -> Prepared:
    """Take the pair's turn, compare both sides, and leave the work in pieces at the target. Raises as `replicate`."""
    pair = pair_of(platform.config, source, target)
    check_direction(platform, source)
    holder, run, began = _holder(), secrets.token_hex(8), platform.clock()
    lease = platform.continuity.take(_name(source, target), holder, TURN_SECONDS)
    try:
        with spool_folder() as folder, _Work(platform, source, target, lease, say) as work:
            plans = [work.plan(name, work.store(run), folder, say) for name in pair.buckets]
            open_now = work.open_now(say)
    except BaseException:
        platform.continuity.release(lease)
        raise
    return Prepared(source, target, run, lease.generation, holder, began, tuple(plans), open_now)


def carry(
    platform: Platform, prepared: Prepared, piece: Mapping[str, str], say: Say = lambda line: None
) -> dict[str, Any]:
    """Copy one piece. Raises LeaseLost if another run has the turn by now, SiteError if its piece cannot be read."""
    lease = _lease(prepared)
    platform.continuity.renew(lease, TURN_SECONDS)
    with _renewed(platform, lease), _Work(platform, prepared.source, prepared.target, lease, say) as work:
        body = work.store(prepared.run).get(piece["piece"])
        outcome = work.run(piece["bucket"]).carry(body, work.progress(say))
    outcome.lags = _some(outcome.lags)
    outcome.troubles = outcome.troubles[: max(10, SHOWN // len(prepared.pieces()))]
    return {**piece, "outcome": TypeAdapter(Outcome).dump_python(outcome, mode="json")}


def conclude(
    platform: Platform,
    prepared: Prepared,
    outcomes: Sequence[Mapping[str, Any]],
    *,
    accept_deletes: int = 0,
    measured: Measured = lambda result: None,
    say: Say = lambda line: None,
) -> ReplicationResult:
    """See that everything is there, hide what is gone, measure, write the evidence, and end the turn.

    `outcomes`: what `carry` returned, in any order. A piece without one counts by what the catalogue has of it; the
    rest of it is pending, and failed. `measured` gets the result also when this raises, as `replicate` does.
    """
    lease = _lease(prepared)
    platform.continuity.renew(lease, TURN_SECONDS)
    told = {one["piece"]: one["outcome"] for one in outcomes}
    carried = {one.bucket: Outcome() for one in prepared.planned}
    try:
        opened = _Work(platform, prepared.source, prepared.target, lease, say)
        with spool_folder() as folder, _renewed(platform, lease), opened as work:
            store = work.store(prepared.run)
            for planned in prepared.planned:
                if not prepared.open_now:
                    carried[planned.bucket].add(planned.todo)
                for piece in planned.pieces if prepared.open_now else ():
                    if piece in told:
                        outcome = TypeAdapter(Outcome).validate_python(told[piece])
                    else:
                        outcome = work.untold(planned, store.get(piece))
                    carried[planned.bucket].add(outcome)
            return work.conclude(prepared.planned, carried, store, folder, prepared.began, accept_deletes, measured)
    finally:
        platform.continuity.release(lease)


def _some(lags: Sequence[float]) -> list[float]:
    """Evenly spread over all of them, the longest included: what a task hands on stays small."""
    step = -(-len(lags) // LAGS) or 1
    return [round(lag, 3) for lag in sorted(lags)[::-step]]


def _name(source: str, target: str) -> str:
    return f"replicate {source} -> {target}"


def _holder() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


def _lease(prepared: Prepared) -> Lease:
    return Lease(_name(prepared.source, prepared.target), prepared.generation, prepared.holder)


@contextmanager
def _renewed(platform: Platform, lease: Lease) -> Iterator[None]:
    """Renew the turn of a run of several processes while one of them works."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(TURN_SECONDS / 10):
            try:
                platform.continuity.renew(lease, TURN_SECONDS)
            except RempartError:  # what is written next finds out whether the turn is over
                if lease.lost.is_set():
                    return

    thread = threading.Thread(target=keep, name="turn", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Work:
    """Both sites of a pair, open and proven, and what is done between them under one turn."""

    def __init__(
        self, platform: Platform, source: str, target: str, lease: Lease, say: Say, *, thorough: bool = False
    ) -> None:
        self.platform, self.lease, self.thorough = platform, lease, thorough
        classification = classification_of(load_all())
        self.source: Site = platform.site(source, classification)
        self.target: Site = platform.site(target, classification, "replica", beside=source)
        self.able = (
            require(platform, self.source, "replication", say),
            require(platform, self.target, "replication", say),
        )
        declared = (
            pair for pair in platform.config.replication if {pair.source, pair.target} == {source, target}
        )  # either direction: the way back has the rules of the way there
        self.pair = next(declared, None) or ReplicationPair(source=source, target=target)
        self.throttle = Throttle(self.pair.bandwidth)
        self.pool = ThreadPoolExecutor(self.pair.transfers, thread_name_prefix="replicate")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def store(self, run: str) -> Store:
        return SiteStore(self.target, self.platform.config.buckets.backups, f"replication/work/{run}")

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
        clock = self.platform.clock
        mover = Mover(
            self.source,
            self.target,
            bucket,
            clock,
            arrival=self._proven("wrong digest refused"),
            parts_arrival=self._proven("wrong part refused"),
            tags=self.pair.tags,
            throttle=self.throttle,
        )
        known = catalogue(self.platform, self.source.name, self.target.name)
        # a job's checkpoints live for minutes and are learnt from data: they are not copied
        return BucketRun(
            self.source,
            self.target,
            bucket,
            known,
            self.lease,
            self.able,
            rules,
            mover,
            self.pool,
            clock,
            is_checkpoint,
        )

    def _proven(self, capability: str) -> bool:
        return self.able[1].outcome(capability) == "proven"

    def plan(self, name: str, store: Store, folder: Path, say: Say) -> Planned:
        bucket = physical_bucket(self.platform.config, name)
        made = self.run(bucket).plan(store, folder)
        say(
            f"{bucket}: {made.outcome.objects} objects at '{self.source.name}', {made.todo.waiting} changes to bring "
            f"to '{self.target.name}'" + (f", {made.hides} to hide" if made.hides else "")
        )
        return made

    def whole(
        self, buckets: Sequence[str], store: Store, folder: Path, accept_deletes: int, say: Say
    ) -> ReplicationResult:
        began = self.platform.clock()
        # every listing is complete before the first object is copied
        plans = [self.plan(name, store, folder, say) for name in buckets]
        carried = {one.bucket: Outcome() for one in plans}
        if self.open_now(say):
            for one in plans:
                for piece in one.pieces:
                    carried[one.bucket].add(self.run(one.bucket).carry(store.get(piece), self.progress(say)))
        else:
            for one in plans:
                carried[one.bucket].add(one.todo)
        return self.conclude(plans, carried, store, folder, began, accept_deletes)

    def open_now(self, say: Say) -> bool:
        """Whether it is time to copy; told if not."""
        window = self.pair.window
        if window is None or window.open_at(self.platform.clock().time()):
            return True
        say(f"out of the window from {window.begin:%H:%M} to {window.end:%H:%M} UTC: nothing is copied now")
        return False

    def untold(self, planned: Planned, body: bytes) -> Outcome:
        """What came of a piece whose task did not tell: what it recorded is there, the rest is still to be made."""
        plans, outcome = list(decode(body)), Outcome()
        left = {(plan.key, copy.source.version_id or ""): copy for plan in plans for copy in plan.copies}
        known = catalogue(self.platform, self.source.name, self.target.name)
        for row in known.copied_since(planned.bucket, planned.began):
            if left.pop((row.key, row.version), None) is not None:
                outcome.copied += row.basis != "found there"
                outcome.copied_bytes += row.size
        why = SiteUnavailable("the task that was to copy it failed", "Read the log of that task.")
        for plan in plans:
            if copies := [copy for copy in plan.copies if (plan.key, copy.source.version_id or "") in left]:
                outcome.trouble(plan.key, why, copies)
            elif plan.copies and not plan.copies[-1].source.marker:
                outcome.verified += 1
        return outcome

    def conclude(
        self,
        plans: Sequence[Planned],
        carried: Mapping[str, Outcome],
        store: Store,
        folder: Path,
        began: datetime,
        accept_deletes: int,
        measured: Measured = lambda result: None,
    ) -> ReplicationResult:
        total, stopped = Outcome(), None
        failed: list[str] = []
        troubles: list[Trouble] = []
        for one in plans:
            outcome = Outcome()
            outcome.add(one.outcome)
            outcome.add(carried[one.bucket])
            settled, why = self.run(one.bucket).settle(one, store, folder, accept_deletes)
            outcome.add(settled)
            stopped = stopped or why
            failed += [f"{one.bucket}/{trouble.key}" for trouble in outcome.troubles]
            troubles += outcome.troubles
            total.add(outcome)
            store.drop((*one.pieces, *one.hiding))
        result = self._result(total, failed, began)
        names = [one.bucket for one in plans]
        subject = f"{self.source.name}->{self.target.name}"
        self.platform.ledger.append("replication", subject, {**asdict(result), "failed": failed, "buckets": names})
        measured(result)
        if total.failures:
            raise _incomplete(result, self.pair, self.target.name, failed, troubles)
        if stopped:
            raise stopped
        return result

    def _result(self, total: Outcome, failed: list[str], began: datetime) -> ReplicationResult:
        now = self.platform.clock()
        seconds = max((now - began).total_seconds(), 1e-3)
        p50, p95, longest = quantiles(total.lags)
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
        )

    def progress(self, say: Say) -> Callable[[Carried], None]:
        """A line each few seconds while objects are copied."""
        last, copied, size = self.platform.clock(), 0, 0

        def told(done: Carried) -> None:
            nonlocal last, copied, size
            copied, size, now = copied + done.put, size + done.bytes, self.platform.clock()
            if (now - last).total_seconds() >= SAY_EVERY:
                last = now
                say(f"  {copied} objects copied, {size / 1e6:.1f} MB")

        return told


def _incomplete(
    result: ReplicationResult, pair: ReplicationPair, target: str, failed: Sequence[str], troubles: Sequence[Trouble]
) -> SiteError:
    kind = SiteUnavailable if all(one.transient for one in troubles) else SiteError
    shown = "\n".join(f"  {where}: {one.what}" for where, one in list(zip(failed, troubles, strict=True))[:10])
    more = f"\n  and {result.failures - 10} more" if result.failures > 10 else ""
    return kind(
        f"{result.failures} of {result.objects} objects did not reach site '{target}'"
        f" (lag {result.lag_seconds:.0f} s, objective {pair.lag_objective.total_seconds():.0f} s):\n{shown}{more}",
        f"The others did. First: {troubles[0].hint} Then run the replication again (docs/runbooks/replica.md).",
    )
