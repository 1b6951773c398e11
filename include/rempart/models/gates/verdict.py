"""The gate: what a candidate must show before it may become champion. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rempart.models.gates import leakage
from rempart.models.gates.candidate_figures import CandidateFigures, Subgroup
from rempart.models.intervals import figures as intervals
from rempart.settings.gates import rules
from rempart.settings.gates.gate import Gate
from rempart.settings.gates.metrics import LOWER_IS_BETTER

Outcome = Literal["passed", "refused", "unknown"]
_WORST, _SHOWN = 3, 100
"""Subgroups that a reason names, and those that evidence has: the refused first, then the largest."""


@dataclass(frozen=True)
class RuleResult:
    """Outcome of one rule. `value` is compared with `bound`; None: there is none, or it is not known.

    `details`: subgroups or bands of the calibration, for a chart.
    """

    rule: str
    outcome: Outcome
    what: str
    metric: str | None = None
    value: float | None = None
    bound: float | None = None
    details: tuple[Mapping[str, Any], ...] = ()

    @property
    def reason(self) -> str:
        """Return the outcome and why, as one line. An unknown value refuses."""
        if self.outcome == "unknown":
            return f"refused: {self.what}, and an unknown value never passes"
        return f"{self.outcome}: {self.what}"

    def as_json(self) -> dict[str, Any]:
        """Return it as evidence has it."""
        return {
            "rule": self.rule,
            "outcome": self.outcome,
            "what": self.what,
            "metric": self.metric,
            "value": _finite(self.value),
            "bound": _finite(self.bound),
            "details": [{key: _finite(value) for key, value in detail.items()} for detail in self.details],
        }


@dataclass(frozen=True)
class GateVerdict:
    """Verdict: whether the candidate passed, with one readable reason for each rule, including passed rules."""

    passed: bool
    reasons: tuple[str, ...]
    results: tuple[RuleResult, ...] = field(default=())


def _finite(value: Any) -> Any:
    """Return a value; None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judge(shown: CandidateFigures, gate: Gate) -> GateVerdict:
    """Ask every rule of a gate. All must pass; a figure that is missing or not finite, anyone's, refuses.

    Metrics are of the same held-out rows; those in the target's unit are named with the target.
    """
    results = [
        RuleResult("figures", "unknown", f"the {whose}'s {name} is not a number", name)
        for whose, metrics in (
            ("candidate", shown.candidate),
            ("baseline", shown.baseline),
            ("champion", shown.champion),
        )
        for name, value in (metrics or {}).items()
        if not math.isfinite(value)
    ]
    for number, rule in enumerate(gate.all_rules()):
        if (result := _JUDGES[type(rule)](_Question(rule, number, gate, shown))) is not None:
            results.append(result)
    reasons = tuple(dict.fromkeys(result.reason for result in results))
    return GateVerdict(all(result.outcome == "passed" for result in results), reasons, tuple(results))


@dataclass(frozen=True)
class _Question:
    """One rule with what it is asked of."""

    rule: Any
    number: int
    gate: Gate
    shown: CandidateFigures

    @property
    def metric(self) -> str:
        return str(self.gate.metric_of(self.rule))

    @property
    def lower(self) -> bool:
        return LOWER_IS_BETTER[self.metric]


def is_within(value: float, bound: float, *, lower: bool) -> bool:
    """Return whether a metric keeps a bound. False if one of them is not finite."""
    return math.isfinite(value) and math.isfinite(bound) and (value <= bound if lower else value >= bound)


def baseline_bound(base: Any, margin: float, *, lower: bool) -> Any:
    """Return what a metric must reach: less than the baseline's by a share, or with that share of its error gone."""
    return base * (1 - margin) if lower else 1 - (1 - base) * (1 - margin)


def champion_bound(theirs: Any, tolerance: float, *, lower: bool) -> Any:
    """Return what a metric must reach: the champion's, worse by a share of its amount."""
    return theirs + abs(theirs) * tolerance if lower else theirs - abs(theirs) * tolerance


def _compared(asked: _Question, bound: float, what: str, wins: float | None = None) -> RuleResult:
    """Return the result of a metric against a bound. `wins`: share of the resamples that keep the rule."""
    rule, name, lower = asked.rule, asked.metric, asked.lower
    of = f" of {asked.shown.target}" if asked.shown.target else ""
    mine = asked.shown.candidate.get(name)
    if mine is None or not math.isfinite(mine):
        told = "missing" if mine is None else "not a number"
        return RuleResult(rule.kind, "unknown", f"the candidate's {name} is {told}", name, None, bound)
    if not math.isfinite(bound):
        return RuleResult(rule.kind, "unknown", f"the bound of {name} is not a number", name, mine)
    ok = is_within(mine, bound, lower=lower)
    words = ("at most" if lower else "at least") if ok else ("above" if lower else "below")
    told = f"{name}{of} {mine:.4g} is {words} {bound:.4g} ({what})"
    confidence = getattr(rule, "confidence", None)
    if ok and confidence is not None:
        if wins is None:
            return RuleResult(rule.kind, "unknown", f"{told}, but no resample was measured", name, mine, bound)
        ok = wins >= confidence
        told = f"{told}; it holds in {wins:.1%} of the resamples, {'and' if ok else 'but'} {confidence:.0%} are asked"
    return RuleResult(rule.kind, "passed" if ok else "refused", told, name, mine, bound)


def _wins(asked: _Question, others: tuple[str, ...], bound: Callable[[Any], Any]) -> float | None:
    """Return the share of resamples in which the candidate keeps a bound made of the best of others; None: unknown."""
    import numpy as np

    found = [asked.shown.samples.get(side, {}).get(asked.metric) for side in ("candidate", *others)]
    known = [values for values in found if values is not None and len(values)]
    if len(known) < len(found):
        return None
    mine, *theirs = known
    bounds = bound(np.min(theirs, axis=0) if asked.lower else np.max(theirs, axis=0))
    kept = mine <= bounds if asked.lower else mine >= bounds  # false for NaN
    return float(np.mean(kept & np.isfinite(bounds)))


def _limit(asked: _Question) -> RuleResult:
    return _compared(asked, asked.rule.limit, "the limit")


def _beats_baseline(asked: _Question) -> RuleResult:
    rule, lower = asked.rule, asked.lower
    base, overall = (asked.shown.baseline.get(name) for name in (asked.metric, f"overall_{asked.metric}"))
    if base is None or overall is None:
        return RuleResult(rule.kind, "unknown", f"the baseline's {asked.metric} is missing", asked.metric)
    less = f"less {rule.margin:.0%}" if lower else f"with {rule.margin:.0%} of its error gone"
    # groups of few rows may be worse than none: the candidate must beat the better one
    best = min(base, overall) if lower else max(base, overall)
    told = f"{best:.4g}" if best == base else f"{best:.4g} of all rows, better than {base:.4g} by groups,"
    wins = _wins(asked, ("baseline", "overall"), lambda value: baseline_bound(value, rule.margin, lower=lower))
    bound = float(baseline_bound(best, rule.margin, lower=lower))
    return _compared(asked, bound, f"the naive baseline's {told} {less}", wins)


def _beats_champion(asked: _Question) -> RuleResult | None:
    rule, lower, champion = asked.rule, asked.lower, asked.shown.champion
    if champion is None:
        return None
    if (theirs := champion.get(asked.metric)) is None:
        return RuleResult(rule.kind, "unknown", f"the champion's {asked.metric} is missing", asked.metric)
    wins = _wins(asked, ("champion",), lambda value: champion_bound(value, rule.tolerance, lower=lower))
    what = f"the champion's {theirs:.4g} on the same rows, with a tolerance of {rule.tolerance:.0%}"
    return _compared(asked, float(champion_bound(theirs, rule.tolerance, lower=lower)), what, wins)


def _calibration(asked: _Question) -> RuleResult:
    limit, details = asked.rule.limit, tuple(asdict(band) for band in asked.shown.calibration)
    name = "calibration_error"
    found = asked.shown.candidate.get(name)
    if found is None or not math.isfinite(found):
        return RuleResult("calibration", "unknown", "the calibration error is not known", name, None, limit)
    ok = found <= limit
    than = "at most" if ok else "more than"
    told = f"predicted chances are off by {found:.1%} on average, {than} the {limit:.1%} allowed"
    return RuleResult("calibration", "passed" if ok else "refused", told, name, found, limit, details)


def _coverage(asked: _Question) -> RuleResult:
    rule = asked.rule
    found, width = (asked.shown.candidate.get(name) for name in intervals.NAMES)
    if found is None or width is None or not (math.isfinite(found) and math.isfinite(width)):
        told = "what the intervals cover is not known: the model gives none"
        return RuleResult("coverage", "unknown", told, intervals.COVERAGE, None, rule.at_least)
    enough, narrow = found >= rule.at_least, rule.max_width is None or width <= rule.max_width
    than = "at least" if enough else "less than"
    told = f"{found:.1%} of the true values lie in their interval, {than} the {rule.at_least:.1%} asked"
    told = f"{told}; an interval is {width:.4g} wide on average"
    if rule.max_width is not None:
        told = f"{told}, {'at most' if narrow else 'more than'} the {rule.max_width:.4g} allowed"
    outcome: Outcome = "passed" if enough and narrow else "refused"
    return RuleResult("coverage", outcome, told, intervals.COVERAGE, found, rule.at_least)


def _error(value: float, *, lower: bool) -> float:
    """Return the error of a metric: what it is above 0, or what it lacks to 1."""
    return value if lower else 1 - value


def _subgroups(asked: _Question) -> RuleResult:
    rule, name, lower = asked.rule, asked.metric, asked.lower
    found, whole = asked.shown.subgroups.get(asked.number), asked.shown.candidate.get(name)
    by = ", ".join(rule.columns)
    if found is None or isinstance(found, str):
        return RuleResult("subgroups", "unknown", found or f"subgroups by {by} were not measured", name)
    if whole is None or not math.isfinite(whole):
        return RuleResult("subgroups", "unknown", f"the candidate's {name} of all rows is not known", name)
    allowed = _error(whole, lower=lower) * rule.ratio
    bound = allowed if lower else 1 - allowed
    judged = [group for group in found if group.rows >= rule.min_rows]
    details = tuple(
        {"group": group.name, "rows": group.rows, "value": group.value, "outcome": _of_group(group, rule, bound, lower)}
        for group in sorted(found, key=lambda group: (_of_group(group, rule, bound, lower) != "refused", -group.rows))
    )[:_SHOWN]
    if not judged:
        told = f"no subgroup by {by} has {rule.min_rows:,} held-out rows"
        return RuleResult("subgroups", "unknown", told, name, None, bound, details)
    unknown = [group for group in judged if group.value is None or not math.isfinite(group.value)]
    if unknown:
        told = f"{name} of subgroup {unknown[0].name} ({unknown[0].rows:,} rows) is not known"
        return RuleResult("subgroups", "unknown", told, name, None, bound, details)
    worst_first = sorted(judged, key=lambda group: -_error(group.value or 0.0, lower=lower))
    broken = [group for group in worst_first if not is_within(group.value or 0.0, bound, lower=lower)]
    error = name if lower else f"the error (1 - {name})"
    against = f"{rule.ratio:g} times {error} of all rows ({name} {whole:.4g}; bound {bound:.4g})"
    if not broken:
        worst = worst_first[0]
        told = f"none of {len(judged)} subgroups by {by} is worse than {against}; the worst is {_told(worst, name)}"
        return RuleResult("subgroups", "passed", told, name, worst.value, bound, details)
    shown = "; ".join(_told(group, name) for group in broken[:_WORST])
    more = f"; and {len(broken) - _WORST} more" if len(broken) > _WORST else ""
    verb = "is" if len(broken) == 1 else "are"
    told = f"{len(broken)} of {len(judged)} subgroups {verb} worse than {against}: {shown}{more}"
    return RuleResult("subgroups", "refused", told, name, broken[0].value, bound, details)


def _of_group(group: Subgroup, rule: rules.SubgroupsRule, bound: float, lower: bool) -> str:
    if group.rows < rule.min_rows:
        return "too few rows"
    if group.value is None or not math.isfinite(group.value):
        return "unknown"
    return "passed" if is_within(group.value, bound, lower=lower) else "refused"


def _told(group: Subgroup, name: str) -> str:
    return f"{group.name} ({group.rows:,} rows) with {name} {group.value:.4g}"


def _at_most(kind: str, what: str, found: float | None, limit: float, written: Callable[[float], str]) -> RuleResult:
    if found is None or not math.isfinite(found):
        return RuleResult(kind, "unknown", f"{what} is not known", None, None, limit)
    ok = found <= limit
    told = f"{what} is {written(found)}, {'at most' if ok else 'more than'} the {written(limit)} allowed"
    return RuleResult(kind, "passed" if ok else "refused", told, None, found, limit)


def _size(asked: _Question) -> RuleResult:
    size = None if asked.shown.size is None else asked.shown.size / 1e6
    return _at_most("size", "the size of the model's file", size, asked.rule.limit_mb, lambda value: f"{value:.4g} MB")


def _latency(asked: _Question) -> RuleResult:
    found = None if asked.shown.latency is None else asked.shown.latency * 1000
    limit, what = asked.rule.limit_ms, "the median time to predict one row"
    if found is None or not math.isfinite(found):
        return RuleResult("latency", "unknown", f"{what} is not known", None, None, limit)
    # without the time itself: the same judgement of the same candidate has the same reasons
    told = f"{what} is {'at most' if found <= limit else 'more than'} the {limit:g} ms allowed"
    return RuleResult("latency", "passed" if found <= limit else "refused", told, None, found, limit)


def _stability(asked: _Question) -> RuleResult:
    rule = asked.rule
    what = f"with noise of {rule.noise:.1%} of each number's standard deviation, the mean change of a prediction"
    return _at_most("stability", what, asked.shown.changes.get(rule.noise), rule.limit, lambda value: f"{value:.2%}")


def _excluded(asked: _Question) -> RuleResult:
    rule, reads = asked.rule, asked.shown.reads
    if reads is None:
        return RuleResult(rule.kind, "unknown", "the columns that the model reads are not known")
    excluded = set(rule.columns)
    if broken := sorted(
        feature for feature in reads.features if feature in excluded or reads.columns.get(feature, set()) & excluded
    ):
        told = f"the model reads {', '.join(broken)}, which a person excluded ({', '.join(rule.columns)})"
        return RuleResult(rule.kind, "refused", told)
    if reads.unknown:
        told = f"nobody can tell of which columns the feature {min(reads.unknown)} is made"
        return RuleResult(rule.kind, "unknown", told)
    return RuleResult(rule.kind, "passed", f"the model reads nothing of {', '.join(rule.columns)}")


def _leakage(asked: _Question) -> RuleResult | None:
    rule, told = asked.rule, asked.shown.told_alone
    silent = rule not in asked.gate.rules  # every gate asks it: only a refusal is worth a line
    target = asked.shown.target or "the target"
    if told is None and rule.limit < 1:
        few = (
            f"fewer than {leakage.FEWEST} rows to learn from, or than {leakage.FEWEST_OTHERS} with another {target} "
            "than the commonest: what a feature alone tells of it is not known"
        )
        return None if silent else RuleResult("leakage", "unknown", few, None, None, rule.limit)
    if found := leakage.above(told or {}, rule.limit, rule.allow):
        shown = ", ".join(f"{name} ({share:.1%})" for name, share in found[:_WORST])
        more = f" and {len(found) - _WORST} more" if len(found) > _WORST else ""
        what = (
            f"a feature alone tells almost all of {target}: {shown}{more}; at most {_share(rule.limit)} is allowed. If "
            "it is known at the moment of the prediction, name it under `allow` of a rule `leakage`"
        )
        return RuleResult("leakage", "refused", what, None, found[0][1], rule.limit)
    if silent:
        return None
    most = max((share for name, share in (told or {}).items() if name not in rule.allow), default=0.0)
    what = f"no feature alone tells more than {_share(rule.limit)} of {target}"
    but = f", other than {', '.join(rule.allow)}" if rule.allow else ""
    return RuleResult("leakage", "passed", what + but, None, most, rule.limit)


def _share(value: float) -> str:
    return f"{value * 100:.4g}%"


_JUDGES: Mapping[type[Any], Callable[[_Question], RuleResult | None]] = {
    rules.LimitRule: _limit,
    rules.BaselineRule: _beats_baseline,
    rules.ChampionRule: _beats_champion,
    rules.CalibrationRule: _calibration,
    rules.CoverageRule: _coverage,
    rules.SubgroupsRule: _subgroups,
    rules.SizeRule: _size,
    rules.LatencyRule: _latency,
    rules.StabilityRule: _stability,
    rules.ExcludedFeaturesRule: _excluded,
    rules.LeakageRule: _leakage,
}
