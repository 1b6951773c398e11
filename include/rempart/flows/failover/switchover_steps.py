"""Carry out the steps of a switchover from one site to another.

`flows.failover.fail_over` calls the steps in order. Each returns its outcome and, if it is bad, the error to raise
after the outcome is stored. Each is safe to repeat.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from rempart.coordination.active import Active, ActiveSites
from rempart.coordination.failover import Step, Switchover, SwitchoverFacts, outcome_of_drain
from rempart.errors import (
    FailoverError,
    LeaseHeld,
    LeaseLost,
    ObjectMissing,
    RempartError,
    ReplicationError,
    SiteError,
    SiteUnavailable,
)
from rempart.flows.doctor.doctor_site import require
from rempart.flows.failover import published_state
from rempart.flows.replication import target_readiness
from rempart.flows.replication.reconcile import Reconciled, carry, reconcile
from rempart.flows.replication.replicate import bring
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.ledger.port import Ledger
from rempart.repeating import repeating
from rempart.replication.continuity import Continuity
from rempart.replication.transfer import stored_sha256
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

TrackingSwitch = Callable[[Platform, Active], str]
"""Make MLflow write to the active site, and return how."""
StepOutcome = tuple[dict[str, Any], RempartError | None]
"""The outcome of a step, and the error to raise after the outcome is stored."""
READ_BACK = 25
"""Number of objects per bucket that are read back before the switch. The others are compared by listing."""
WRITERS_SECONDS = 60.0
"""Seconds for which the fence waits for tasks that were committing when it was set."""
_QUIET_SECONDS = 5.0
PATIENCE = 75.0
"""Seconds to wait for a running replication. The lease of a killed run ends within 60 seconds."""


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Log an operation at its start and every five seconds, so that it does not look stuck."""
    logger.info("%s ...", what)
    began = time.monotonic()
    with repeating(lambda: logger.info("%s ... %.0f s", what, time.monotonic() - began), _QUIET_SECONDS, "telling"):
        yield


@dataclass(frozen=True)
class Steps:
    """Steps of a switchover at its two sites.

    `sites` opens each configured site by name, `prove` checks that a site is capable of replication, `bring_all`
    copies every object from one site to another, `tracking` makes MLflow write to the active site.
    """

    config: Config
    ledger: Ledger
    continuity: Continuity
    clock: Callable[[], datetime]
    sites: Mapping[str, Callable[[], Site]]
    prove: Callable[[Site], object]
    bring_all: Callable[[str, str], object]
    tracking: Callable[[Active], str]

    @property
    def active_sites(self) -> ActiveSites:
        return self.continuity.active_sites(self.config.active_site)

    def take(self, step: Step, now: Active, switchover: Switchover, facts: SwitchoverFacts) -> StepOutcome:
        """Take any step except the switch. The caller moves the active site."""
        match step:
            case "fence":
                return self.fence(switchover, facts)
            case "diff":
                return self.diff(switchover)
            case "reverse":
                return self.reverse(switchover)
            case "drain":
                return self.drain(switchover)
            case "verify":
                return self.verify(switchover)
            case _:
                return self.resume(now, switchover)

    def site(self, name: str) -> Site:
        return self.sites[name]()

    def answers(self, name: str) -> bool:
        """Return whether a site lists the shared buckets, each within `time_limit.SITE_SECONDS`.

        A site that refuses (closed account, revoked key), or takes the question and is silent, does not.
        """
        with telling(f"asking site '{name}'"):
            try:
                for logical in BUCKETS:
                    bucket = physical_bucket(self.config, logical)
                    time_limit.answer_of_site(
                        partial(self._first, name, bucket), f"list bucket '{bucket}' at site '{name}'"
                    )
            except SiteError as error:
                logger.warning("%s", error.what)
                return False
        return True

    def _first(self, name: str, bucket: str) -> None:
        next(iter(self.site(name).list(bucket)), None)

    def fence(self, switchover: Switchover, facts: SwitchoverFacts) -> StepOutcome:
        """Wait for tasks that were committing when the fence was set. Wait only briefly at a lost site."""
        patience = WRITERS_SECONDS if facts.source_answers else _QUIET_SECONDS
        settled = self.active_sites.settle(patience)
        if settled or not facts.source_answers:
            return {"ok": True, "writers": "none" if settled else "skipped: the site does not answer"}, None
        return {"ok": False, "writers": f"still committing after {patience:.0f} s"}, FailoverError(
            f"A task still commits at '{switchover.source}' {patience:.0f} s after the fence; no new task can start "
            "a commit",
            "End the running task (ingest, train, validate), or restart the MLflow server, and run again. "
            "`rempart site failover --abandon --yes` removes the fence.",
        )

    def publish(self) -> dict[str, str]:
        """Update the published state of each site that answers."""
        return published_state.write(self.active_sites.active(), self.sites, self.config.buckets.backups)

    def reconcile(self, switchover: Switchover, *, write: bool) -> Reconciled:
        return reconcile(
            self.config,
            self.ledger,
            self.continuity,
            self.site(switchover.source),
            self.site(switchover.target),
            self.active_sites.active().generation,
            write=write,
        )

    def diff(self, switchover: Switchover) -> StepOutcome:
        """Adopt unreplicated objects of the target. Keep both versions of keys that both sites wrote."""
        return {"ok": True, **self.reconcile(switchover, write=True).as_json()}, None

    def reverse(self, switchover: Switchover) -> StepOutcome:
        self.bring_all(switchover.source, switchover.target)
        return {"ok": True, **self.brought(switchover)}, None

    def brought(self, switchover: Switchover) -> dict[str, Any]:
        """Return the body of the newest recorded replication."""
        last = target_readiness.last_replication(self.ledger, switchover.source, switchover.target)
        return {name: last.body[name] for name in ("objects", "bytes", "copied", "verified")} if last else {}

    def drain(self, switchover: Switchover) -> StepOutcome:
        """Copy what the target lacks. Missing objects count as lost only after the operator accepts the loss."""
        fault: RempartError | None = SiteUnavailable(
            f"Site '{switchover.source}' no longer answers", "Run again: the drain continues."
        )
        told: dict[str, Any] = {}
        answered = complete = False
        for _ in range(2 if switchover.accept_loss else 1):  # a source that is to be left gets a second chance
            if not self.answers(switchover.source):
                break
            answered = True
            try:
                told |= self.reconcile(switchover, write=True).as_json()
                told["deliveries"] = self.deliveries(switchover)
                self.bring_all(switchover.source, switchover.target)
                fault = None
            except SiteError as error:
                fault = error
                continue
            # too many objects vanished at the source: that is no reason to stay there
            except ReplicationError as error:
                if isinstance(error, LeaseHeld | LeaseLost):
                    raise
                told["deletes"] = error.what
            last = target_readiness.last_replication(self.ledger, switchover.source, switchover.target)
            complete = last is not None and target_readiness.arrived(last)
            fault = None if complete else _incomplete(switchover)
            told |= self.brought(switchover)
            break
        last = target_readiness.last_replication(self.ledger, switchover.source, switchover.target)
        outcome = outcome_of_drain(
            answered=answered,
            complete=complete,
            accepted=switchover.accept_loss,
            lag_seconds=float(last.body["lag_seconds"]) if last else None,
            known_at=last.at if last else None,
            failed=tuple(last.body["failed"]) if last else (),
            failures=int(last.body["failures"]) if last else 0,
            **told,
        )
        if not outcome["ok"]:
            return outcome, fault
        if not complete:
            logger.warning("accepted as lost: %s", outcome["unknown"])
        return outcome, None

    def deliveries(self, switchover: Switchover) -> int:
        """Copy the deliveries that wait for ingestion. Return their number."""
        bucket = self.config.buckets.landing
        source, target = self.site(switchover.source), self.site(switchover.target)
        return sum(carry(source, target, bucket, info.key) for info in source.list(bucket))

    def verify(self, switchover: Switchover) -> StepOutcome:
        """Compare the target's listing with the verified replicas, and read back a random sample of each bucket."""
        target = self.site(switchover.target)
        objects = read = 0
        bad: list[str] = []
        for name in BUCKETS:
            bucket = physical_bucket(self.config, name)
            there = {info.key: info for info in target.list(bucket)}
            good = []
            for replica in target_readiness.verified(self.continuity, switchover.source, switchover.target, bucket):
                objects += 1
                info = there.get(replica.key)
                if info is None or not replica.stands_in(info):
                    bad.append(f"{bucket}/{replica.key}")
                else:
                    good.append(replica)
            for replica in random.Random(switchover.id).sample(good, min(READ_BACK, len(good))):  # noqa: S311 # a sample
                read += 1
                try:
                    same = stored_sha256(target, bucket, replica.key) == replica.sha256
                except ObjectMissing:
                    same = False
                if not same:
                    bad.append(f"{bucket}/{replica.key}")
        drained = bool(switchover.steps["drain"]["complete"])
        ok = not bad or (switchover.accept_loss and not drained)
        outcome = {"ok": ok, "objects": objects, "read_back": read, "wrong": bad[:100], "wrong_count": len(bad)}
        if ok:
            return outcome, None
        return outcome, FailoverError(
            f"{len(bad)} of {objects} objects at '{switchover.target}' differ from their verified replicas: "
            + ", ".join(bad[:5]),
            "Run again to copy them again. If they differ again, stop using the site (`rempart site doctor`).",
        )

    def resume(self, now: Active, switchover: Switchover) -> StepOutcome:
        """Open the new site: it accepts writes, each site that answers gets the generation, MLflow writes to the new
        site.
        """
        site, bucket = self.site(switchover.target), self.config.buckets.landing
        key, body = ".rempart/active", f"generation {now.generation}".encode()
        site.write(bucket, key, body)
        if site.read(bucket, key) != body:
            return {"ok": False}, SiteError(
                f"Site '{site.name}' returned other bytes than were written",
                "Ask the operator of the site, and do not use it.",
            )
        site.delete(bucket, key)
        mirrors = self.publish()
        try:
            tracking = self.tracking(now)
        except RempartError as error:
            return {"ok": False, "mirrors": mirrors, "tracking": error.what}, FailoverError(
                f"'{switchover.target}' is the active site, but MLflow did not switch: {error.what}",
                f"{error.hint} Check that MLflow runs as `rempart run mlflow` (`rempart stack logs mlflow`), then run "
                "again.",
            )
        return {"ok": True, "mirrors": mirrors, "tracking": tracking}, None


def open_steps(platform: Platform, tracking: TrackingSwitch) -> Steps:
    """Return the steps. A site is opened when a step needs it, because a lost site does not answer."""
    return Steps(
        platform.config,
        platform.ledger,
        platform.continuity,
        platform.clock,
        platform.openers(classification_of(load_all())),
        partial(require, platform, purpose="replication"),
        partial(bring, platform, buckets=BUCKETS, thorough=True, whenever=True, patience=PATIENCE),
        partial(tracking, platform),
    )


def _incomplete(switchover: Switchover) -> FailoverError:
    return FailoverError(
        f"Some objects of '{switchover.source}' are not at '{switchover.target}' yet",
        "Run again. If it fails again, read the last record of kind replication (docs/runbooks/replica.md).",
    )
