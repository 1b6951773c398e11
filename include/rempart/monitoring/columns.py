"""Judge which columns of a window moved away from the training data. Pure.

A window is compared with its season in the training data and with the months just before it, and the nearer of both
counts. A column moved if the movement is no chance (corrected for the number of tests), and larger than both the rule's
share of rows and any month's movement in the training data, measured alike. So neither a season nor a history that
still grows is drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rempart.monitoring import statistics
from rempart.monitoring.profiles import ColumnProfile, Profile, references
from rempart.settings.champions.monitoring import Monitoring

Finding = Literal["values", "nulls", "unknown values"]
LEVEL = 0.005
"""Chance that a window in which nothing moved has a finding."""
SOME = 10
"""Fewer rows with unknown values are no finding."""


@dataclass(frozen=True)
class ColumnVerdict:
    """How far a column moved. Shares are of rows, from 0 to 1.

    `moved` and `allowed`: movement of the values, and the largest that is no drift; None if there are too few values.
    `p`: adjusted p-value. `nulls`, `nulls_before`: shares without a value. `unknown`: share of values outside of the
    closed list. `findings`: what is at fault; empty if the column is not.
    """

    column: str
    rows: int
    moved: float | None
    allowed: float | None
    psi: float | None
    p: float
    nulls: float
    nulls_before: float
    unknown: float
    findings: tuple[Finding, ...] = ()

    @property
    def excess(self) -> float:
        """Return by how much the largest movement is beyond what is allowed, to order columns."""
        return max((self.moved or 0.0) - (self.allowed or 0.0), abs(self.nulls - self.nulls_before), self.unknown)


def judge(training: Profile, window: Profile, rules: Monitoring) -> tuple[ColumnVerdict, ...]:
    """Return the verdict of each column of the window, those at fault first, then by how far they moved."""
    measured = [_measured(training[name], profile, rules) for name, profile in window.items()]
    p_values = [p for found in measured for p in (found.values_p, found.nulls_p)]
    adjusted = iter(statistics.benjamini_hochberg(p_values))
    verdicts = [_verdict(found, next(adjusted), next(adjusted), rules) for found in measured]
    return tuple(sorted(verdicts, key=lambda verdict: (not verdict.findings, -verdict.excess)))


@dataclass(frozen=True)
class _ColumnMeasures:
    name: str
    rows: int
    moved: float | None
    allowed: float
    psi: float | None
    values_p: float
    nulls: float
    nulls_before: float
    nulls_allowed: float
    nulls_p: float
    unknown: float
    unknown_rows: int


def _measured(training: ColumnProfile, window: ColumnProfile, rules: Monitoring) -> _ColumnMeasures:
    is_number = training.column.kind == "number"
    test = statistics.kolmogorov_smirnov if is_number else statistics.chi_square
    found = references(training, window.periods, rules.least_rows)
    before = min(found, key=lambda reference: movement(reference, window))
    held = min(found, key=lambda reference: null_movement(reference, window))
    then, now = before.total(), window.total()
    enough = min(sum(then), sum(now)) >= rules.least_rows
    natural_values, natural_nulls = natural(training, rules.least_rows)
    unknown = 0 if is_number else now[-1]
    return _ColumnMeasures(
        training.column.name,
        window.rows,
        movement(before, window) if enough else None,
        max(rules.moved, natural_values),
        statistics.psi(then, now) if enough else None,
        test(then, now) if enough else 1.0,
        _null_share(window),
        _null_share(held),
        max(rules.moved, natural_nulls),
        statistics.chi_square((held.missing, held.rows - held.missing), (window.missing, window.rows - window.missing)),
        unknown / sum(now) if unknown else 0.0,
        unknown,
    )


def _verdict(found: _ColumnMeasures, values_p: float, nulls_p: float, rules: Monitoring) -> ColumnVerdict:
    findings: list[Finding] = []
    if found.moved is not None and values_p < LEVEL and found.moved > found.allowed:
        findings.append("values")
    if nulls_p < LEVEL and abs(found.nulls - found.nulls_before) > found.nulls_allowed:
        findings.append("nulls")
    if found.unknown_rows >= SOME and found.unknown > rules.unknown:
        findings.append("unknown values")
    return ColumnVerdict(
        found.name,
        found.rows,
        found.moved,
        found.allowed if found.moved is not None else None,
        found.psi,
        min(values_p, nulls_p),
        found.nulls,
        found.nulls_before,
        found.unknown,
        tuple(findings),
    )


def movement(before: ColumnProfile, after: ColumnProfile) -> float:
    """Return how far the values moved, as a share of rows."""
    measure = statistics.ordered_movement if before.column.kind == "number" else statistics.unordered_movement
    return measure(before.total(), after.total())


def null_movement(before: ColumnProfile, after: ColumnProfile) -> float:
    """Return the change of the share of rows without a value."""
    return abs(_null_share(before) - _null_share(after))


@lru_cache(maxsize=1024)  # a watch of many windows has one training profile
def natural(training: ColumnProfile, least: int) -> tuple[float, float]:
    """Return the largest movement of a month of the training data, each judged as a window is, of values and of nulls.

    0 if no month can be judged. Months with fewer than `least` rows do not count.
    """
    values, nulls = [0.0], [0.0]
    for period in _large(training, least):
        month = training.of([period])
        if judged_by := [each for each in references(training, [period], least) if each.rows >= least]:
            values.append(min(movement(each, month) for each in judged_by))
            nulls.append(min(null_movement(each, month) for each in judged_by))
    return max(values), max(nulls)


def _large(training: ColumnProfile, least: int) -> Sequence[str]:
    if len(training.periods) < 2:
        return ()
    sizes = zip(training.periods, training.counts, strict=True)
    return [period for period, counts in sizes if sum(counts) >= least]


def _null_share(profile: ColumnProfile) -> float:
    return profile.missing / profile.rows if profile.rows else 0.0
