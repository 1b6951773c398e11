"""The verdict of one watch of a champion, and its record in the ledger. Pure.

A record has names of columns, of segments, and figures. A value of a row is in no record: a segment is named only if
the pipeline file lists its values, or it is a part of the calendar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal

from rempart.counts import counted
from rempart.monitoring import freshness
from rempart.monitoring.columns import ColumnVerdict
from rempart.monitoring.coverage import IntervalCoverage
from rempart.monitoring.domain import Separation
from rempart.monitoring.freshness import DataAge
from rempart.monitoring.performance import Figure, Performance
from rempart.monitoring.standings import PairedComparison

Outcome = Literal["green", "red", "unknown"]
EXIT: Mapping[Outcome, int] = {"green": 0, "red": 1, "unknown": 2}
SHOWN = 10
"""Columns and segments of a record: those at fault or without a reference, and then those that moved most."""


@dataclass(frozen=True)
class Window:
    """The rows that were watched: snapshot, first and last date, and their number. `source`: where they are from.

    `unpredicted`: rows with a value that the champion does not know; `unknown`: these rows by the feature.
    """

    source: str
    snapshot: str
    first: date | None
    last: date | None
    rows: int
    unpredicted: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)

    @property
    def predicted(self) -> int:
        return self.rows - self.unpredicted

    def told(self) -> Iterator[str]:
        """Yield which rows were not predicted, and the remedy, if there are any."""
        if self.unpredicted:
            where = ", ".join(f"'{name}' ({rows:,})" for name, rows in self.unknown.items())
            yield (
                f"{counted(self.unpredicted, 'row')} of {self.rows:,} cannot be predicted: the champion does not know "
                f"a value of {where}; train again"
            )


@dataclass(frozen=True)
class ChampionVerdict:
    """What a watch found. `reasons`: one line for each fault, and for all that is not known or was not predicted."""

    version: str
    outcome: Outcome
    reasons: tuple[str, ...]
    window: Window
    columns: tuple[ColumnVerdict, ...] = ()
    performance: Performance | None = None
    ages: tuple[DataAge, ...] = ()
    challenger: PairedComparison | None = None
    domain: Separation | None = None
    intervals: IntervalCoverage | None = None

    def body(self) -> dict[str, Any]:
        """Return the record: plain JSON with finite numbers."""
        faults = [column for column in self.columns if column.findings]
        return {
            "version": self.version,
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "window": asdict(self.window) | {"first": _iso(self.window.first), "last": _iso(self.window.last)},
            "watched": len(self.columns),
            "moved": len(faults),
            "columns": [_plain(asdict(column)) for column in self.columns[: max(SHOWN, len(faults))]],
            "performance": _performance(self.performance),
            "freshness": [age.body() for age in self.ages],
            "challenger": _plain(self.challenger.body()) if self.challenger else None,
            "domain": _domain(self.domain) if self.domain else None,
            "intervals": self.intervals.body() if self.intervals else None,
        }


def conclude(
    version: str,
    window: Window,
    columns: tuple[ColumnVerdict, ...],
    performance: Performance | None,
    least: int,
    ages: tuple[DataAge, ...] = (),
    challenger: PairedComparison | None = None,
    domain: Separation | None = None,
    intervals: IntervalCoverage | None = None,
    *,
    domain_alarms: bool = False,
    tolerated: float = 0.0,
) -> ChampionVerdict:
    """Return the verdict: red if anything is at fault, unknown if anything could not be judged, else green.

    Late data is unknown: how the champion does on rows that did not come, nobody knows, and a training would not help.
    Rows that the champion cannot predict are told; more than the share `tolerated` of them is unknown.
    """
    faults = list(_faults(columns, performance, intervals))
    if domain is not None and domain_alarms and domain.moved:
        faults.append(domain.told())
    unknown = [*_unknown(window, columns, performance, least), *freshness.told(ages)]
    if domain_alarms and (domain is None or domain.allowed is None):
        unknown.append(
            "what a model tells by all columns at once is not known: the training data has too few earlier windows"
        )
    too_many = window.unpredicted > tolerated * window.rows
    outcome: Outcome = "red" if faults else "unknown" if unknown or too_many else "green"
    reasons = (*faults, *unknown, *window.told())
    return ChampionVerdict(version, outcome, reasons, window, columns, performance, ages, challenger, domain, intervals)


def _faults(
    columns: tuple[ColumnVerdict, ...], performance: Performance | None, intervals: IntervalCoverage | None
) -> Iterator[str]:
    if performance is not None:
        for figure in (performance.overall, *performance.segments):
            if figure.worse:
                where = f" of {figure.segment}" if figure.segment else ""
                value = f"{performance.metric}{where} is {_number(figure.value)} on {figure.rows:,} rows"
                yield f"{value}, {_compared(figure)}"
        if performance.miscalibrated:
            yield (
                f"probabilities are off by {performance.calibration:.1%} on average, and were by "
                f"{performance.calibration_recorded:.1%} on the hold-out"
            )
    if intervals is not None and intervals.short:
        yield intervals.told()
    for column in columns:
        told = {
            "values": f"{column.moved or 0:.0%} of the rows moved, {column.allowed or 0:.0%} are allowed",
            "nulls": f"{column.nulls:.1%} have no value, {column.nulls_before:.1%} had none",
            "unknown values": f"{column.unknown:.1%} have a value outside of the list",
        }
        for finding in column.findings:
            yield f"{column.column}: {told[finding]}"


def _compared(figure: Figure) -> str:
    if figure.reference == "none":
        return "and neither the hold-out nor the training data has enough of these rows"
    if figure.reference == "training data":
        return f"and {_number(figure.recorded)} is expected by its training data, since the hold-out has too few"
    return f"and was {_number(figure.recorded)} on the hold-out"


def _unknown(
    window: Window, columns: tuple[ColumnVerdict, ...], performance: Performance | None, least: int
) -> Iterator[str]:
    if window.rows < least:
        yield f"too few rows: {window.rows:,} since the training data, {least:,} are needed"
        return
    few = [column.column for column in columns if column.moved is None]
    if few:
        yield f"too few values in {len(few)} of {len(columns)} columns, such as {few[0]}"
    if performance is None or performance.overall.value is None:
        known = performance.overall.rows if performance else 0
        if known < least:
            yield f"too few targets are known: {known:,} of {window.predicted:,} rows, {least:,} are needed"
        else:
            yield f"the hold-out has too few rows to compare with: {least:,} are needed"


def _performance(found: Performance | None) -> dict[str, Any] | None:
    if found is None:
        return None
    faults = sum(figure.worse or figure.reference == "none" for figure in found.segments)
    return {
        **_plain(asdict(found.overall)),
        "metric": found.metric,
        "segments": [_plain(asdict(figure)) for figure in found.segments[: max(SHOWN, faults)]],
        "calibration": found.calibration,
        "calibration_recorded": found.calibration_recorded,
        "miscalibrated": found.miscalibrated,
    }


def _domain(found: Separation) -> dict[str, Any]:
    return _plain(found.body()) | {"columns": [_plain(asdict(column)) for column in found.columns]}


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with numbers of six digits; those that JSON cannot hold as None."""
    import math

    return {
        name: (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value
        for name, value in given.items()
    }


def _number(value: float | None) -> str:
    import math

    return "not a number" if value is None or math.isnan(value) else f"{value:.4g}"


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None
