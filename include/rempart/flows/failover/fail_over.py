"""Move the platform to another site and back: choose each next step and store its outcome.

`coordination.failover` decides, `flows.failover.switchover_steps` acts. Each step is safe to repeat. Its outcome is
stored in the switchover once it is done, and the next run completes a killed one. Nothing is deleted at any site.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rempart.coordination.active import Active, backup_site, switchover_to
from rempart.coordination.failover import Kind, Step, StepRefused, Switchover, SwitchoverFacts, next_step
from rempart.coordination.lease import Lease
from rempart.errors import ConfigError, FailoverError
from rempart.flows.failover import published_state
from rempart.flows.failover.switchover_steps import Steps, TrackingSwitch, open_steps, telling
from rempart.flows.failover.tracking_switch import switch_tracking, unproxied
from rempart.flows.replication import target_readiness
from rempart.flows.shared.platform import Platform, classification_of
from rempart.settings.config import Config, Connection
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwitchoverResult:
    """Result of a switchover, or its plan on a dry run. `steps` holds the outcomes, each with its seconds.

    `conflicts` names the `bucket/key` that both sites wrote: the version of the active site stays current, the other is
    kept. `not_arrived` and `unknown` describe an accepted loss as far as it is known.
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
    tracking: TrackingSwitch = switch_tracking,
    kind: Kind = "failover",
) -> SwitchoverResult:
    """Make `target` the active site. Resume an unfinished switchover; change nothing if `target` is already active.

    Raises FailoverError if a step is refused, LeaseHeld while another run moves the platform, SiteError or
    SiteUnavailable if the drain failed, DatabaseUnavailable, PlacementDenied, ConfigError.
    """
    _check(platform.config, target)
    run = _Run(open_steps(platform, tracking), accept_loss)
    if dry_run:
        return run.dry(target, kind, partial(platform.database, "mlflow"))
    with run.sites.hold_lease(f"{kind} to {target}") as lease:
        return run.travel(lease, target, kind)


def fail_back(
    platform: Platform,
    *,
    dry_run: bool = True,
    tracking: TrackingSwitch = switch_tracking,
) -> SwitchoverResult:
    """Return to the site that rempart.yaml names: replicate while pipelines run, then move as `fail_over` does.

    Raises the errors of `fail_over`.
    """
    home = platform.config.active_site
    return fail_over(platform, home, dry_run=dry_run, tracking=tracking, kind="failback")


def abandon(platform: Platform, *, dry_run: bool = True) -> SwitchoverResult:
    """Cancel a switchover before its switch and remove the fence of its source.

    Raises FailoverError if no switchover is unfinished, LeaseHeld, DatabaseUnavailable.
    """
    sites = platform.continuity.active_sites(platform.config.active_site)
    now = sites.active()
    if now.state != "fenced" or now.switchover is None:
        raise FailoverError(
            f"No switchover to abandon: site '{now.site}' is active (generation {now.generation})",
            "Run `rempart site failover --to SITE` to move the platform.",
        )
    plan = (f"pipelines continue at '{now.site}'",)
    if not dry_run:
        with sites.hold_lease("abandon") as lease:
            switchover = replace(now.switchover, abandoned=True)
            now = sites.advance(lease, now, Active(0, now.site, "active", switchover))
            body = {
                "switchover": switchover.id,
                "kind": switchover.kind,
                "step": "abandon",
                "generation": now.generation,
            }
            platform.ledger.append("failover", _subject(switchover), body)
            # under the lease: another switchover must not publish a newer state before this one is written
            openers = platform.openers(classification_of(load_all()))
            published_state.write(now, openers, platform.config.buckets.backups)
    return _result(now, now.switchover, dry_run=dry_run, done=not dry_run, plan=plan)


def _check(config: Config, target: str) -> None:
    if target not in config.sites:
        raise ConfigError(f"Site '{target}' is not declared in rempart.yaml", f"Use one of: {', '.join(config.sites)}.")


def _subject(switchover: Switchover) -> str:
    return f"{switchover.source}->{switchover.target}"


def _result(now: Active, switchover: Switchover | None, **more: Any) -> SwitchoverResult:
    steps: dict[str, Any] = {step: dict(outcome) for step, outcome in switchover.steps.items()} if switchover else {}
    drain = steps.get("drain", {})
    conflicts = [key for step in ("diff", "drain") for key in steps.get(step, {}).get("conflicts", ())]
    return SwitchoverResult(
        kind=switchover.kind if switchover else "failover",
        source=switchover.source if switchover else now.site,
        target=switchover.target if switchover else now.site,
        active=now.site,
        generation=now.generation,
        steps=steps,
        conflicts=tuple(dict.fromkeys(conflicts)),
        lag_seconds=drain.get("lag_seconds"),
        lag_known_at=drain.get("lag_known_at"),
        not_arrived=tuple(drain.get("not_arrived", ())),
        unknown=drain.get("unknown"),
        **more,
    )


class _Run:
    """One run of a switchover: the losses that it may accept, and how it reports."""

    def __init__(self, steps: Steps, accept_loss: bool) -> None:
        self.steps, self.accept_loss = steps, accept_loss
        self.sites = steps.active_sites

    def facts(self, switchover: Switchover) -> SwitchoverFacts:
        source = not switchover.did("drain") and self.steps.answers(switchover.source)
        return SwitchoverFacts(source, self.steps.answers(switchover.target), self.accept_loss)

    # --- the dry run --------------------------------------------------------------------------------------------------

    def dry(self, target: str, kind: Kind, mlflow: Callable[[], Connection]) -> SwitchoverResult:
        now = self.sites.active()
        switchover = switchover_to(now, target, kind, "", accept_loss=self.accept_loss)
        if switchover is None:
            return _result(now, None, dry_run=True, done=True, plan=_already(target))
        source, home = self.steps.answers(switchover.source), self.steps.answers(target)
        conflicts: tuple[str, ...] = ()
        lines = [
            f"from '{switchover.source}' (generation {now.generation}, {now.state}): {_answering(source)}",
            f"to '{target}': {_answering(home)}",
        ]
        refused = next_step(switchover, SwitchoverFacts(source, home, self.accept_loss))
        if isinstance(refused, StepRefused):
            lines.append(f"would be refused: {refused.why}. {refused.remedy}")
        lines.append("steps: " + ", ".join(step for step in switchover.plan if not switchover.did(step)))
        last = target_readiness.last_replication(self.steps.ledger, switchover.source, target)
        lag = float(last.body["lag_seconds"]) if last else None
        lines.append(
            f"last replication on record: ended {last.at:%Y-%m-%d %H:%M:%S} UTC with a lag of {lag:.0f} s"
            if last
            else f"no recorded replication from '{switchover.source}' to '{target}'"
        )
        if source and home:
            with telling("comparing both sites"):
                result = self.steps.reconcile(switchover, write=False)
            conflicts = result.conflicts
            lines.append(
                f"{len(result.adopted)} objects exist only at '{target}' and would be adopted; {len(conflicts)} "
                "were written at both sites, and both versions would be kept"
            )
            lines += [f"  conflict: {key}" for key in conflicts[:20]]
        lines += self._afterwards(target, mlflow)
        switchover_result = _result(now, switchover, dry_run=True, done=False, plan=tuple(lines))
        return replace(switchover_result, lag_seconds=lag, conflicts=conflicts)

    def _afterwards(self, target: str, mlflow: Callable[[], Connection]) -> Iterator[str]:
        try:
            yield f"restore points would go to '{backup_site(self.steps.config, target)}'"
        except ConfigError as error:
            yield f"no site for restore points: {error.what}"
        yield from unproxied(self.steps.config.buckets.artifacts, mlflow)

    # --- the switchover ----------------------------------------------------------------------------------------------

    def travel(self, lease: Lease, target: str, kind: Kind) -> SwitchoverResult:
        now = self.sites.active()
        moment = f"{self.steps.clock():%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        switchover = switchover_to(now, target, kind, moment, accept_loss=self.accept_loss)
        if switchover is None:
            if now.generation:
                self.record(now, now.switchover)
                self.steps.publish()
            return _result(now, now.switchover, dry_run=False, done=True, plan=_already(target))
        while True:
            self.record(now, switchover)
            facts = self.facts(switchover)
            step = next_step(switchover, facts)
            if step is None:
                return _result(now, switchover, dry_run=False, done=True)
            if isinstance(step, StepRefused):
                raise FailoverError(step.why, step.remedy)
            lease.check()
            began = time.monotonic()
            with telling(step):
                now, switchover = self.take(step, lease, now, switchover, facts)
            logger.info("%s: done in %.1f s", step, time.monotonic() - began)

    def record(self, now: Active, switchover: Switchover | None) -> None:
        """Write every stored outcome of the switchover to the ledger as evidence, also after a killed run."""
        if switchover is None or not switchover.steps:
            return
        known = {
            (record.body.get("switchover"), record.body.get("step"), record.body.get("at"))
            for record in self.steps.ledger.find("failover", _subject(switchover))
        }
        for step, outcome in ((step, switchover.steps[step]) for step in switchover.plan if step in switchover.steps):
            if (switchover.id, step, outcome["at"]) not in known:
                body = {
                    "switchover": switchover.id,
                    "kind": switchover.kind,
                    "step": step,
                    "generation": now.generation,
                }
                body["accept_loss"] = switchover.accept_loss
                self.steps.ledger.append("failover", _subject(switchover), {**body, **outcome})

    def take(
        self, step: Step, lease: Lease, now: Active, switchover: Switchover, facts: SwitchoverFacts
    ) -> tuple[Active, Switchover]:
        """Take one step and store its outcome. Raises the step's error after a bad outcome is stored."""
        began = time.monotonic()

        def with_outcome(outcome: dict[str, Any]) -> Switchover:
            seconds = round(time.monotonic() - began, 3)
            return switchover.with_step(
                step, {**outcome, "seconds": seconds, "at": self.steps.clock().isoformat(timespec="microseconds")}
            )

        if step == "switch":
            switchover = with_outcome({"ok": True})
            return self.sites.advance(lease, now, Active(0, switchover.target, "active", switchover)), switchover
        if step == "fence" and now.state != "fenced":
            # check the sites first: a fault must stop the switchover before writers have to wait
            if facts.source_answers:
                for name in (switchover.source, switchover.target):
                    self.steps.prove(self.steps.site(name))
            now = self.sites.advance(lease, now, Active(0, switchover.source, "fenced", switchover))
        outcome, fault = self.steps.take(step, now, switchover, facts)
        switchover = with_outcome(outcome)
        if now.switchover and now.switchover.id == switchover.id:  # no generation has the first steps of a failback yet
            now = replace(now, switchover=switchover)
            self.sites.note(lease, now)
        if fault:
            self.record(now, switchover)
            raise fault
        return now, switchover


def _already(target: str) -> tuple[str, ...]:
    return (f"site '{target}' is the active site already: nothing to do",)


def _answering(answers: bool) -> str:
    return "answers" if answers else "does NOT answer"


def lines(result: SwitchoverResult) -> Iterator[str]:
    """Yield the result of a switchover as lines for people; the plan of a dry run first."""
    yield from result.plan
    for step, outcome in result.steps.items():
        shown = {k: v for k, v in outcome.items() if k not in ("ok", "seconds", "at", "not_arrived", "conflicts")}
        details = ", ".join(f"{k} {v}" for k, v in shown.items() if v not in (None, "", [], {}))
        yield f"  {step:<8}{outcome.get('seconds', 0):>8.1f} s  {details}"
    for key in result.conflicts:
        yield f"  conflict: {key} (both versions are kept)"
    for key in result.not_arrived:
        yield f"  did not arrive: {key}"
    if result.unknown:
        yield f"  unknown: {result.unknown}"
    state = "would be" if result.dry_run and not result.done else "is"
    site = result.target if result.dry_run and not result.done else result.active
    yield f"'{site}' {state} the active site" + ("" if result.dry_run else f" (generation {result.generation})")
