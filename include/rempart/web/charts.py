"""Draw charts as inline SVG with pure functions: no script, no inline style, a title for screen readers.

Colours come from classes in cockpit.css; a state also has a shape, so it is readable without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from rempart.web.read_models.gate.rules import BandFigure, RuleRow
from rempart.web.read_models.messages import State, worst
from rempart.web.read_models.model_versions import ModelVersion
from rempart.web.read_models.models import Plot
from rempart.web.read_models.overview import PlaceState
from rempart.web.read_models.points import Point
from rempart.web.read_models.quarantine import Result
from rempart.web.read_models.sites import MeasuredReplication
from rempart.web.read_models.watched.findings import PairedMetric
from rempart.web.wording import Texts

WIDTH, LEFT, RIGHT = 960, 70, 16


def lag_chart(title: str, history: Sequence[MeasuredReplication], objective: float, t: Texts) -> Markup:
    """Draw the lag over time as a line, and the objective as a dashed line. The highest lag sets the scale."""
    if not history:
        return Markup()
    height, top, bottom = 180, 16, 26
    first, last = history[0].at, history[-1].at
    highest = max(objective, *(run.lag_seconds for run in history)) * 1.1 or 1.0

    def y(seconds: float) -> float:
        return height - bottom - seconds / highest * (height - top - bottom)

    dots = [(_x(run.at, first, last), y(run.lag_seconds), run) for run in history]
    line = " ".join(f"{x:.1f},{where:.1f}" for x, where, _ in dots)
    marks = "".join(
        dot("bad" if run.lag_seconds > objective or run.failures else "good", x, where)
        + f"<title>{escape(f'{t.at(run.at)}: {t.span(run.lag_seconds)}')}</title></g>"
        for x, where, run in dots[-120:]
    )
    body = (
        f'<line class="axis" x1="{LEFT}" y1="{y(0):.1f}" x2="{WIDTH - RIGHT}" y2="{y(0):.1f}"/>'
        f'<line class="objective" x1="{LEFT}" y1="{y(objective):.1f}" x2="{WIDTH - RIGHT}" y2="{y(objective):.1f}"/>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(objective) + 4:.1f}">{escape(t.span(objective))}</text>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(0) + 4:.1f}">{escape(t.span(0))}</text>'
        f'<polyline class="line" points="{line}"/>{marks}{_ends(first, last, height, t)}'
    )
    return svg(title, height, body)


def amount_chart(
    title: str, amounts: Sequence[tuple[datetime, float]], write: Callable[[float], str], t: Texts
) -> Markup:
    """Draw an amount over time as a line from zero; `write` formats an amount. None for fewer than two amounts."""
    if len(amounts) < 2:
        return Markup()
    height, top, bottom = 140, 16, 26
    first, last = amounts[0][0], amounts[-1][0]
    highest = max(amount for _, amount in amounts)

    def y(amount: float) -> float:
        return height - bottom - amount / (highest * 1.1 or 1.0) * (height - top - bottom)

    dots = [(_x(at, first, last), y(amount), at, amount) for at, amount in amounts]
    line = " ".join(f"{x:.1f},{where:.1f}" for x, where, _, _ in dots)
    marks = "".join(
        f"{dot('good', x, where)}<title>{escape(f'{t.at(at)}: {write(amount)}')}</title></g>"
        for x, where, at, amount in dots[-120:]
    )
    body = (
        f'<line class="axis" x1="{LEFT}" y1="{y(0):.1f}" x2="{WIDTH - RIGHT}" y2="{y(0):.1f}"/>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(highest) + 4:.1f}">{escape(write(highest))}</text>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(0) + 4:.1f}">{escape(write(0))}</text>'
        f'<polyline class="line" points="{line}"/>{marks}{_ends(first, last, height, t)}'
    )
    return svg(title, height, body)


def pair_chart(title: str, pairs: Sequence[PairedMetric], t: Texts) -> Markup:
    """Draw the metric of the champion as a line of discs and that of the challenger as a dashed line of rings.

    Both scale from zero. None for fewer than two verdicts.
    """
    if len(pairs) < 2:
        return Markup()
    height, top, bottom = 180, 34, 26
    first, last = pairs[0].at, pairs[-1].at
    highest = max(max(pair.champion, pair.challenger) for pair in pairs)

    def y(amount: float) -> float:
        return height - bottom - amount / (highest * 1.1 or 1.0) * (height - top - bottom)

    body = (
        f'<line class="axis" x1="{LEFT}" y1="{y(0):.1f}" x2="{WIDTH - RIGHT}" y2="{y(0):.1f}"/>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(highest) + 4:.1f}">{escape(t.number(highest))}</text>'
        f'<text class="label end" x="{LEFT - 8}" y="{y(0) + 4:.1f}">{escape(t.number(0))}</text>'
    )
    kinds: tuple[tuple[str, State], ...] = (("champion", "good"), ("challenger", "unknown"))
    for place, (kind, state) in enumerate(kinds):
        name, x = t(f"monitoring.{kind}"), LEFT + 14 + place * 180
        dots = [(_x(pair.at, first, last), y(getattr(pair, kind)), pair) for pair in pairs]
        line = " ".join(f"{across:.1f},{where:.1f}" for across, where, _ in dots)
        body += f'<polyline class="{"line" if kind == "champion" else "line other"}" points="{line}"/>'
        body += f'{dot(state, x, 16)}</g><text class="label" x="{x + 12}" y="20">{escape(name)}</text>'
        for across, where, pair in dots[-120:]:
            told = f"{name} {pair.version}" if kind == "challenger" else name
            told = f"{t.at(pair.at)}, {told}: {t.number(getattr(pair, kind))}"
            body += f"{dot(state, across, where)}<title>{escape(told)}</title></g>"
    return svg(title, height, f"{body}{_ends(first, last, height, t)}")


def points_chart(title: str, points: Sequence[Point], t: Texts) -> Markup:
    """Restore points on a line of time: a disc is proven, a ring not yet, a cross is not to be counted on."""
    if not points:
        return Markup()
    height, middle = 84, 34
    first, last = points[-1].created_at, points[0].created_at
    marks = "".join(
        dot(point.state, _x(point.created_at, first, last), middle)
        + f"<title>{escape(f'{t.at(point.created_at)}: {point.id}')}</title></g>"
        for point in points
    )
    axis = f'<line class="axis" x1="{LEFT}" y1="{middle}" x2="{WIDTH - RIGHT}" y2="{middle}"/>'
    return svg(title, height, f"{axis}{marks}{_ends(first, last, height, t)}")


def sites_diagram(
    title: str, places: Sequence[PlaceState], pairs: Iterable[tuple[str, str, State]], t: Texts
) -> Markup:
    """Draw sites and pools as boxes within their jurisdictions, and an arrow for each replicating pair."""
    if not places:
        return Markup()
    laws = sorted({place.jurisdiction for place in places})
    box, gap, high = 230, 60, 84
    where: dict[str, tuple[float, float]] = {}
    body, left, width = "", 10.0, 0.0
    for law in laws:
        own = [place for place in places if place.jurisdiction == law]
        wide = len(own) * (box + gap) - gap + 40
        body += (
            f'<rect class="law" x="{left}" y="8" width="{wide}" height="{high + 66}" rx="10"/>'
            f'<text class="label" x="{left + 14}" y="30">{escape(law)}</text>'
        )
        for i, place in enumerate(own):
            x = left + 20 + i * (box + gap)
            where[place.name] = (x, 44)
            body += _box(place, x, 44, box, high, t)
        left += wide + 30
        width = left
    for source, target, state in pairs:
        if source in where and target in where:
            body += _arrow(where[source], where[target], box, high, state)
    return svg(title, high + 84, body, width - 20)


def expectation_chart(title: str, history: Sequence[Result], t: Texts) -> Markup:
    """Draw the share of each delivery's rows that broke an expectation: a disc for none, a ring for some or unknown.

    Deliveries stand side by side, oldest first, whatever the time between them: several can arrive together.
    """
    if not history:
        return Markup()
    height, top, bottom = 120, 16, 30
    highest = max((result.share or 0.0 for result in history), default=0.0) * 1.1 or 0.01
    step = (WIDTH - LEFT - RIGHT - 12) / max(1, len(history) - 1)
    base = height - bottom

    def y(share: float) -> float:
        return base - share / highest * (base - top)

    marks = "".join(
        dot(result.state, LEFT + 6 + i * step, y(result.share or 0.0))
        + f"<title>{escape(_broken(result, t))}</title></g>"
        for i, result in enumerate(history)
    )
    body = (
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}"/>'
        f'<text class="label end" x="{LEFT - 8}" y="{base + 4}">{escape(t.percent(0.0))}</text>'
        f'<text class="label end" x="{LEFT - 8}" y="{top + 4}">{escape(t.percent(highest))}</text>'
        f"{marks}{_ends(history[0].landed_at, history[-1].landed_at, height, t)}"
    )
    return svg(title, height, body)


def gate_plot(title: str, plot: Plot, t: Texts) -> Markup:
    """Draw a version's metric as a dashed line across the gate's bounds. Each bar is the range that a bound allows."""
    left, right, row, top = 250, 560, 26, 30
    top_value = max(plot.value, *(bound.value for bound in plot.bounds)) * 1.1 or 1.0
    scale = max(top_value, 1.0) if not plot.lower_is_better else top_value

    def x(value: float) -> float:
        return left + max(0.0, value) / scale * (right - left)

    height = top + row * len(plot.bounds) + 8
    body = ""
    for i, bound in enumerate(plot.bounds):
        y, state = top + i * row, "good" if bound.kept else "bad"
        start, end = (x(0), x(bound.value)) if plot.lower_is_better else (x(bound.value), x(scale))
        body += (
            f'<text class="label end" x="{left - 10}" y="{y + 13}">{escape(t(f"gate.{bound.rule}"))}</text>'
            f'<g class="allowed {state}">'
            f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="16"/></g>'
            f'<text class="label" x="{right + 12}" y="{y + 13}">{escape(t.number(bound.value))}'
            f" {escape(t('gate.kept' if bound.kept else 'gate.broken'))}</text>"
        )
    mine, verdict = x(plot.value), worst("good" if bound.kept else "bad" for bound in plot.bounds)
    body += (
        f'<g class="value"><line x1="{mine:.1f}" y1="{top - 8}" x2="{mine:.1f}" y2="{height - 8}"/></g>'
        f"{dot(verdict, mine, 16)}<title>{escape(f'{plot.metric} {t.number(plot.value)}')}</title></g>"
        f'<text class="name" x="{mine + 10:.1f}" y="20">{escape(f"{plot.metric} {t.number(plot.value)}")}</text>'
    )
    return svg(title, height, body, 760)


def subgroup_chart(title: str, rule: RuleRow, t: Texts) -> Markup:
    """Draw a bar for the metric of each subgroup, and the bound as a dashed line. One with too few rows has no bar."""
    if not rule.subgroups or rule.bound is None:
        return Markup()
    left, right, row, top = 300, 700, 24, 30
    values = [group.value for group in rule.subgroups if group.value is not None]
    low, high = min(0.0, rule.bound, *values), max(0.0, rule.bound, *values)
    scale = (high - low) * 1.05 or 1.0

    def x(value: float) -> float:
        return left + (value - low) / scale * (right - left)

    height, body = top + row * len(rule.subgroups) + 12, ""
    for i, group in enumerate(rule.subgroups):
        y, told = top + i * row, t("gate.rows", rows=t.count(group.rows))
        body += f'<text class="label end" x="{left - 10}" y="{y + 13}">{escape(short(group.name, 44))}</text>'
        if group.value is not None:
            start, end = sorted((x(0.0), x(group.value)))
            body += (
                f'<g class="allowed {group.state}">'
                f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="16"/>'
                f"<title>{escape(f'{group.name}: {t.number(group.value)}, {told}')}</title></g>"
            )
            told = f"{t.number(group.value)}, {told}"
        told = f"{told} {t(f'gate.group.{group.state}')}"
        body += f'<text class="label" x="{right + 12}" y="{y + 13}">{escape(told)}</text>'
    bound = x(rule.bound)
    body += (
        f'<g class="value"><line x1="{bound:.1f}" y1="{top - 6}" x2="{bound:.1f}" y2="{height - 8}"/></g>'
        f'<text class="name" x="{bound + 6:.1f}" y="18">{escape(t("gate.bound"))} {escape(t.number(rule.bound))}</text>'
    )
    return svg(title, height, body)


def calibration_chart(title: str, bands: Sequence[BandFigure], t: Texts) -> Markup:
    """Draw the observed share of each band over its mean chance, a line for each class; the dashed line is perfect."""
    if not bands:
        return Markup()
    left, side, top = 60, 280, 12

    def place(band: BandFigure) -> tuple[float, float]:
        return left + band.chance * side, top + (1 - band.share) * side

    base = top + side
    body = (
        f'<line class="axis" x1="{left}" y1="{base}" x2="{left + side}" y2="{base}"/>'
        f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{base}"/>'
        f'<g class="value"><line x1="{left}" y1="{base}" x2="{left + side}" y2="{top}"/></g>'
        f'<text class="label end" x="{left - 8}" y="{base}">{escape(t.percent(0.0))}</text>'
        f'<text class="label end" x="{left - 8}" y="{top + 8}">{escape(t.percent(1.0))}</text>'
        f'<text class="label" x="{left}" y="{base + 18}">{escape(t("gate.calibration.axis"))}</text>'
    )
    for of in dict.fromkeys(band.of for band in bands):
        own = [band for band in bands if band.of == of]
        body += f'<polyline class="line" points="{" ".join("{:.1f},{:.1f}".format(*place(band)) for band in own)}"/>'
        for band in own:
            told = t("gate.calibration.band", chance=t.percent(band.chance), share=t.percent(band.share))
            rows = t("gate.rows", rows=t.count(band.rows))
            body += f"{dot('good', *place(band))}<title>{escape(f'{of}: {told}, {rows}')}</title></g>"
        x, y = place(own[-1])
        body += f'<text class="name" x="{x + 10:.1f}" y="{y + 4:.1f}">{escape(short(of))}</text>'
    return svg(title, base + 28, body, left + side + 200)


def life_chart(title: str, versions: Sequence[ModelVersion], now: datetime, t: Texts) -> Markup:
    """Draw a row for each version, newest first: its training, the gate's decisions, its times as champion, its end."""
    row, top = 26, 10
    known = [
        at
        for version in versions
        for at in (
            version.trained_at,
            *(decision.at for decision in version.decisions),
            *(time.since for time in version.served),
        )
        if at is not None
    ]
    if not known:
        return Markup()
    first, height, body = min(known), top + row * len(versions) + 24, ""
    for i, version in enumerate(versions):
        y = top + i * row + 12
        body += f'<line class="axis" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>'
        body += f'<text class="label end" x="{LEFT - 8}" y="{y + 4}">{escape(version.version)}</text>'
        for time in version.served:
            start, end = _x(time.since, first, now), _x(time.until or now, first, now)
            told = f"{t('life.served')}: {t.at(time.since)} – {t.at(time.until) if time.until else t('life.now')}"
            body += (
                f'<g class="allowed good"><rect x="{start:.1f}" y="{y - 7}" width="{max(3.0, end - start):.1f}"'
                f' height="14"/><title>{escape(told)}</title></g>'
            )
        for state, at, told in _marks(version, t):
            body += f"{dot(state, _x(at, first, now), y)}<title>{escape(f'{t.at(at)}: {told}')}</title></g>"
    return svg(title, height, f"{body}{_ends(first, now, height, t)}")


def _marks(version: ModelVersion, t: Texts) -> Iterator[tuple[State, datetime, str]]:
    if version.trained_at:
        yield "unknown", version.trained_at, t("life.trained")
    for decision in version.decisions:
        if decision.kind != "rollback":
            states: Mapping[str, State] = {"promotion": "good", "approval": "warning"}
            yield states.get(decision.kind, "bad"), decision.at, t(f"kind.{decision.kind}")
    if version.retired:
        yield "bad", version.retired.at, t("life.retired")


def _broken(result: Result, t: Texts) -> str:
    told = t("expectation.result", unexpected=t.count(result.unexpected), judged=t.count(result.judged))
    return f"{t.at(result.landed_at)}, {result.sha256[:12]}: {told}"


def _box(place: PlaceState, x: float, y: float, wide: int, high: int, t: Texts) -> str:
    whats = ", ".join(dict.fromkeys(f"{t('what.' + held.what)}" for held in place.holdings))
    name = f"{place.name} ({t('active')})" if place.active else place.name
    return (
        f'<g class="place {place.state}"><rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="8"/>'
        f'<text class="name" x="{x + 12}" y="{y + 24}">{escape(name)}</text>'
        f'<text class="label" x="{x + 12}" y="{y + 44}">{escape(f"{place.operator}, {place.region}")}</text>'
        f'<text class="label" x="{x + 12}" y="{y + 64}">{escape(short(whats))}</text></g>'
    )


def _arrow(source: tuple[float, float], target: tuple[float, float], box: int, high: int, state: State) -> str:
    forth = target[0] > source[0]
    start, end = (source[0] + box, target[0] - 9) if forth else (source[0], target[0] + box + 9)
    y = source[1] + high / 2
    head = f"{end},{y - 5} {end + (9 if forth else -9)},{y} {end},{y + 5}"
    return f'<g class="pair {state}"><line x1="{start}" y1="{y}" x2="{end}" y2="{y}"/><polygon points="{head}"/></g>'


def short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _x(at: datetime, first: datetime, last: datetime) -> float:
    whole = (last - first) or timedelta(seconds=1)
    if first == last:
        return (LEFT + WIDTH - RIGHT) / 2
    return LEFT + 6 + (at - first) / whole * (WIDTH - LEFT - RIGHT - 12)


def dot(state: State, x: float, y: float) -> str:
    """Draw a mark, left open for its title."""
    if state == "bad":
        cross = f"M{x - 5:.1f},{y - 5:.1f} l10,10 m0,-10 l-10,10"
        return f'<g class="mark bad"><path d="{cross}"/>'
    return f'<g class="mark {state}"><circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _ends(first: datetime, last: datetime, height: int, t: Texts) -> str:
    return (
        f'<text class="label" x="{LEFT}" y="{height - 8}">{escape(t.at(first))}</text>'
        f'<text class="label end" x="{WIDTH - RIGHT}" y="{height - 8}">{escape(t.at(last))}</text>'
    )


def svg(title: str, height: float, body: str, width: float = WIDTH) -> Markup:
    # all outside values were escaped when they were inserted
    return Markup(  # noqa: S704
        f'<svg class="chart" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img"'
        f' aria-label="{escape(title)}">{body}</svg>'
    )
