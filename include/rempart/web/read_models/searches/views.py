"""Show each search for parameters with its trials, its choice as YAML, and the series of its plots. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from rempart.flows.search.records import Search, Trial, search_of
from rempart.web.facts import NEWEST, CockpitFacts
from rempart.web.read_models.messages import Moment, moment

KEEP = "# The other keys of the file's section, such as timeout, gpus and intervals, stay as they are.\n"
"""First line of what is pasted: a search knows only the keys that determine a trial's figure."""
SHOWN = 10
"""Searches of a pipeline that the page shows, newest first."""


@dataclass(frozen=True)
class HistoryRow:
    """A trial in the history of a search. `best`: best value of all complete trials up to this one, if any."""

    trial: Trial
    best: float | None


@dataclass(frozen=True)
class TrialPoint:
    """A trial in the plot of one parameter. `at`: its place on the axis, from 0 to 1; `told`: the parameter's value."""

    trial: Trial
    at: float
    told: str


@dataclass(frozen=True)
class Axis:
    """One parameter of the space, and the trials that have a value of it.

    `ends`: names of the places on the axis with their position from 0 to 1: both limits of a range, or each choice.
    `best`: the chosen value. `share`: of the differences of the values that this parameter explains; None if unknown.
    """

    name: str
    ends: tuple[tuple[float, str], ...]
    is_log: bool
    points: tuple[TrialPoint, ...]
    best: str
    share: float | None


@dataclass(frozen=True)
class SearchView:
    """A search, and what the page draws of it. `paste`: a section `trainer` with the parameters that it found."""

    search: Search
    complete: int
    pruned: int
    failed: int
    best: Trial | None
    paste: str
    history: tuple[HistoryRow, ...]
    axes: tuple[Axis, ...]

    @property
    def seconds(self) -> float:
        """Return the time of all trials together."""
        return sum(trial.seconds for trial in self.search.trials)

    @property
    def important(self) -> tuple[Axis, ...]:
        """Return the parameters of known importance, the most important first."""
        known = [axis for axis in self.axes if axis.share is not None]
        return tuple(sorted(known, key=lambda axis: (-(axis.share or 0.0), axis.name)))


@dataclass(frozen=True)
class PipelineSearches:
    """The newest searches of a pipeline, newest first. `more`: whether there may be older ones."""

    pipeline: str
    searches: tuple[SearchView, ...]
    more: bool


@dataclass(frozen=True)
class Searches:
    """The page's content: each pipeline that has searches, by name."""

    moment: Moment
    pipelines: tuple[PipelineSearches, ...]


def page(facts: CockpitFacts, now: datetime) -> Searches:
    """Return the page's content."""
    found: dict[str, list[Search]] = {}
    more = len(facts.of("search")) >= NEWEST["search"]
    for record in facts.standing("search"):
        found.setdefault(record.subject, []).append(search_of(record))
    return Searches(
        moment(facts, now),
        tuple(
            PipelineSearches(name, tuple(view(each) for each in made[:SHOWN]), more or len(made) > SHOWN)
            for name, made in sorted(found.items())
        ),
    )


def view(search: Search) -> SearchView:
    """Return a search with its plots."""
    ended = Counter(trial.state for trial in search.trials)
    return SearchView(
        search,
        ended["complete"],
        ended["pruned"],
        ended["failed"],
        best_of(search),
        paste(search),
        tuple(history(search)),
        tuple(axis(search, name) for name in search.space),
    )


def best_of(search: Search) -> Trial | None:
    """Return the trial that was chosen."""
    return next((trial for trial in search.trials if trial.number == search.best), None)


def paste(search: Search) -> str:
    """Return a section `trainer` in YAML with the best trial's parameters and seed; empty if there is none.

    Its other parameters are those of the search, which may not be those of the pipeline file by now. A comment says
    that the section's other keys stay.
    """
    best = best_of(search)
    if best is None:
        return ""
    section = {"trainer": {"use": search.trainer, "params": {**search.fixed, **best.params}, "seed": search.seed}}
    return KEEP + yaml.safe_dump(section, sort_keys=False, allow_unicode=True)


def history(search: Search) -> Iterator[HistoryRow]:
    """Yield the trials in their order, each with the best value so far."""
    sign = 1 if search.direction == "minimize" else -1
    best: float | None = None
    for trial in sorted(search.trials, key=lambda trial: trial.number):
        if trial.state == "complete" and trial.value is not None:
            best = trial.value if best is None or sign * trial.value < sign * best else best
        yield HistoryRow(trial, best)


def axis(search: Search, name: str) -> Axis:
    """Return the plot of one parameter: values by its place between the limits of the space."""
    space = search.space[name]
    is_log = bool(space.get("log", False))
    choices: Sequence[Any] | None = space.get("choose")
    share, chosen = search.importances.get(name), best_of(search)
    best = written(chosen.params[name]) if chosen and name in chosen.params else ""
    ends: tuple[tuple[float, str], ...]
    if choices is None:
        ends = ((0.0, written(space["low"])), (1.0, written(space["high"])))
    else:
        ends = tuple((_choice(place, len(choices)), written(choice)) for place, choice in enumerate(choices))
    points = tuple(
        TrialPoint(trial, place, written(trial.params[name]))
        for trial in search.trials
        if name in trial.params and (place := _place(trial.params[name], space, choices, is_log)) is not None
    )
    return Axis(name, ends, is_log, points, best, share)


def written(value: Any) -> str:
    """Return a parameter's value in few digits; a text in quotes, because it may be empty."""
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value).lower()


def _place(value: Any, space: Mapping[str, Any], choices: Sequence[Any] | None, is_log: bool) -> float | None:
    if choices is not None:
        return _choice(choices.index(value), len(choices)) if value in choices else None
    low, high, own = (float(each) for each in (space["low"], space["high"], value))
    if is_log:
        low, high, own = (math.log(max(each, 1e-300)) for each in (low, high, own))
    return min(1.0, max(0.0, (own - low) / (high - low))) if high > low else 0.5


def _choice(place: int, count: int) -> float:
    return (place + 0.5) / count
