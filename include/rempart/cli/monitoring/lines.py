"""Write a verdict on a champion as lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rempart.cli.views import text
from rempart.counts import counted
from rempart.web.read_models.watched.drift import MetricFigure, Watched
from rempart.web.read_models.watched.findings import ChallengerFigures

_WORDS = {"good": "green", "bad": "RED"}


def verdict(found: Watched) -> Iterator[str]:
    """Yield a verdict with its reasons, the gate's metric, and the columns that moved most."""
    yield f"{found.pipeline}: {_WORDS.get(found.state, 'unknown')}{_since(found)}"
    if found.outcome is None:
        yield (
            "The model has no champion yet."
            if found.champion is None
            else f"No verdict is on record. Start the DAG monitor_{found.pipeline}, which also runs every day."
        )
        return
    if not found.is_current:
        yield f"The verdict was {found.outcome}. It is old, or the champion is another version: start the DAG again."
    for reason in found.reasons:
        yield f"  {reason}"
    yield from _led_to(found)
    yield from _late(found)
    if found.measured:
        yield ""
        rows = [
            (
                each.segment or "all rows",
                f"{each.rows:,}",
                _number(each.value),
                _reference(each),
                _worse(each.worse),
            )
            for each in found.measured
        ]
        yield from text.table((str(found.metric).upper(), "ROWS", "NOW", "REFERENCE", ""), rows)
    yield from _other_findings(found)
    if found.columns:
        yield ""
        table = [
            (each.column, _share(each.moved), _share(each.allowed), _share(each.nulls), ", ".join(each.findings))
            for each in found.columns
        ]
        yield from text.table(("COLUMN", "MOVED", "ALLOWED", "NULL", "AT FAULT"), table)


def _late(found: Watched) -> Iterator[str]:
    """Yield the ages of the data, and what is expected."""
    if found.ages:
        yield ""
        rows = [
            (each.what, text.span(each.age_seconds), _limit(each.limit_seconds), "LATE" if each.is_late else "")
            for each in found.ages
        ]
        yield from text.table(("NEWEST", "AGE", "AT MOST", ""), rows)


def _limit(seconds: float | None) -> str:
    return "no limit" if seconds is None else text.span(seconds)


def _other_findings(found: Watched) -> Iterator[str]:
    """Yield what intervals cover, how the challenger does, and whether a model tells the window apart."""
    if ends := found.intervals:
        yield ""
        many = text.counted(ends.rows, "known true value")
        cover = f"cover {_share(ends.covered)} of {many}" if ends.covered is not None else f"not judged on {many}"
        yield f"intervals: {cover}, promised {_share(ends.promised)}{', TOO FEW' if ends.short else ''}"
    if other := found.challenger:
        yield ""
        yield f"challenger {other.version} ({other.standing}): {_compared(other, str(found.metric))}"
    if apart := found.apart:
        usual = "the training data is too short to say what is usual"
        if apart.allowed is not None:
            usual = f"{'MORE' if apart.moved else 'not more'} than {apart.allowed:.3f}, which is usual"
        yield ""
        area = f"AUC {apart.area:.3f} ({apart.low:.3f} to {apart.high:.3f})"
        yield f"told from the training data by a model: {area}, {usual}"
        if apart.columns:
            yield f"  by {', '.join(apart.columns)}"


def _compared(other: ChallengerFigures, metric: str) -> str:
    if other.challenger is None or other.difference is None:
        return f"not compared, {other.why}"
    better = {"challenger": "BETTER", "champion": "worse"}.get(str(other.better), "no difference beyond chance")
    return (
        f"{metric} {_number(other.challenger)}, champion {_number(other.champion)} on the same {other.rows:,} rows; "
        f"difference {_number(other.difference)} ({_number(other.low)} to {_number(other.high)}): {better}"
    )


def _led_to(found: Watched) -> Iterator[str]:
    """Yield why the alarm started no training, and what became of the newest training that a verdict started."""
    if found.chains and found.chains[0].declined:
        yield f"  no training was started: {found.chains[0].declined}"
    if (again := found.retrained) is None:
        return
    last = again.trained or again.started
    what = f"version {again.version} was trained" if again.version else "a training was started"
    yield f"  {what} because of verdict {again.verdict}, {text.moment(last.at if last else None)}"
    if again.served:
        until = f", until {text.moment(again.served.until)}" if again.served.until else ""
        yield f"  version {again.version} became champion {text.moment(again.served.since)}{until}"
    elif again.judgement == "approval":
        yield f"  it passed the gate and awaits approval: `rempart model show {found.pipeline}` tells whose"
    if again.refused:
        yield "  NO BETTER CHAMPION:"
        yield from (f"    {reason}" for reason in again.refused)


def document(found: Watched) -> dict[str, Any]:
    """Return a verdict as a JSON document."""
    return asdict(found)


def _since(found: Watched) -> str:
    if found.at is None:
        return ""
    return f", version {found.version}, {counted(found.rows or 0, 'row')}, {text.moment(found.at)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _reference(figure: MetricFigure) -> str:
    if figure.reference == "none":
        return "no reference"
    told = _number(figure.recorded)
    return told if figure.reference == "hold-out" else f"{told} ({figure.reference})"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _worse(worse: bool) -> str:  # it is a cell of a table
    return "worse" if worse else ""
