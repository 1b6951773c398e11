"""Approve a candidate that passed the gate (`gate: {approval: person}`), or judge it anew if that is outdated.

The promotion is written before the alias moves, as that of the gate. It names who approved, and the record of the
gate's judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rempart.errors import ModelRefused
from rempart.flows.shared import approvals, removals, retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training import champions, validate
from rempart.flows.training.champions import decisions_on, intended
from rempart.ledger.attributed import KEY
from rempart.models import registry
from rempart.settings.pipeline import ModelPipeline


@dataclass(frozen=True)
class Approved:
    """Result of an approval: `promoted` is False on a dry run, and if the version was judged anew instead.

    `champion` is the version afterwards, `previous` the one before; `told`: what happened, or would.
    """

    version: str
    dry_run: bool
    promoted: bool
    champion: str | None
    previous: str | None
    told: str


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


def approve(
    platform: Platform,
    pipeline: ModelPipeline,
    version: str,
    *,
    by: str,
    dry_run: bool = True,
    asked: datetime | None = None,
) -> Approved:
    """Promote a version that waits for an approval. `by` names who approves, without personal data: a number or a role.

    `asked`: when the person asked; a later judgement is not promoted, because the person has not seen its figures.

    Its files are compared with the record first, also on a dry run. If the champion or the gate's rules changed since
    the judgement, the version is judged anew and nothing is promoted. Safe to repeat. Raises ModelRefused if the
    version does not wait or its files differ, TrackingUnavailable, TrackingRefused, SiteFenced, SiteError, LedgerError,
    DatabaseUnavailable.
    """
    active, name, ledger = platform.active(), pipeline.name, platform.ledger
    removal, decisions = removals.check_open(ledger, name), decisions_on(ledger, name)
    current, waits = intended(decisions), approvals.on_record(ledger, name)
    if current == version:
        told = f"version {version} of model {name} is the champion already"
        if not dry_run:
            with platform.committing(active):  # a killed approval left the alias behind
                champions.settle(platform.tracking(), ledger, name, decisions, platform.clock())
        return Approved(version, dry_run, not dry_run, version, decisions[-1].body.get("previous"), told)
    if version not in waits:
        known = ", ".join(sorted(waits)) or "none"
        raise ModelRefused(
            f"Version {version} of model {name} does not wait for an approval; these do: {known}",
            f"See `rempart model show {name}`. To judge a version, trigger validate_model_{name} with its number.",
        )
    judged = waits[version]
    if asked is not None and judged.at > asked:  # by a first try of the same run, for example
        told = f"version {version} was judged after you asked: look at its figures, and approve it again"
        return Approved(version, dry_run, False, current, current, told)
    validate.check_files(platform.tracking(), ledger, name, version)
    if why := outdated(judged.body, current, pipeline.gate.model_dump(mode="json")):
        if dry_run:
            return Approved(version, True, False, current, current, f"would be judged anew: {why}")
        result = validate.validate(platform, pipeline, version)
        state = "It waits again: look at its figures, and approve it" if result.awaits else "; ".join(result.reasons)
        return Approved(version, False, result.promoted, result.champion, current, f"was judged anew: {why}. {state}")
    told = f"version {version} of model {name} becomes champion in place of {current or 'none'}"
    if dry_run:
        return Approved(version, True, False, current, current, told)
    body = {key: value for key, value in judged.body.items() if key != KEY}
    reasons = (*judged.body["reasons"], f"passed: approved by {by}")
    with platform.committing(active):
        removals.check_same(ledger, name, removal)
        retirements.check_kept(ledger, name, version, "approve")
        if [seen.seq for seen in decisions_on(ledger, name)] != [made.seq for made in decisions]:
            raise ModelRefused(
                f"Model {name}: another decision was made meanwhile: nothing was promoted",
                f"Approve again: `rempart model approve {name} {version}` shows whether it is judged anew.",
            )
        now = approvals.on_record(ledger, name).get(version)
        if now is None or now.seq != judged.seq:
            raise ModelRefused(
                f"Version {version} of model {name} was {'judged anew' if now else 'refused'} meanwhile: nothing was "
                "promoted",
                f"See `rempart model show {name}`, and approve again if it waits.",
            )
        ledger.append("promotion", name, {**body, "reasons": list(reasons), "approved_by": by, "approval": judged.seq})
        registry.promote(platform.tracking(), name, version, current, reasons)
    return Approved(version, False, True, version, current, told)
