"""Measure a candidate by all that the rules of its gate ask."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.features.catalogue import origins
from rempart.models import metrics
from rempart.models.encoding import Feature, encode, features_of, of_own_row
from rempart.models.gates import groups, leakage, measures, noise, resampling
from rempart.models.gates.candidate_figures import CandidateFigures, Reads, Subgroup
from rempart.models.gates.measures import Measures
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.intervals.figures import covered
from rempart.models.loading import LoadedModel
from rempart.models.predictions import ends, figures
from rempart.settings.expressions import across
from rempart.settings.expressions.syntax import columns_of
from rempart.settings.gates import rules
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.used.view import UsedView

if TYPE_CHECKING:
    import pyarrow as pa

WARM, RUNS = 5, 51
"""Predictions of one row before the time counts, and those of which the median is taken."""


@dataclass(frozen=True)
class ChampionAnswers:
    """The champion's figures of the held-out rows, [n] or [n, classes], and how it answers with a class."""

    figures: Any
    operating: OperatingPoint | None = None


@dataclass(frozen=True)
class JudgedCandidate:
    """A candidate with the rows on which it is judged. `champion`: its answers to the same held-out rows."""

    pipeline: ModelPipeline
    task: str
    target: Feature
    model: LoadedModel
    train: pa.Table
    holdout: pa.Table
    champion: ChampionAnswers | None = None


def show(judged: JudgedCandidate) -> CandidateFigures:
    """Return what a candidate shows. Raises TrainingError with the column at fault, ModelRefused."""
    gate, task, target = judged.pipeline.gate, judged.task, judged.target
    holdout = judged.holdout
    classes = target.values if task == "classification" else ()
    how = measures.of_gate(gate, task, classes, judged.model.operating)
    hows, naively = {"candidate": how}, measures.of_baseline(how)
    truth, predicted = metrics.target_values(target, holdout), judged.model.predict(holdout)
    mine, bounds = figures(predicted), ends(predicted)
    naive = metrics.naive_predictions(task, target, gate.baseline_by, judged.train, holdout)
    made, champion = {"candidate": mine, "baseline": naive[0], "overall": naive[1]}, judged.champion
    hows |= {"baseline": naively, "overall": naively}
    if champion is not None:
        made["champion"] = champion.figures
        hows["champion"] = measures.of_gate(gate, task, classes, champion.operating)

    def score(whose: str) -> dict[str, float]:
        return measures.score(hows[whose], gate.metrics(), truth, made[whose])

    asked = gate.all_rules()
    sure = [rule for rule in asked if isinstance(rule, rules.BaselineRule | rules.ChampionRule) and rule.confidence]
    names = [name for rule in sure if (name := gate.metric_of(rule))]
    is_run = _kinds(asked) & {"latency", "stability"}
    matrix = encode(judged.model.features, noise.sample(holdout)) if is_run else None
    return CandidateFigures(
        candidate={**score("candidate"), **(covered(truth, *bounds) if bounds else {})},
        baseline=metrics.baselines(truth, naive, partial(measures.score, naively, gate.metrics())),
        champion=score("champion") if champion is not None else None,
        target=target.name,
        samples=resampling.resampled(hows, names, truth, made) if names else {},
        subgroups={
            number: _subgroups(judged, how, rule, truth, mine)
            for number, rule in enumerate(asked)
            if isinstance(rule, rules.SubgroupsRule)
        },
        calibration=groups.calibration(how, target.values, truth, mine) if task == "classification" else (),
        size=judged.model.size,
        latency=_latency(judged.model, matrix) if "latency" in _kinds(asked) else None,
        changes={
            rule.noise: noise.changed(judged.model.figures, judged.model.features, matrix, rule.noise)
            for rule in asked
            if isinstance(rule, rules.StabilityRule)
        },
        reads=reads(judged.pipeline, judged.model.features) if "excluded_features" in _kinds(asked) else None,
        told_alone=leakage.told_alone(of_own_row(judged.pipeline, judged.model.features), target, task, judged.train),
    )


def _kinds(asked: tuple[rules.Rule, ...]) -> set[str]:
    return {rule.kind for rule in asked}


def _subgroups(
    judged: JudgedCandidate, how: Measures, rule: rules.SubgroupsRule, truth: Any, mine: Any
) -> tuple[Subgroup, ...] | str:
    holdout, columns = judged.holdout, judged.pipeline.columns
    if lacking := [column for column in rule.columns if column.split(".")[0] not in holdout.column_names]:
        return f"the candidate's held-out rows have no column '{lacking[0]}', because it was trained before this rule"
    listed = {column: list(columns[column].values or ("false", "true")) for column in rule.columns if "." not in column}
    metric = judged.pipeline.gate.metric_of(rule) or judged.pipeline.gate.metric
    return groups.subgroups(
        holdout, rule.columns, rule.intersections, rule.min_rows, listed, (how, metric), truth, mine
    )


def _latency(model: LoadedModel, matrix: Any) -> float | None:
    """Return the median seconds of a prediction of one row by the model's own process; None without a row."""
    if not len(matrix):
        return None
    taken = []
    for number in range(WARM + RUNS):
        row = matrix[number % len(matrix)][None, :]
        began = time.perf_counter()
        model.figures(row)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[WARM:])


def reads(pipeline: ModelPipeline, features: tuple[Feature, ...]) -> Reads:
    """Return what a model reads. A feature whose definition is no longer the pipeline's is unknown."""
    now = {feature.name: feature.definition for feature in features_of(pipeline)}
    known = {feature.name for feature in features if now.get(feature.name) == feature.definition}
    columns = dict(_columns(pipeline))
    names = frozenset(feature.name for feature in features)
    return Reads(names, {name: columns[name] for name in known & columns.keys()}, names - (known & columns.keys()))


def _columns(pipeline: ModelPipeline) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each feature of a pipeline, and the columns of which it is made; of a used view those of its own pipeline.

    The columns of a view's groups count: a mean by country tells the country.
    """
    made: dict[str, frozenset[str]] = {}
    for name, view in pipeline.features.items():
        source, own = (view.source, view.of) if isinstance(view, UsedView) else (pipeline, view)
        by = frozenset(getattr(own, "by", ())) | frozenset(view.key.values() if isinstance(view, UsedView) else ())
        made |= {
            f"{name}__{feature}": frozenset(columns) | by
            for feature, columns in origins.columns_of(source, own).items()
        }
    yield from made.items()
    for name, text in pipeline.expressions.items():
        parts = [column.replace(".", "__", 1) for column in columns_of(text)]
        if all(part in made for part in parts):
            yield f"{across.ACROSS}__{name}", frozenset().union(*(made[part] for part in parts))
