"""Draw a search for parameters: values by trial, importances, and values over each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from markupsafe import Markup, escape

from rempart.flows.search.records import State as TrialState
from rempart.flows.search.records import Trial
from rempart.web.charts import dot, short, svg
from rempart.web.read_models.messages import State
from rempart.web.read_models.searches.views import Axis, SearchView
from rempart.web.wording import Texts

MARKS: Mapping[TrialState, State] = {"complete": "good", "pruned": "unknown", "failed": "bad"}
"""A disc for a complete trial, a ring for a pruned one, a cross for a failed one."""
_WIDE, _LEFT, _RIGHT = 960, 70, 16
_SMALL, _HIGH = 300, 150


def history(found: SearchView, t: Texts) -> Markup:
    """Draw the value of each trial in its order, and the best value so far as a line."""
    if not found.history:
        return Markup()
    height, top, bottom = 200, 16, 28
    scale = _Scale(found, top, height - bottom)
    step = (_WIDE - _LEFT - _RIGHT - 12) / max(1, len(found.history) - 1)
    places = [_LEFT + 6 + number * step for number in range(len(found.history))]
    line = ""
    before: float | None = None
    for x, each in zip(places, found.history, strict=True):
        if each.best is None:
            continue
        if before is not None and before != each.best:  # the best value changes at a trial, not on the way to it
            line += f"{x:.1f},{scale.y(before):.1f} "
        line += f"{x:.1f},{scale.y(each.best):.1f} "
        before = each.best
    marks = "".join(_mark(each.trial, x, scale, t) for x, each in zip(places, found.history, strict=True))
    first, last = (t("searches.trial", number=found.history[place].trial.number) for place in (0, -1))
    body = (
        f"{scale.axis(_LEFT, _WIDE - _RIGHT, t)}"
        f'<text class="label" x="{_LEFT}" y="{height - 8}">{escape(first)}</text>'
        f'<text class="label end" x="{_WIDE - _RIGHT}" y="{height - 8}">{escape(last)}</text>'
        f'<polyline class="line" points="{line.strip()}"/>{marks}'
    )
    return svg(t("searches.history", metric=found.search.metric), height, body)


def importances(found: SearchView, t: Texts) -> Markup:
    """Draw the importance of each parameter as a bar, the most important first."""
    shown, row, left, right = found.important, 24, 250, 110
    if not shown:
        return Markup()
    top, body = max(axis.share or 0.0 for axis in shown) or 1.0, ""
    for place, axis in enumerate(shown):
        y, wide = 6 + place * row, max(1.0, (axis.share or 0.0) / top * (760 - left - right))
        told = t.percent(axis.share)
        body += (
            f'<text class="label end" x="{left - 8}" y="{y + 13}">{escape(short(axis.name, 34))}</text>'
            f'<g class="allowed good"><rect x="{left}" y="{y}" width="{wide:.1f}" height="16"/>'
            f"<title>{escape(f'{axis.name}: {told}')}</title></g>"
            f'<text class="label" x="{left + wide + 8:.1f}" y="{y + 13}">{escape(told)}</text>'
        )
    return svg(t("searches.importances"), 12 + row * len(shown), body, 760)


def parameter(found: SearchView, axis: Axis, t: Texts) -> Markup:
    """Draw the values of the trials over one parameter: small, to stand beside those of the others."""
    if not axis.points:
        return Markup()
    left, right, top = 58, _SMALL - 14, 30
    scale = _Scale(found, top, _HIGH - 26)

    def x(at: float) -> float:
        return left + 6 + at * (right - left - 12)

    best = found.best.number if found.best else None
    marks = "".join(_mark(each.trial, x(each.at), scale, t, f"{axis.name}={each.told}") for each in axis.points)
    chosen = "".join(
        f'<g class="value"><line x1="{x(each.at):.1f}" y1="{top - 4}" x2="{x(each.at):.1f}" y2="{_HIGH - 26}"/></g>'
        for each in axis.points
        if each.trial.number == best
    )
    body = (
        f'<text class="name" x="{left}" y="18">{escape(short(axis.name, 28))}</text>'
        f"{scale.axis(left, right, t)}{chosen}{marks}{_ends(axis, x)}"
    )
    return svg(t("searches.over", metric=found.search.metric, parameter=axis.name), _HIGH, body, _SMALL)


class _Scale:
    """The vertical scale of a search's charts: from the lowest to the highest value of its complete trials.

    Values beyond stand at the edge, because a trial that was pruned early may be far worse than all others.
    """

    def __init__(self, found: SearchView, top: float, base: float) -> None:
        values = [trial.value for trial in found.search.trials if trial.state == "complete" and trial.value is not None]
        values = values or [trial.value for trial in found.search.trials if trial.value is not None] or [0.0]
        self.low, self.high = min(values), max(values)
        self._top, self._base = top, base

    def y(self, value: float) -> float:
        spread = self.high - self.low
        share = (value - self.low) / spread if spread else 0.5
        return self._base - 8 - min(1.0, max(0.0, share)) * (self._base - self._top - 8)

    def of(self, trial: Trial) -> float:
        """Return the place of a trial: one without a value stands on the axis."""
        return self._base if trial.value is None else self.y(trial.value)

    def axis(self, left: float, right: float, t: Texts) -> str:
        labels = "".join(
            f'<text class="label end" x="{left - 8}" y="{self.y(value) + 4:.1f}">{escape(t.number(value))}</text>'
            for value in dict.fromkeys((self.high, self.low))
        )
        return f'<line class="axis" x1="{left}" y1="{self._base}" x2="{right}" y2="{self._base}"/>{labels}'


def _mark(trial: Trial, x: float, scale: _Scale, t: Texts, more: str = "") -> str:
    told = ", ".join(
        part
        for part in (
            t("searches.trial", number=trial.number),
            more,
            t(f"searches.state.{trial.state}"),
            "" if trial.value is None else t.number(trial.value),
        )
        if part
    )
    return f"{dot(MARKS[trial.state], x, scale.of(trial))}<title>{escape(told)}</title></g>"


def _ends(axis: Axis, x: Callable[[float], float]) -> str:
    labels = ""
    for at, told in axis.ends:
        kind = "label" if at == 0.0 else "label end" if at == 1.0 else "label middle"
        most = 22 if len(axis.ends) < 3 else 30 // len(axis.ends)
        labels += f'<text class="{kind}" x="{x(at):.1f}" y="{_HIGH - 8}">{escape(short(told, most))}</text>'
    return labels
