"""The gate: what a candidate must show before it may become champion. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rempart.models.metrics import LOWER_IS_BETTER
from rempart.settings.pipeline import Gate


@dataclass(frozen=True)
class GateVerdict:
    """Verdict: whether the candidate passed, with one readable reason for each rule, including passed rules."""

    passed: bool
    reasons: tuple[str, ...]


def is_kept(reason: str) -> bool:
    """Return whether a verdict's reason describes a passed rule."""
    return reason.startswith("passed: ")


def judge(
    candidate: Mapping[str, float],
    champion: Mapping[str, float] | None,
    baseline: Mapping[str, float],
    rules: Gate,
    target: str = "",
) -> GateVerdict:
    """Hold a candidate's metrics against the limit, the naive baseline and the champion (None: there is none).

    All metrics are of the same held-out rows; mae and rmse are in the unit of the target, which the reasons name. Rules
    where lower is better: at most `limit`; at most baseline × (1 - margin); at most champion × (1 + tolerance). Where
    higher is better (accuracy): at least `limit`; an error of at most (1 - baseline) × (1 - margin); at least
    champion × (1 - tolerance). A metric that is missing or not finite, anyone's, refuses.
    """
    name, lower = rules.metric, LOWER_IS_BETTER[rules.metric]
    unusable = [
        f"{whose}'s {key} is {'missing' if value is None else 'not a number'}"
        for whose, metrics in (("candidate", candidate), ("baseline", baseline), ("champion", champion))
        if metrics is not None
        for key, value in {name: None, **metrics}.items()
        if value is None or not math.isfinite(value)
    ]
    if unusable:
        return GateVerdict(
            False, tuple(f"refused: the {fault}, and an unknown value never passes" for fault in unusable)
        )
    of = f" of {target}" if target else ""
    mine = candidate[name]
    checks = [("the limit", rules.limit)]
    margin, tolerance = rules.baseline_margin, rules.champion_tolerance
    base = baseline[name]
    bound = base * (1 - margin) if lower else 1 - (1 - base) * (1 - margin)
    less = f"less {margin:.0%}" if lower else f"with {margin:.0%} of its error gone"
    checks.append((f"the naive baseline's {base:.4g} {less}", bound))
    if champion is not None:
        theirs = champion[name]
        bound = theirs * (1 + tolerance) if lower else theirs * (1 - tolerance)
        checks.append((f"the champion's {theirs:.4g} on the same rows, with a tolerance of {tolerance:.0%}", bound))
    results = [(mine <= bound if lower else mine >= bound, what, bound) for what, bound in checks]
    reasons = [
        f"{'passed' if ok else 'refused'}: {name}{of} {mine:.4g} is "
        f"{('at most' if lower else 'at least') if ok else ('above' if lower else 'below')} {bound:.4g} ({what})"
        for ok, what, bound in results
    ]
    return GateVerdict(all(ok for ok, _, _ in results), tuple(reasons))
