"""The rules of the gate on a version, with subgroups and bands of the calibration, as a record has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.models.intervals.figures import COVERAGE
from rempart.settings.gates.metrics import LOWER_IS_BETTER
from rempart.web.read_models.messages import State

DRAWN = 24
"""Subgroups that a chart shows: the refused first, then those with the most rows."""
_STATES: Mapping[str, State] = {"passed": "good", "refused": "bad"}


@dataclass(frozen=True)
class SubgroupFigure:
    """A subgroup's metric. `state`: unknown if it has too few rows to be judged."""

    name: str
    rows: int
    value: float | None
    state: State


@dataclass(frozen=True)
class BandFigure:
    """Rows with about the same chance of a class, and the share of them that came true."""

    of: str
    rows: int
    chance: float
    share: float


@dataclass(frozen=True)
class RuleRow:
    """One rule. `value` keeps `bound` or not; None: not known, or there is none.

    `more`: subgroups that are not drawn.
    """

    rule: str
    state: State
    what: str
    metric: str | None
    value: float | None
    bound: float | None
    lower_is_better: bool
    subgroups: tuple[SubgroupFigure, ...] = ()
    more: int = 0
    bands: tuple[BandFigure, ...] = ()


def rules(body: Mapping[str, Any]) -> tuple[RuleRow, ...]:
    """Return the rules of a judgement, the refused first; none if its record has none."""
    rows = [_row(rule) for rule in body.get("rules") or ()]
    return tuple(sorted(rows, key=lambda row: row.state == "good"))


def _row(rule: Mapping[str, Any]) -> RuleRow:
    details = rule.get("details") or ()
    groups = [
        SubgroupFigure(str(each["group"]), int(each["rows"]), each["value"], _STATES.get(each["outcome"], "unknown"))
        for each in details
        if "group" in each
    ]
    bands = tuple(
        BandFigure(str(each["of"]), int(each["rows"]), float(each["chance"]), float(each["share"]))
        for each in details
        if "of" in each
    )
    metric = rule.get("metric")
    return RuleRow(
        str(rule["rule"]),
        _STATES.get(str(rule["outcome"]), "unknown"),
        str(rule["what"]),
        metric,
        rule.get("value"),
        rule.get("bound"),
        LOWER_IS_BETTER.get(str(metric), metric != COVERAGE),
        tuple(groups[:DRAWN]),
        len(groups[DRAWN:]),
        bands,
    )
