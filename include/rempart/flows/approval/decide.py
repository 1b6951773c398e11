"""Decide on a candidate that passed the gate by a person's answer (`gate: {approval: ...}`), or reject it in the end.

Evidence is written before the alias moves, as that of the gate. It names who decided, why, and the record of the gate's
judgement. An answer that does not count is evidence, too, and the candidate waits on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rempart.errors import ModelRefused
from rempart.flows.approval.directory import Directory
from rempart.flows.approval.rules import LONGEST_REASON, Counted, Reply, Ruling, Wait, rule_on
from rempart.flows.shared import approvals, authors, removals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training import champions, validate
from rempart.flows.training.champions import decisions_on, intended
from rempart.ledger.attributed import KEY
from rempart.ledger.port import Evidence
from rempart.models import registry
from rempart.settings.approval.rule import Approval
from rempart.settings.pipeline import ModelPipeline

Became = Literal["promoted", "rejected", "waits", "judged anew", "settled before"]
PLATFORM = "the platform"
"""Who rejects a candidate on which nobody decided in time."""


@dataclass(frozen=True)
class Decided:
    """Result of an answer, or what it would be on a dry run.

    `awaits`: the version waits for another answer. `judgement`: number of the record that it waits by; `answers`: how
    many answers to it did not decide. `champion` is the version afterwards, `previous` the one before.
    """

    version: str
    dry_run: bool
    became: Became
    promoted: bool
    awaits: bool
    champion: str | None
    previous: str | None
    told: str
    judgement: int | None = None
    answers: int = 0


def outdated(judged: Mapping[str, Any], champion: str | None, gate: Mapping[str, Any]) -> str | None:
    """Return why a judgement is no longer true, or None. Pure.

    `judged`: its body; `champion`: the version now; `gate`: the gate's rules now.
    """
    against = judged["previous"]
    if (None if against is None else str(against)) != champion:
        return f"it was judged against champion {against or 'none'}, and the champion is now {champion or 'none'}"
    if judged["gate"] != gate:
        return "the rules of the gate were changed since it was judged"
    return None


def told_of(counted: Counted | None, answer: Reply) -> str:
    """Return who decided, in words for evidence: a number, and in whose place."""
    if counted is not None and counted.by is not None:
        return _told(counted)
    return answer.by.told if answer.by else PLATFORM


def _told(counted: Counted) -> str:
    return f"user {counted.by}" + (f" in the place of user {counted.place_of}" if counted.place_of else "")


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


@dataclass(frozen=True)
class Desk:
    """Where answers about the candidates of one model are ruled on and recorded."""

    platform: Platform
    pipeline: ModelPipeline

    def wait_of(self, judged: Evidence) -> Wait:
        """Return how a version waits, by its judgement and the answers since."""
        rule = Approval.recorded(judged.body["gate"]["approval"])
        counted = [
            Counted(record.body["counted"]["by"], record.body["counted"]["place_of"])
            for record in approvals.answers_to(self.platform.ledger, self.pipeline.name, judged.seq)
            if record.body["counted"]
        ]
        return Wait(rule, judged.at, authors.read(judged.body), tuple(counted))

    def expire(self) -> list[str]:
        """Reject each version of a model whose time is over, with evidence, and return them.

        The time counts from the judgement in the ledger, so it does not matter which process ran meanwhile.
        """
        found = []
        for version, judged in approvals.on_record(self.platform.ledger, self.pipeline.name).items():
            ruling = rule_on(self.wait_of(judged), Reply(False, None, "", self.platform.clock()))
            if ruling.outcome == "expired":
                found.append(version)
                self._reject(judged, PLATFORM, ruling.why)
        return found

    def decide(
        self,
        version: str,
        answer: Reply,
        directory: Directory,
        *,
        judgement: int | None = None,
        dry_run: bool = True,
    ) -> Decided:
        """Promote or reject a version that waits for an approval, if the answer counts.

        `judgement`: number of the record that the person saw; a version that was judged again since is not promoted.

        Its files are compared with the record before a promotion, also on a dry run. If the champion or the gate's
        rules changed since the judgement, the version is judged anew and nothing is promoted. Safe to repeat. Raises
        ModelRefused if the version's files differ or it never waited, TrackingUnavailable, TrackingRefused, SiteFenced,
        SiteError, LedgerError, DatabaseUnavailable.
        """
        platform, pipeline = self.platform, self.pipeline
        active, name, ledger = platform.active(), pipeline.name, platform.ledger
        removal, decisions = removals.check_open(ledger, name), decisions_on(ledger, name)
        current, waits = intended(decisions), approvals.on_record(ledger, name)

        def result(became: Became, told: str, **more: Any) -> Decided:
            champion = version if became == "promoted" and not dry_run else current
            waiting = became in ("waits", "judged anew")
            promoted = became == "promoted"
            return Decided(version, dry_run, became, promoted and not dry_run, waiting, champion, current, told, **more)

        if current == version and version not in waits:
            if not dry_run:
                with platform.committing(active):  # a killed approval left the alias behind
                    removals.check_same(ledger, name, removal)
                    champions.settle(platform.tracking(), ledger, name, platform.clock())
            previous = decisions[-1].body.get("previous")
            told = f"version {version} of model {name} is the champion already"
            return Decided(version, dry_run, "settled before", not dry_run, False, version, previous, told)
        if version not in waits:
            if judgement is not None:
                if not dry_run and (refusal := approvals.rejection(ledger, name, version)):
                    # a killed task may not have said so in MLflow
                    registry.refuse(platform.tracking(), name, version, tuple(refusal.body["reasons"]))
                told = f"version {version} of model {name} does not wait any more: it was decided before"
                return result("settled before", told)
            known = ", ".join(sorted(waits)) or "none"
            raise ModelRefused(
                f"Version {version} of model {name} does not wait for an approval; these do: {known}",
                f"See `rempart model show {name}`. To judge a version, trigger validate_model_{name} with its number.",
            )
        judged = waits[version]
        wait = self.wait_of(judged)
        numbers = {"judgement": judged.seq, "answers": len(approvals.answers_to(ledger, name, judged.seq))}
        if judgement is not None and judged.seq != judgement:
            told = f"version {version} was judged again after you were asked: look at its figures, and answer again"
            return result("waits", told, **numbers)
        ruling = rule_on(wait, answer, platform.config.access.delegations, directory.people)
        if ruling.outcome == "expired" or (ruling.outcome == "not counted" and platform.clock() > wait.deadline):
            why = rule_on(wait, Reply(False, None, "", max(answer.at, platform.clock()))).why
            if not dry_run:
                self._reject(judged, PLATFORM, why)
            return result("rejected", f"version {version} {'would be' if dry_run else 'was'} rejected: {why}")
        if answer.by is None:
            return result("waits", f"version {version} still waits: {ruling.why}", **numbers)
        if ruling.outcome in ("not counted", "first of two"):
            if not dry_run:
                self._record(judged, answer, ruling)
                numbers["answers"] = len(approvals.answers_to(ledger, name, judged.seq))
            given = "counts as the first of two" if ruling.counted else "does not count"
            return result("waits", f"the answer on version {version} {given}: {ruling.why}", **numbers)
        who = told_of(ruling.counted, answer)
        if ruling.outcome == "reject":
            if not dry_run:
                self._reject(judged, who, answer.words)
            return result("rejected", f"version {version} {'would be' if dry_run else 'was'} rejected by {who}")
        validate.check_files(platform.tracking(), ledger, name, version)
        if stale := outdated(judged.body, current, pipeline.gate.model_dump(mode="json")):
            if dry_run:
                return result("judged anew", f"would be judged anew: {stale}", **numbers)
            return self._judged_anew(version, current, stale)
        if not dry_run:
            by = [*(_told(counted) for counted in wait.approvals if wait.needed > 1), who]
            with platform.committing(active):
                removals.check_same(ledger, name, removal)
                retirements.check_kept(ledger, name, version, "approve")
                self._promote(judged, answer, by, decisions)
        return result("promoted", f"version {version} of model {name} becomes champion in place of {current or 'none'}")

    def _judged_anew(self, version: str, current: str | None, stale: str) -> Decided:
        """Judge a version again, and return what became of it. `stale`: why its judgement does not stand any more."""
        anew = validate.validate(self.platform, self.pipeline, version, anew=True)
        state = "It waits again: look at its figures, and answer again" if anew.awaits else "; ".join(anew.reasons)
        told = f"was judged anew: {stale}. {state}"
        again = approvals.on_record(self.platform.ledger, self.pipeline.name).get(version)
        number, champion = again.seq if again else None, anew.champion
        return Decided(version, False, "judged anew", anew.promoted, anew.awaits, champion, current, told, number)

    def _promote(self, judged: Evidence, answer: Reply, by: Sequence[str], decisions: Sequence[Evidence]) -> None:
        """Promote a version, first in the ledger. Call it inside `committing`. Raises ModelRefused.

        `by`: who approved it. `decisions`: those on the model when its judgement was read.
        """
        ledger, name, version = self.platform.ledger, self.pipeline.name, str(judged.body["version"])
        if [seen.seq for seen in decisions_on(ledger, name)] != [made.seq for made in decisions]:
            raise ModelRefused(
                f"Model {name}: another decision was made meanwhile: nothing was promoted",
                f"Look at it, `rempart model show {name}`, and answer again.",
            )
        self._check_waits(judged)
        approved_by = " and ".join(by)
        reasons = (*judged.body["reasons"], f"passed: approved by {approved_by}: {answer.words}")
        decided = {"approved_by": approved_by, "reason": answer.words, "answered_at": _iso(answer.at)}
        body = {key: value for key, value in judged.body.items() if key != KEY}
        ledger.append("promotion", name, {**body, "reasons": list(reasons), "approval": judged.seq, **decided})
        registry.promote(self.platform.tracking(), name, version, intended(decisions), reasons)

    def _check_waits(self, judged: Evidence) -> None:
        """Check that the judgement is still the newest word on its version. Raises ModelRefused."""
        name, version = self.pipeline.name, str(judged.body["version"])
        now = approvals.on_record(self.platform.ledger, name).get(version)
        if now is None or now.seq != judged.seq:
            raise ModelRefused(
                f"Version {version} of model {name} was {'judged anew' if now else 'refused'} meanwhile: nothing was "
                "changed",
                f"See `rempart model show {name}`, and answer again if it waits.",
            )

    def _record(self, judged: Evidence, answer: Reply, ruling: Ruling) -> None:
        """Record an answer that did not decide, once."""
        ledger, name, counted = self.platform.ledger, self.pipeline.name, ruling.counted
        body = {
            "version": str(judged.body["version"]),
            "approval": judged.seq,
            "answer": "approve" if answer.approves else "reject",
            "by": answer.by.told if answer.by else PLATFORM,
            "reason": answer.words[:LONGEST_REASON],
            "answered_at": _iso(answer.at),
            "counted": {"by": counted.by, "place_of": counted.place_of} if counted else None,
            "why": ruling.why,
        }
        known = approvals.answers_to(ledger, name, judged.seq)
        if not any(all(record.body[key] == body[key] for key in ("by", "answer", "answered_at")) for record in known):
            ledger.append("answer", name, body)

    def _reject(self, judged: Evidence, who: str, why: str) -> None:
        """Refuse a version that passed the gate: record it, and say so in MLflow. The champion stays."""
        platform, name, version = self.platform, self.pipeline.name, str(judged.body["version"])
        active = platform.active()
        removal = removals.check_open(platform.ledger, name)
        body = {key: value for key, value in judged.body.items() if key != KEY}
        reasons = (*judged.body["reasons"], f"refused: rejected by {who}: {why}")
        with platform.committing(active):
            removals.check_same(platform.ledger, name, removal)
            self._check_waits(judged)
            told = {approvals.REJECTED: who, "reason": why, "approval": judged.seq, "reasons": list(reasons)}
            platform.ledger.append("refusal", name, {**body, **told})
        registry.refuse(platform.tracking(), name, version, reasons)
