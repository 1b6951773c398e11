"""Draw a card's figures as inline SVG with pure functions: no script, no style, in the colour of the text around."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rempart.models.explanations.figures import Dependence, ErrorSegment, Importance

WIDTH = 720
_ROW, _LEFT, _RIGHT = 22, 250, 110
_FAINT, _FULL = 0.45, 0.9
_LETTERS, _LETTER = 34, 7.5
"""Letters of a label that fit beside a bar, and the width of one at most."""
SHOWN = 15
"""Features of the chart of importance."""
_LINES = 4
"""Classes of a chart of dependence, the last ones: of two classes, the second one alone."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def number(value: float | None) -> str:
    """Return a figure with four significant digits."""
    return "" if value is None else f"{value:.4g}"


def importance_chart(title: str, found: Sequence[Importance]) -> str:
    """Draw the rise of the error of the most important features as bars, with the spread of the repeats as lines."""
    shown = found[:SHOWN]
    top = max((each.rise + each.spread for each in shown), default=0.0) or 1.0

    def x(value: float) -> float:
        return _LEFT + max(0.0, value) / top * (WIDTH - _LEFT - _RIGHT)

    body = ""
    for place, each in enumerate(shown):
        y = place * _ROW + 4
        spread = x(each.rise + each.spread)
        body += _bar(each.feature, x(0), x(each.rise), y, number(each.rise), spread)
        body += _line(x(each.rise - each.spread), y + 7, spread, y + 7)
    return _svg(title, len(shown) * _ROW + 8, body)


def segment_chart(title: str, segment: ErrorSegment, overall: float, others: str) -> str:
    """Draw the error of each group as a bar, with its rows, and the error of all rows as a dashed line."""
    top = max([overall, *(group.error for group in segment.groups)]) or 1.0

    def x(value: float) -> float:
        return _LEFT + value / top * (WIDTH - _LEFT - _RIGHT)

    height, mean, body = len(segment.groups) * _ROW + 8, x(overall), ""
    for place, group in enumerate(segment.groups):
        label, value = others if group.label is None else group.label, f"{number(group.error)} ({group.rows:,})"
        crossed = x(group.error) < mean < x(group.error) + 8 + _LETTER * len(value)
        body += _bar(label, x(0), x(group.error), place * _ROW + 4, value, mean if crossed else 0.0)
    return _svg(title, height, body + _line(mean, 2, mean, height - 2, "4 3"))


def span(found: Sequence[Dependence], classes: Sequence[str]) -> tuple[float, float]:
    """Return the smallest and the largest mean that charts of dependence draw: they share one scale."""
    means = [point.means[output] for each in found for point in each.points for output in _outputs(classes)]
    return min(means, default=0.0), max(means, default=0.0)


def dependence_chart(
    title: str, found: Dependence, classes: Sequence[str], none: str, between: tuple[float, float]
) -> str:
    """Draw the mean prediction over a feature's values: a line for each class over numbers, else bars.

    `between`: ends of the scale of predictions, as `span` gives them.
    """
    outputs = _outputs(classes)
    numbers = [point for point in found.points if isinstance(point.at, float)]
    if len(numbers) < 2:
        return _levels(title, found, outputs[-1], none)
    left, right, high, foot = 70, 480, 150, 24
    low, top = between
    spread = (top - low) or 1.0
    first, last = _at(numbers[0].at), _at(numbers[-1].at)

    def x(at: float) -> float:
        return left + (at - first) / ((last - first) or 1.0) * (right - left)

    def y(value: float) -> float:
        return 10 + (top - value) / spread * (high - 20)

    body = _line(left, high, right, high)
    for place, output in enumerate(outputs):
        line = " ".join(f"{x(_at(point.at)):.1f},{y(point.means[output]):.1f}" for point in numbers)
        dash = f' stroke-dasharray="{_DASHES[place]}"' if _DASHES[place] else ""
        body += f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2"{dash}/>'
        body += "".join(
            f'<circle cx="{x(_at(point.at)):.1f}" cy="{y(point.means[output]):.1f}" r="3" fill="currentColor"/>'
            for point in numbers
        )
        if classes:
            body += _text(right + 10, y(numbers[-1].means[output]) + 4, classes[output])
    for point in found.points:
        if point.at is None:
            body += _text(right + 10, high, f"{none}: {number(point.means[outputs[-1]])}")
    body += _text(left - 8, y(top) + 4, number(top), "end") + _text(left - 8, y(low) + 4, number(low), "end")
    body += _text(left, high + foot - 6, number(first)) + _text(right, high + foot - 6, number(last), "end")
    return _svg(title, high + foot, body)


def _at(at: float | str | None) -> float:
    assert isinstance(at, float)  # noqa: S101 - only numbers are drawn on a scale
    return at


def _outputs(classes: Sequence[str]) -> list[int]:
    return [1] if len(classes) == 2 else list(range(len(classes)))[-_LINES:] or [0]


def _levels(title: str, found: Dependence, output: int, none: str) -> str:
    means = [point.means[output] for point in found.points]
    low, top = min(0.0, *means), max(0.0, *means)

    def x(value: float) -> float:
        return _LEFT + (value - low) / ((top - low) or 1.0) * (WIDTH - _LEFT - _RIGHT)

    body = "".join(
        _bar(
            none if point.at is None else number(point.at) if isinstance(point.at, float) else point.at,
            min(x(0), x(mean)),
            max(x(0), x(mean)),
            place * _ROW + 4,
            number(mean),
        )
        for place, (point, mean) in enumerate(zip(found.points, means, strict=True))
    )
    return _svg(title, len(means) * _ROW + 8, body)


def _bar(label: str, start: float, end: float, y: float, value: str, behind: float = 0.0) -> str:
    """Draw a bar with its label and value. The value stands behind the bar's end, and behind `behind`.

    A label that is too long is cut in its middle: names of features differ at their ends, such as `_28d` and `_12w`.
    """
    shown = label if len(label) <= _LETTERS else f"{label[: _LETTERS // 2 - 1]}…{label[-_LETTERS // 2 :]}"
    return (
        _text(_LEFT - 8, y + 12, shown, "end")
        + f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="15" rx="2" '
        + f'fill="currentColor" fill-opacity="{_FAINT}"><title>{escape(label)}: {escape(value)}</title></rect>'
        + _text(max(start, end, behind) + 8, y + 12, value)
    )


def _line(x1: float, y1: float, x2: float, y2: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{_FULL}"{dashed}/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="currentColor" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(title: str, height: float, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'
    )


def groups_of(segments: Sequence[ErrorSegment | None]) -> Iterator[ErrorSegment]:
    """Yield the segments that have groups."""
    yield from (each for each in segments if each and each.groups)
