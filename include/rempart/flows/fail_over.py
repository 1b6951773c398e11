"""Moves the platform to another site, and back: the steps of `replication.failover`, carried out.

Each step is safe to repeat: its outcome is kept in the journey once it is done, and a run that was killed anywhere is
completed by the next one. Nothing is deleted at any site.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from rempart.errors import (
    ConfigError,
    FailoverError,
    LeaseHeld,
    LeaseLost,
    ObjectMissing,
    RempartError,
    ReplicationError,
    SiteError,
    SiteUnavailable,
)
from rempart.flows import mirror, standby
from rempart.flows.pairs import BUCKETS, classification_of, physical_bucket
from rempart.flows.platform import Platform
from rempart.flows.reconcile import Reconciled, carry, reconcile
from rempart.flows.tracking_switch import follows, unproxied
from rempart.pipeline import load_all
from rempart.replication.active import Active, ActiveSites, backup_site, journey_to
from rempart.replication.failover import Facts, Journey, Kind, Refused, Step, next_step, outcome_of_drain
from rempart.replication.lease import Lease
from rempart.replication.transfer import stored_sha256
from rempart.sites.port import Site

Say = Callable[[str], object]
READ_BACK = 25
"""Objects of each bucket that are read back from the target before the switch; the others are compared as listed."""
_WRITERS_SECONDS, _QUIET_SECONDS = 60.0, 5.0


@dataclass(frozen=True)
class JourneyResult:
    """Where the platform is now, or, on a dry run, what would be done. `steps` are outcomes, each with its seconds.

    `conflicts` names `bucket/key` of what both sites had written: the active site's version stands, the other's is kept
    beside it. `not_arrived` and `unknown` tell what an accepted loss left behind, as far as it is known.
    """

    dry_run: bool
    done: bool
    kind: str
    source: str
    target: str
    active: str
    generation: int
    plan: tuple[str, ...] = ()
    steps: dict[str, Any] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    lag_seconds: float | None = None
    lag_known_at: str | None = None
    not_arrived: tuple[str, ...] = ()
    unknown: str | None = None


def fail_over(
    platform: Platform,
    target: str,
    *,
    dry_run: bool = True,
    accept_loss: bool = False,
    say: Say = print,
    tracking: Callable[[Platform, Active], str] = follows,
    kind: Kind = "failover",
) -> JourneyResult:
    """Make `target` the active site; a run on the way there is resumed, one that is there already changes nothing.

    Raises FailoverError when a step may not be taken, LeaseHeld while another run does this; SiteError, SiteUnavailable
    for what a drain could not bring; DatabaseUnavailable, PlacementDenied, ConfigError.
    """
    _check(platform, target)
    run = _Run(platform, say, tracking, accept_loss)
    if dry_run:
        return run.dry(target, kind)
    with _sites(platform).turn(f"{kind} to {target}") as lease:
        return run.travel(lease, target, kind)


def fail_back(
    platform: Platform,
    *,
    dry_run: bool = True,
    say: Say = print,
    tracking: Callable[[Platform, Active], str] = follows,
) -> JourneyResult:
    """Return to the site that rempart.yaml names: bring it up to date while pipelines go on, then as `fail_over`.

    Raises as `fail_over`.
    """
    home = platform.config.active_site
    return fail_over(platform, home, dry_run=dry_run, say=say, tracking=tracking, kind="failback")


def abandon(platform: Platform, *, dry_run: bool = True, say: Say = print) -> JourneyResult:
    """Stay at the source of a journey that has not switched yet: its fence is lifted.

    Raises FailoverError when there is none, LeaseHeld, DatabaseUnavailable.
    """
    now = platform.active()
    if now.state != "fenced" or now.journey is None:
        raise FailoverError(
            f"There is nothing to abandon: site '{now.site}' is active (generation {now.generation})",
            "To move the platform, name a site: `rempart failover --to SITE`.",
        )
    say(f"pipelines go on at '{now.site}', where they were")
    if not dry_run:
        with _sites(platform).turn("abandon") as lease:
            journey = replace(now.journey, abandoned=True)
            now = _sites(platform).advance(lease, now, Active(0, now.site, "active", journey))
            body = {"journey": journey.id, "kind": journey.kind, "step": "abandon", "generation": now.generation}
            platform.ledger.append("failover", _subject(journey), body)
        mirror.write(platform, say)
    return _result(now, now.journey, dry_run=dry_run, done=not dry_run)


def _sites(platform: Platform) -> ActiveSites:
    return platform.continuity.active_sites(platform.config.active_site)


def _check(platform: Platform, target: str) -> None:
    if target not in platform.config.sites:
        raise ConfigError(f"There is no site '{target}'", f"Declared: {', '.join(platform.config.sites)}.")


def _subject(journey: Journey) -> str:
    return f"{journey.source}->{journey.target}"


def _result(now: Active, journey: Journey | None, **more: Any) -> JourneyResult:
    steps: dict[str, Any] = {step: dict(outcome) for step, outcome in journey.steps.items()} if journey else {}
    drain = steps.get("drain", {})
    found = [key for step in ("diff", "drain") for key in steps.get(step, {}).get("conflicts", ())]
    return JourneyResult(
        kind=journey.kind if journey else "failover",
        source=journey.source if journey else now.site,
        target=journey.target if journey else now.site,
        active=now.site,
        generation=now.generation,
        steps=steps,
        conflicts=tuple(dict.fromkeys(found)),
        lag_seconds=drain.get("lag_seconds"),
        lag_known_at=drain.get("lag_known_at"),
        not_arrived=tuple(drain.get("not_arrived", ())),
        unknown=drain.get("unknown"),
        **more,
    )


@contextmanager
def telling(say: Say, what: str) -> Iterator[None]:
    """Say what is being done at its start and every five seconds, so that nobody takes it for hung."""
    say(f"{what} ...")
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(_QUIET_SECONDS):
            say(f"{what} ... {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Run:
    """One run of a journey: what it may accept, and how it talks."""

    def __init__(
        self, platform: Platform, say: Say, tracking: Callable[[Platform, Active], str], accept_loss: bool
    ) -> None:
        self.platform, self.say, self.tracking, self.accept_loss = platform, say, tracking, accept_loss
        self.classification = classification_of(load_all())

    # --- what is true -------------------------------------------------------------------------------------------------

    def site(self, name: str) -> Site:
        return self.platform.site(name, self.classification)

    def answers(self, name: str) -> bool:
        """Whether a site lists what is shared, now; one that refuses (closed account, revoked key) does not."""
        with telling(self.say, f"asking site '{name}'"):
            try:
                for logical in BUCKETS:
                    next(iter(self.site(name).list(physical_bucket(self.platform.config, logical))), None)
            except SiteError as error:
                self.say(error.what)
                return False
        return True

    def facts(self, journey: Journey) -> Facts:
        source = not journey.did("drain") and self.answers(journey.source)
        return Facts(source, self.answers(journey.target), self.accept_loss)

    # --- the dry run --------------------------------------------------------------------------------------------------

    def dry(self, target: str, kind: Kind) -> JourneyResult:
        now = self.platform.active()
        journey = journey_to(now, target, kind, "", accept_loss=self.accept_loss)
        if journey is None:
            self.say(f"site '{target}' is the active site already: nothing to do")
            return _result(now, None, dry_run=True, done=True)
        source, home = self.answers(journey.source), self.answers(target)
        conflicts: tuple[str, ...] = ()
        lines = [
            f"from '{journey.source}' (generation {now.generation}, {now.state}): {_said(source)}",
            f"to '{target}': {_said(home)}",
        ]
        refused = next_step(journey, Facts(source, home, self.accept_loss))
        if isinstance(refused, Refused):
            lines.append(f"it would be refused: {refused.why}. {refused.remedy}")
        lines.append("steps: " + ", ".join(step for step in journey.plan if not journey.did(step)))
        last = standby.last_replication(self.platform, journey.source, target)
        lag = float(last.body["lag_seconds"]) if last else None
        lines.append(
            f"the last replication on record ended at {last.at:%Y-%m-%d %H:%M:%S} UTC with a lag of {lag:.0f} s"
            if last
            else f"no replication from '{journey.source}' to '{target}' is on record"
        )
        if source and home:
            with telling(self.say, "comparing both sites"):
                found = self.reconcile(journey, write=False)
            conflicts = found.conflicts
            lines.append(
                f"{len(found.adopted)} objects were written at '{target}' alone and would be taken over; "
                f"{len(conflicts)} were written at both sites and would be kept in both versions"
            )
            lines += [f"  conflict: {key}" for key in conflicts[:20]]
        lines += self._afterwards(target)
        for line in lines:
            self.say(line)
        made = _result(now, journey, dry_run=True, done=False, plan=tuple(lines))
        return replace(made, lag_seconds=lag, conflicts=conflicts)

    def _afterwards(self, target: str) -> Iterator[str]:
        try:
            yield f"restore points would then go to '{backup_site(self.platform.config, target)}'"
        except ConfigError as error:
            yield f"there would be no place for restore points: {error.what}"
        yield from unproxied(self.platform)

    # --- the journey --------------------------------------------------------------------------------------------------

    def travel(self, lease: Lease, target: str, kind: Kind) -> JourneyResult:
        sites = _sites(self.platform)
        now = sites.active()
        moment = f"{self.platform.clock():%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        journey = journey_to(now, target, kind, moment, accept_loss=self.accept_loss)
        if journey is None:
            if now.generation:
                self.record(now, now.journey)
                mirror.write(self.platform, self.say)
            self.say(f"site '{target}' is the active site already: nothing to do")
            return _result(now, now.journey, dry_run=False, done=True)
        while True:
            self.record(now, journey)
            facts = self.facts(journey)
            step = next_step(journey, facts)
            if step is None:
                return _result(now, journey, dry_run=False, done=True)
            if isinstance(step, Refused):
                raise FailoverError(step.why, step.remedy)
            lease.check()
            began = time.monotonic()
            with telling(self.say, step):
                now, journey = self.take(step, lease, now, journey, facts)
            self.say(f"{step}: done in {time.monotonic() - began:.1f} s")

    def record(self, now: Active, journey: Journey | None) -> None:
        """Every outcome of the journey that is not yet evidence becomes it: also after a run that was killed."""
        if journey is None or not journey.steps:
            return
        known = {
            (one.body.get("journey"), one.body.get("step"), one.body.get("at"))
            for one in self.platform.ledger.find("failover", _subject(journey), limit=100)
        }
        for step, outcome in ((step, journey.steps[step]) for step in journey.plan if step in journey.steps):
            if (journey.id, step, outcome["at"]) not in known:
                body = {"journey": journey.id, "kind": journey.kind, "step": step, "generation": now.generation}
                self.platform.ledger.append("failover", _subject(journey), {**body, **outcome})

    def take(self, step: Step, lease: Lease, now: Active, journey: Journey, facts: Facts) -> tuple[Active, Journey]:
        """Take one step and keep its outcome. An outcome that is not good is kept, too, and then raised."""
        began = time.monotonic()

        def told(outcome: dict[str, Any]) -> Journey:
            seconds = round(time.monotonic() - began, 3)
            return journey.with_step(
                step, {**outcome, "seconds": seconds, "at": self.platform.clock().isoformat(timespec="microseconds")}
            )

        sites = _sites(self.platform)
        if step == "fence":
            if now.state != "fenced":
                if facts.source_answers:  # what would stop the drain stops it before anybody has to wait
                    standby.require_proof(
                        self.platform, (self.site(journey.source), self.site(journey.target)), self.say
                    )
                now = sites.advance(lease, now, Active(0, journey.source, "fenced", journey))
            outcome, fault = self.fence(journey, facts)
        elif step == "switch":
            journey = told({"ok": True})
            return sites.advance(lease, now, Active(0, journey.target, "active", journey)), journey
        else:
            act = {"diff": self.diff, "reverse": self.reverse, "drain": self.drain, "verify": self.verify}
            outcome, fault = act[step](journey) if step in act else self.resume(now, journey)
        journey = told(outcome)
        if now.journey and now.journey.id == journey.id:  # a failback's first steps stand in no generation yet
            now = replace(now, journey=journey)
            sites.note(lease, now)
        if fault:
            self.record(now, journey)
            raise fault
        return now, journey

    def fence(self, journey: Journey, facts: Facts) -> tuple[dict[str, Any], RempartError | None]:
        """Wait for those who were committing when the fence came down; at a site that is gone, only a moment."""
        patience = _WRITERS_SECONDS if facts.source_answers else _QUIET_SECONDS
        settled = _sites(self.platform).settle(patience)
        if settled or not facts.source_answers:
            return {"ok": True, "writers": "none" if settled else "not waited for: the site does not answer"}, None
        return {"ok": False, "writers": f"still at work after {patience:.0f} s"}, FailoverError(
            f"Somebody still commits at '{journey.source}' {patience:.0f} s after the fence; nobody new begins to",
            "Look for a running task (ingest, train, validate) or an MLflow server that did not restart, let it end or "
            "end it, and run again. `rempart failover --abandon --yes` lifts the fence.",
        )

    def reconcile(self, journey: Journey, *, write: bool) -> Reconciled:
        return reconcile(
            self.platform,
            self.site(journey.source),
            self.site(journey.target),
            self.platform.active().generation,
            write=write,
        )

    def diff(self, journey: Journey) -> tuple[dict[str, Any], RempartError | None]:
        """What the site has that nobody replicated is taken over; what both wrote is kept in both versions."""
        return {"ok": True, **self.reconcile(journey, write=True).as_json()}, None

    def reverse(self, journey: Journey) -> tuple[dict[str, Any], RempartError | None]:
        standby.bring_all(self.platform, journey.source, journey.target, self.say)
        return {"ok": True, **self.brought(journey)}, None

    def brought(self, journey: Journey) -> dict[str, Any]:
        """What the newest replication on record did."""
        last = standby.last_replication(self.platform, journey.source, journey.target)
        return {name: last.body[name] for name in ("objects", "bytes", "copied", "verified")} if last else {}

    def drain(self, journey: Journey) -> tuple[dict[str, Any], RempartError | None]:
        """Bring what the target lacks. What did not arrive is no loss until the operator accepts it as one."""
        fault: RempartError | None = SiteUnavailable(
            f"Site '{journey.source}' ceased to answer", "Run again: the drain goes on where it was."
        )
        told: dict[str, Any] = {}
        answered = complete = False
        for _ in range(2 if journey.accept_loss else 1):  # a source that is to be left gets a second chance
            if not self.answers(journey.source):
                break
            answered = True
            try:
                told |= self.reconcile(journey, write=True).as_json()
                told["deliveries"] = self.deliveries(journey)
                standby.bring_all(self.platform, journey.source, journey.target, self.say)
                fault = None
            except SiteError as error:
                fault = error
                continue
            except ReplicationError as error:  # too much is gone at the source: that is no reason to stay there
                if isinstance(error, LeaseHeld | LeaseLost):
                    raise
                told["deletes"] = error.what
            last = standby.last_replication(self.platform, journey.source, journey.target)
            complete = last is not None and standby.arrived(last)
            fault = None if complete else _incomplete(journey)
            told |= self.brought(journey)
            break
        last = standby.last_replication(self.platform, journey.source, journey.target)
        outcome = outcome_of_drain(
            answered=answered,
            complete=complete,
            accepted=journey.accept_loss,
            lag_seconds=float(last.body["lag_seconds"]) if last else None,
            known_at=last.at if last else None,
            failed=tuple(last.body["failed"]) if last else (),
            failures=int(last.body["failures"]) if last else 0,
            **told,
        )
        if not outcome["ok"]:
            return outcome, fault
        if not complete:
            self.say(f"accepted as lost: {outcome['unknown']}")
        return outcome, None

    def deliveries(self, journey: Journey) -> int:
        """Bring the deliveries that wait for ingestion; how many."""
        bucket = self.platform.config.buckets.landing
        source, target = self.site(journey.source), self.site(journey.target)
        return sum(carry(source, target, bucket, info.key) for info in source.list(bucket))

    def verify(self, journey: Journey) -> tuple[dict[str, Any], RempartError | None]:
        """Each verified replica must be listed as it was put; of each bucket some are read back, chosen by chance."""
        target = self.site(journey.target)
        objects = read = 0
        bad: list[str] = []
        for name in BUCKETS:
            bucket = physical_bucket(self.platform.config, name)
            there = {info.key: info for info in target.list(bucket)}
            good = []
            for replica in standby.verified(self.platform, journey.source, journey.target, name):
                objects += 1
                info = there.get(replica.key)
                if info is None or not replica.stands_in(info):
                    bad.append(f"{bucket}/{replica.key}")
                else:
                    good.append(replica)
            for replica in random.Random(journey.id).sample(good, min(READ_BACK, len(good))):  # noqa: S311 # a sample
                read += 1
                try:
                    same = stored_sha256(target, bucket, replica.key) == replica.sha256
                except ObjectMissing:
                    same = False
                if not same:
                    bad.append(f"{bucket}/{replica.key}")
        drained = bool(journey.steps["drain"]["complete"])
        ok = not bad or (journey.accept_loss and not drained)
        outcome = {"ok": ok, "objects": objects, "read_back": read, "wrong": bad[:100], "wrong_count": len(bad)}
        if ok:
            return outcome, None
        return outcome, FailoverError(
            f"{len(bad)} of {objects} objects at '{journey.target}' are not what was replicated: " + ", ".join(bad[:5]),
            "Run again: they are copied anew. If it happens again, do not rely on that site (`rempart doctor site`).",
        )

    def resume(self, now: Active, journey: Journey) -> tuple[dict[str, Any], RempartError | None]:
        """The site takes writes, every site that answers knows the generation, and MLflow writes to the new site."""
        site, bucket = self.site(journey.target), self.platform.config.buckets.landing
        key, body = ".rempart/active", f"generation {now.generation}".encode()
        site.write(bucket, key, body)
        if site.read(bucket, key) != body:
            return {"ok": False}, SiteError(
                f"Site '{site.name}' gave back other bytes than were written", "Ask the operator; do not use this site."
            )
        site.delete(bucket, key)
        mirrors = mirror.write(self.platform, self.say)
        try:
            tracking = self.tracking(self.platform, now)
        except RempartError as error:
            return {"ok": False, "mirrors": mirrors, "tracking": error.what}, FailoverError(
                f"The switch is done: '{journey.target}' is the active site. But MLflow does not follow: {error.what}",
                f"{error.hint} It must run as `rempart run mlflow` (`rempart logs mlflow`). Then run again.",
            )
        return {"ok": True, "mirrors": mirrors, "tracking": tracking}, None


def _incomplete(journey: Journey) -> FailoverError:
    return FailoverError(
        f"Not everything of '{journey.source}' is at '{journey.target}' yet",
        "Run again; if it lasts, look at the last record of kind replication (docs/runbooks/replica.md).",
    )


def _said(answers: bool) -> str:
    return "answers" if answers else "does NOT answer"


def lines(result: JourneyResult) -> Iterator[str]:
    """What a person reads at the end."""
    for step, outcome in result.steps.items():
        told = {k: v for k, v in outcome.items() if k not in ("ok", "seconds", "at", "not_arrived", "conflicts")}
        said = ", ".join(f"{k} {v}" for k, v in told.items() if v not in (None, "", [], {}))
        yield f"  {step:<8}{outcome.get('seconds', 0):>8.1f} s  {said}"
    for key in result.conflicts:
        yield f"  conflict: {key} (both versions are kept)"
    for key in result.not_arrived:
        yield f"  did not arrive: {key}"
    if result.unknown:
        yield f"  not known: {result.unknown}"
    state = "would be" if result.dry_run and not result.done else "is"
    site = result.target if result.dry_run and not result.done else result.active
    yield f"'{site}' {state} the active site" + ("" if result.dry_run else f" (generation {result.generation})")
