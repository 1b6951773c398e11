"""Replicate in several processes: the plan is stored in pieces at the target, and each task copies one piece.

`prepare` plans and takes the pair's lease, `carry` copies one piece, `conclude` settles, measures and releases the
lease.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from rempart.backup.watch import heartbeat
from rempart.coordination.lease import Lease
from rempart.errors import RempartError, ReplicationError, SiteError, SiteUnavailable
from rempart.flows.replication.reconcile import before_bringing
from rempart.flows.replication.replicate import OnMeasured, OpenPair, ReplicationResult, facts_of, open_pair
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.leases import holder, pair_lease
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.replication_pairs import check_direction, pair_of
from rempart.ledger.port import Ledger
from rempart.repeating import repeating
from rempart.replication.catalogue import Catalogue
from rempart.replication.continuity import Continuity
from rempart.replication.outcome import SHOWN, Outcome, Planned
from rempart.replication.plan import Replica
from rempart.replication.work import SiteStore, Store, decode
from rempart.sites.spool import spool_folder

LAGS = 200
"""Limit of lag samples that a piece reports."""
LEASE_SECONDS = 900.0
"""Seconds for which a run keeps its lease while none of its tasks runs."""


@dataclass(frozen=True)
class Prepared:
    """A planned run: its lease and its pieces. Serializes to JSON, so that tasks can pass it on."""

    source: str
    target: str
    run: str
    generation: int
    holder: str
    began: datetime
    planned: tuple[Planned, ...]
    open_now: bool = True

    def pieces(self) -> list[dict[str, str]]:
        """Return the arguments of each `carry` call; empty outside the pair's window."""
        if not self.open_now:
            return []
        return [{"bucket": plan.bucket, "piece": piece} for plan in self.planned for piece in plan.pieces]

    def as_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = TypeAdapter(Prepared).dump_python(self, mode="json")
        return plain


def prepared(plain: Mapping[str, Any]) -> Prepared:
    """Return the run that `as_json` serialized."""
    return TypeAdapter(Prepared).validate_python(plain)


def prepare(platform: Platform, source: str, target: str, *, run_name: str | None = None) -> Prepared:
    """Take the pair's lease, compare both sites, and store the work in pieces at the target.

    `run_name` is unique to a run: a retry continues the lease of a killed attempt. Raises the errors of `replicate`.
    """
    pair = pair_of(platform.config, source, target)
    check_direction(platform.active(), source)
    before_bringing(platform, source, target)
    who, run, began = run_name or holder(), secrets.token_hex(8), platform.clock()
    lease = platform.continuity.take(pair_lease(source, target), who, LEASE_SECONDS, again=run_name is not None)
    try:
        with spool_folder() as folder, open_pair(platform, source, target, lease) as opened:
            plans = [opened.plan(name, _store(opened, run), folder) for name in pair.buckets]
            open_now = opened.open_now()
    except BaseException:
        platform.continuity.release(lease)
        raise
    return Prepared(source, target, run, lease.generation, who, began, tuple(plans), open_now)


def carry(platform: Platform, prepared: Prepared, piece: Mapping[str, str]) -> dict[str, Any]:
    """Copy one piece.

    Raises LeaseLost if another run took the lease, FailoverError if the source is no longer the active site, SiteError
    if the piece cannot be read.
    """
    check_direction(platform.active(), prepared.source)
    lease = _lease(prepared)
    platform.continuity.renew(lease, LEASE_SECONDS)
    with _renewed(platform.continuity, lease), open_pair(platform, prepared.source, prepared.target, lease) as opened:
        body = _store(opened, prepared.run).get(piece["piece"])
        outcome = opened.run(piece["bucket"]).carry(body, opened.progress())
    outcome.lags = _some(outcome.lags)
    outcome.troubles = outcome.troubles[: max(10, SHOWN // len(prepared.pieces()))]
    return {**piece, "outcome": TypeAdapter(Outcome).dump_python(outcome, mode="json")}


def conclude(
    platform: Platform,
    prepared: Prepared,
    outcomes: Sequence[Mapping[str, Any]],
    *,
    accept_deletes: int = 0,
    measured: OnMeasured = lambda result: None,
) -> ReplicationResult:
    """Check that all objects arrived, hide deleted ones, measure, write evidence, release the lease, send the
    heartbeat.

    `outcomes` are the results of `carry` in any order. A piece without a result counts as far as the catalogue knows
    it; the rest of it is pending and failed. `measured` gets the result also if this raises, as in `replicate`.

    Called again after the evidence was written, because the first answer was lost, this gives the recorded outcome and
    sends nothing: the lag was that of an earlier moment. Raises LeaseLost if the pair was replicated since then.
    """
    lease = _lease(prepared)
    try:
        check_direction(platform.active(), prepared.source)
        if recorded := _recorded(platform.ledger, prepared):
            return recorded
        platform.continuity.renew(lease, LEASE_SECONDS)
        pair = open_pair(platform, prepared.source, prepared.target, lease)
        with _renewed(platform.continuity, lease), pair as opened:
            result = _settle(opened, prepared, outcomes, accept_deletes, measured)
    finally:
        platform.continuity.release(lease)
    facts = facts_of(prepared.source, prepared.target, result)
    beat(platform, heartbeat.replication(prepared.source, prepared.target), facts)
    return result


def _recorded(ledger: Ledger, prepared: Prepared) -> ReplicationResult | None:
    """Return the result of this run if it is the newest evidence of the pair. Raises the error that it recorded."""
    pair = f"{prepared.source}->{prepared.target}"
    newest = next(iter(ledger.find("replication", pair, limit=1)), None)
    if newest is None or newest.body.get("run") != prepared.run:
        return None
    body, hint = newest.body, "Read the log of the first attempt of this task, and then start a new run."
    if body["failures"]:
        raise SiteError(
            f"{pair}: {body['failures']} of {body['objects']} objects did not reach the target, by evidence "
            f"{newest.seq} of an earlier attempt",
            hint,
        )
    if body["stopped"]:
        raise ReplicationError(f"{body['stopped']} (evidence {newest.seq} of an earlier attempt)", hint)
    return TypeAdapter(ReplicationResult).validate_python({f.name: body[f.name] for f in fields(ReplicationResult)})


def _settle(
    opened: OpenPair,
    prepared: Prepared,
    outcomes: Sequence[Mapping[str, Any]],
    accept_deletes: int,
    measured: OnMeasured,
) -> ReplicationResult:
    """Add up the outcomes of all pieces, settle each bucket, and write the evidence."""
    told = {carried_piece["piece"]: carried_piece["outcome"] for carried_piece in outcomes}
    plans, store = prepared.planned, _store(opened, prepared.run)
    carried = {plan.bucket: Outcome() for plan in plans}
    for planned in plans if prepared.open_now else ():
        for piece in planned.pieces:
            if piece in told:
                outcome = TypeAdapter(Outcome).validate_python(told[piece])
            else:
                outcome = _untold(opened.known, planned, store.get(piece))
            carried[planned.bucket].add(outcome)
    done, began = carried if prepared.open_now else None, prepared.began
    with spool_folder() as folder:
        return opened.conclude(plans, done, store, folder, began, accept_deletes, measured, run=prepared.run)


def _untold(known: Catalogue, planned: Planned, body: bytes) -> Outcome:
    """Return the outcome of a piece whose task returned none: recorded copies count as done, the rest as pending."""
    plans, outcome = list(decode(body)), Outcome()
    left = {(plan.key, copy.source.version_id or ""): copy for plan in plans for copy in plan.copies}
    newest: dict[str, Replica] = {}
    for row in known.copied_since(planned.bucket, planned.began):
        if left.pop((row.key, row.version), None) is not None:
            outcome.copied += row.basis != "found there"
            outcome.copied_bytes += row.size
            newest[row.key] = row
    why = SiteUnavailable("the task that copies this object failed", "Read the log of that task.")
    for plan in plans:
        if copies := [copy for copy in plan.copies if (plan.key, copy.source.version_id or "") in left]:
            outcome.trouble(plan.key, why, copies)
        elif plan.copies and not plan.copies[-1].source.marker:
            outcome.arrived(newest[plan.key])
    return outcome


def _some(lags: Sequence[float]) -> list[float]:
    """Return an evenly spread sample, with the longest lag. It bounds what a task passes on."""
    step = -(-len(lags) // LAGS) or 1
    return [round(lag, 3) for lag in sorted(lags)[::-step]]


def _store(pair: OpenPair, run: str) -> Store:
    return SiteStore(pair.target, pair.config.buckets.backups, f"replication/work/{run}")


def _lease(prepared: Prepared) -> Lease:
    return Lease(pair_lease(prepared.source, prepared.target), prepared.generation, prepared.holder)


@contextmanager
def _renewed(continuity: Continuity, lease: Lease) -> Iterator[None]:
    """Renew the lease of a run with several processes while one of them works."""

    def keep() -> bool:
        with suppress(RempartError):  # the next write checks whether the lease has ended
            continuity.renew(lease, LEASE_SECONDS)
        return lease.lost.is_set()

    with repeating(keep, LEASE_SECONDS / 10, "lease"):
        yield
