"""Write models, their versions and comparisons as lines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from rempart.cli.views import text
from rempart.counts import counted
from rempart.errors import PipelineError
from rempart.flows.training.champions import TimeAsChampion
from rempart.ledger.attributed import Writer
from rempart.models.gates.reasons import is_kept
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.training.job import BACKTESTED, LEARNT, VALIDATED
from rempart.web.read_models.model_versions import Decision, ModelState, ModelVersion, of_others
from rempart.web.read_models.models import Bound
from rempart.web.read_models.versions.comparison import Comparison, Difference

_OPENED_TO: Mapping[str, str] = {
    "registration": "to measure a new version",
    "gate": "to judge one at the gate",
    "reproduction": "to compare one that was trained again",
}
"""Why held-out rows were opened, in words."""
HEAD = ("MODEL", "CHAMPION", "SINCE", "FIGURES", "NEWEST", "THE GATE'S DECISION")


def listing(states: Sequence[ModelState], without: Sequence[str]) -> Iterator[str]:
    """Yield the table of models. `without`: pipelines that have no model yet."""
    if not states and not without:
        yield "There is no pipeline yet. Draft one from a file: rempart pipeline new your.csv"
        return
    rows = [_row(state) for state in states]
    yield from text.table(HEAD, [*rows, *((name, "none", "", "", "none", "") for name in without)])


def without_model(files: Mapping[str, Pipeline | PipelineError], states: Collection[str]) -> list[str]:
    """Return the pipelines whose file declares a model, or cannot be read, and that have no version yet. Pure."""
    without = {
        name for name, spec in files.items() if isinstance(spec, Pipeline) and not isinstance(spec, ModelPipeline)
    }
    return [name for name in files if name not in states and name not in without]


def _row(state: ModelState) -> tuple[str, ...]:
    champion, newest = state.champion, state.newest
    return (
        state.model,
        f"version {champion.version}" if champion else "none",
        text.moment(state.champion_since) if champion else "",
        text.figures(_metrics(champion), state.metric) if champion else "",
        f"version {newest.version}" if newest else "none",
        _verdict(newest) if newest else "",
    )


def _metrics(version: ModelVersion) -> Mapping[str, float | None]:
    """Return the figures of the held-out rows."""
    told = (version.judged.metrics if version.judged else None) or version.metrics
    return {name: value for name, value in told.items() if not name.startswith((LEARNT, VALIDATED, BACKTESTED))}


def _verdict(version: ModelVersion) -> str:
    if version.standing != "refused" or version.judged is None:
        return "promoted" if version.standing == "champion" else version.standing
    against = [reason for reason in version.judged.reasons if not is_kept(reason)]
    return against[0] if against else "refused"


def state_lines(state: ModelState) -> Iterator[str]:
    """Yield a model with every version."""
    champion = state.champion
    since = f", since {text.moment(state.champion_since)}" if champion else ""
    yield f"{state.model}: champion {f'version {champion.version}' if champion else 'none'}{since}"
    yield ""
    yield from life_lines(state)
    for version in state.versions:
        yield ""
        yield from version_lines(version, state.metric)


def card_lines(state: ModelState, page: Callable[[str, str], str]) -> Iterator[str]:
    """Yield where the model card of the newest shown version is. `page`: its address in the cockpit."""
    judged = (each.version for each in state.versions if each.judged and not each.retired)
    if (newest := next(judged, None)) is not None:
        yield f"Where version {newest} errs, and what it reads, is in its model card: {page(state.model, newest)}"
        yield f"  Its run in MLflow has the card, too. As a file: rempart model card {state.model} {newest}"


def life_lines(state: ModelState) -> Iterator[str]:
    """Yield a row for each version, newest first: trained, judged, served from and to, drift, retired."""
    head = ("VERSION", "TRAINED", "GATE", "SERVED", "DRIFT", "RETIRED")
    rows = list[tuple[str, ...]]()
    for version in state.versions:
        judged, gone = version.judged, version.retired
        passed, unread = judged is not None and judged.kind != "refusal", version.was_champion
        rows.append(
            (
                version.version,
                f"{version.trained_at:%Y-%m-%d}" if version.trained_at else "not known",
                f"{'passed' if passed else 'refused'} {judged.at:%Y-%m-%d}"
                if judged
                else ("not known" if unread else "not judged"),
                ", ".join(served(time) for time in version.served) or ("not known" if unread else "never"),
                version.drift[0].verdict if version.drift else "",
                f"{gone.at:%Y-%m-%d}{'' if gone.complete else ', in part'}" if gone else "",
            )
        )
    yield from text.table(head, rows)


def served(time: TimeAsChampion) -> str:
    """Return a time as champion: from which day to which."""
    if time.until is None:
        return f"since {time.since:%Y-%m-%d}"
    days = (time.until - time.since).days
    return f"{time.since:%Y-%m-%d} to {time.until:%Y-%m-%d} ({counted(days, 'day') if days else 'less than a day'})"


def version_lines(version: ModelVersion, metric: str | None) -> Iterator[str]:
    """Yield a version: figures, training, code, decisions with their evidence."""
    yield f"Version {version.version}: {version.standing}"
    entries = [("figures", text.figures(_metrics(version), metric))]
    if version.seq is not None:
        rows = f"{counted(version.rows_train, 'row')} to learn from, {version.rows_holdout:,} held out"
        params = ", ".join(f"{name}={value}" for name, value in version.params.items())
        features = counted(len(version.features), "feature")
        entries += [
            ("trained", f"{text.moment(version.trained_at)} by {by(version.by)}, evidence {version.seq}"),
            *([("because of", f"verdict {version.verdict} on the champion")] if version.verdict is not None else []),
            ("training set", f"{version.dataset_sha256[:16]} of snapshot {version.snapshot}: {rows}"),
            *([("validation", _validation(version, metric))] if version.validation else []),
            *([("back-test", _backtest(version, metric))] if version.backtest else []),
            *([("hold-out", _opened(version))] if version.opened else []),
            *([("labels", version.labels)] if version.labels else []),
            *([("views of others", of_others(version.used))] if version.used else []),
            ("trainer", f"{version.trainer}({params}), seed {version.seed}, {features}"),
            ("code", _code(version.code_version)),
            ("MLflow run", version.run_id),
        ]
    yield from text.pairs(entries)
    if gone := version.retired:
        yield (
            f"  retired {text.moment(gone.at)} by {by(gone.by)}, evidence {gone.seq}: {gone.why}; "
            f"{'its files are deleted' if gone.complete else 'NOT ALL of its files are deleted yet'}"
        )
    for decision in version.decisions:
        yield f"  {_told(decision)} {text.moment(decision.at)} by {by(decision.by)}, evidence {decision.seq}"
        yield from (f"    {reason}" for reason in decision.reasons)


def _validation(version: ModelVersion, metric: str | None) -> str:
    """Return in words on what a job validated, what it found and what it chose."""
    how: Mapping[str, Any] = version.validation or {}
    since = f" from {text.day_or_moment(how['begins'])}" if how.get("begins") else ""
    chosen = ", ".join(f"{name}={value}" for name, value in how["chosen"].items())
    point = how.get("operating")
    figures = {n.removeprefix(VALIDATED): value for n, value in version.metrics.items() if n.startswith(VALIDATED)}
    told = [
        f"{text.figures(figures, metric)} on {text.counted(how['rows'], 'row')}{since}",
        *([f"chose {chosen}"] if chosen else []),
        *([_by_cost(point["threshold"])] if point else []),
        "trained again on all rows" if how["refit"] else f"learned from the other {how['rows_fit']:,}",
    ]
    return "; ".join(told)


def _by_cost(threshold: float) -> str:
    if threshold > 1:
        return "never answers with the positive class, which costs least"
    return f"answers by cost from a chance of {text.number(threshold)} on"


def _backtest(version: ModelVersion, metric: str | None) -> str:
    """Return in words how much a metric varies over trainings from the past."""
    name, values = version.tried(metric)
    mean, spread = (version.metrics.get(f"{BACKTESTED}{name}_{what}") for what in ("mean", "spread"))
    each = ", ".join(f"{begins:%Y-%m-%d} {text.number(value)}" for begins, value in values)
    covered, width = (version.metrics.get(f"{BACKTESTED}{figure}_mean") for figure in ("coverage", "width"))
    told = f"{name} {text.number(mean)} on average, spread {text.number(spread)}; from {each}"
    if covered is None:
        return told
    return f"{told}; intervals cover {covered:.1%} on average, and are {text.number(width)} wide"


def _opened(version: ModelVersion) -> str:
    """Return in words how often the held-out rows were opened, for which versions, and for which reasons."""
    of = f" for version{'s' if len(version.opened_by) > 1 else ''} {', '.join(version.opened_by)}"
    why = ", ".join(f"{version.opened_why[each]} {to}" for each, to in _OPENED_TO.items() if each in version.opened_why)
    return f"opened {text.counted(version.opened, 'time')}{of if version.opened_by else ''}{why and f': {why}'}"


def _code(version: str) -> str:
    """Return in words which code trained a version: equal hashes, equal code and libraries."""
    release, _, digest = version.partition("+")
    return f"Rempart {release}, trainer's code and libraries {digest}" if digest else version


def _told(decision: Decision) -> str:
    if decision.rejected:
        return "passed the gate, rejected"
    return {
        "approval": "passed the gate, awaits approval,",
        "promotion": "promoted",
        "refusal": "refused by the gate",
        "rollback": "rolled back",
    }[decision.kind]


def by(writer: Writer | None) -> str:
    """Return who wrote a record: the task of a run, or a command."""
    return f"{writer.dag}, run {writer.run}" if writer else "a command on this machine"


def comparison_lines(found: Comparison, metric: str | None) -> Iterator[str]:
    """Yield two versions side by side: figures, the gate's bounds, importances, and what differs in their training."""
    first, second = found.first, found.second
    names = (f"VERSION {first.version}", f"VERSION {second.version}")
    yield f"{found.model}: version {first.version} ({first.standing}), version {second.version} ({second.standing})"
    yield ""
    ordered = sorted(found.metrics, key=lambda figure: figure.name != metric)
    figures = ((f.name, text.number(f.first), text.number(f.second), _difference(f)) for f in ordered)
    yield from text.table(("FIGURE", *names, "DIFFERENCE"), figures)
    bounds = _bounds(first, second)
    if bounds:
        yield ""
        yield from text.table((f"GATE: {metric}", *names), bounds)
    if first.held_out_sha256 != second.held_out_sha256:
        yield ""
        yield "The figures are of different held-out rows."
    if found.training:
        yield ""
        rows = ((value.name, _value(value.first), _value(value.second)) for value in found.training)
        yield from text.table(("TRAINING", *names), rows)
    else:
        yield "Trainer, parameters, training set and code are the same."
    if found.importance:
        yield ""
        rows = ((each.name, text.number(each.first), text.number(each.second)) for each in found.importance)
        yield from text.table(("IMPORTANCE", *names), rows)
        yield ""
    for version, features in ((first, found.only_first), (second, found.only_second)):
        if features:
            yield f"Only version {version.version} reads: {', '.join(features)}"
    if not found.only_first and not found.only_second:
        yield "Both read the same features."


def _difference(figure: Difference) -> str:
    if figure.first is None or figure.second is None:
        return "-"
    return f"{figure.second - figure.first:+.4g}"


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _bounds(*versions: ModelVersion) -> list[tuple[str, ...]]:
    found = []
    for version in versions:
        plot = version.judged.plot if version.judged else None
        found.append({bound.rule: bound for bound in plot.bounds} if plot else {})
    rules = list(dict.fromkeys(rule for bounds in found for rule in bounds))
    return [(rule, *(_kept(bounds.get(rule)) for bounds in found)) for rule in rules]


def _kept(bound: Bound | None) -> str:
    return f"{text.number(bound.value)} {'kept' if bound.kept else 'BROKEN'}" if bound else "-"
