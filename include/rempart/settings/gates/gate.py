"""The section `gate` of a pipeline file: what a candidate must show before it may become champion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pydantic import Field, model_validator

from rempart.settings.approval.rule import Approval
from rempart.settings.columns import NUMERIC, TEMPORAL, CalendarPart, Column
from rempart.settings.gates.metrics import METRICS, Metric
from rempart.settings.gates.rules import (
    BaselineRule,
    CalibrationRule,
    ChampionRule,
    Confidence,
    CoverageRule,
    ExcludedFeaturesRule,
    LeakageRule,
    LimitRule,
    Rule,
    StabilityRule,
    SubgroupsRule,
)
from rempart.settings.schema import Strict


class Cost(Strict):
    """What a wrong prediction costs: of two classes for each kind of mistake, of a number for each unit of error."""

    false_positive: float | None = Field(
        default=None, ge=0, description="Of two classes: cost of a row taken for `gate.positive` that is not."
    )
    false_negative: float | None = Field(
        default=None, ge=0, description="Of two classes: cost of a row of `gate.positive` that is not found."
    )
    under: float | None = Field(
        default=None, ge=0, description="Of a regression: cost of each unit that a prediction is too low."
    )
    over: float | None = Field(
        default=None, ge=0, description="Of a regression: cost of each unit that a prediction is too high."
    )

    @model_validator(mode="after")
    def _one_pair(self) -> Cost:
        pairs = ((self.false_positive, self.false_negative), (self.under, self.over))
        complete = [pair for pair in pairs if None not in pair]
        if len(complete) != 1 or sum(value is not None for pair in pairs for value in pair) != 2:
            raise ValueError("give either `false_positive` and `false_negative`, or `under` and `over`")
        if not any(complete[0]):
            raise ValueError("one of the two costs must be more than 0")
        return self

    @property
    def pair(self) -> tuple[float, float]:
        """Return the costs as (false positive, false negative), or (under, over)."""
        if self.false_positive is not None and self.false_negative is not None:
            return self.false_positive, self.false_negative
        return self.under or 0.0, self.over or 0.0


class Gate(Strict):
    """The rules that a candidate must pass on the held-out rows.

    `metric`, `limit`, `baseline_by`, `baseline_margin`, `champion_tolerance` and `confidence` are the short form of
    three rules: `limit`, `beats_baseline` and `beats_champion`. `rules` are asked besides, and `leakage` is always.
    """

    metric: Metric
    limit: float = Field(description="Worst value of the metric that passes.")
    baseline_by: list[str] = Field(
        description=(
            "Columns of the naive baseline, which predicts the training mean of each group. A candidate must also beat "
            "the mean of all rows. Each is known at the prediction's moment."
        )
    )
    baseline_margin: float = Field(
        default=0.1, ge=0, lt=1, description=("Share by which the candidate must beat the baseline.")
    )
    champion_tolerance: float = Field(
        default=0.02, ge=0, description=("Share by which the candidate may be worse than the champion and still pass.")
    )
    confidence: Confidence = None
    positive: str | None = Field(
        default=None,
        description=(
            "Of two classes: the one that is looked for, in `pr_auc`, `f1`, `f_beta`, `cost` and the calibration. "
            "Default: the last declared; of a boolean `true`."
        ),
    )
    cost: Cost | None = Field(default=None, description="What a wrong prediction costs, for the metric `cost`.")
    beta: float = Field(default=1.0, gt=0, description="Weight of recall against precision in the metric `f_beta`.")
    quantile: float = Field(default=0.5, gt=0, lt=1, description="Quantile of the metric `pinball`.")
    approval: Approval | None = Field(
        default=None,
        description="The person who promotes a candidate that passed. Default: the gate promotes it at once.",
    )
    rules: list[Rule] = Field(default_factory=list, description="More rules. All must hold.")

    def all_rules(self) -> tuple[Rule, ...]:
        """Return every rule: the three of the short form, then `rules`, then `leakage` unless it is among them."""
        return (
            LimitRule(metric=self.metric, limit=self.limit),
            BaselineRule(metric=self.metric, margin=self.baseline_margin, confidence=self.confidence),
            ChampionRule(metric=self.metric, tolerance=self.champion_tolerance, confidence=self.confidence),
            *self.rules,
            *(() if any(isinstance(rule, LeakageRule) for rule in self.rules) else (LeakageRule(),)),
        )

    def leakage(self) -> LeakageRule:
        """Return what a feature may tell alone."""
        return next(rule for rule in self.all_rules() if isinstance(rule, LeakageRule))

    def metric_of(self, rule: Rule) -> Metric | None:
        """Return the metric that a rule compares; None for a rule that compares none."""
        if isinstance(rule, CalibrationRule):
            return "calibration_error"
        if isinstance(rule, LimitRule | BaselineRule | ChampionRule | SubgroupsRule):
            return rule.metric or self.metric
        return None

    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that the rules compare, and `cost` if the gate says what errors cost, each once."""
        compared = (name for rule in self.all_rules() if (name := self.metric_of(rule)))
        costs: tuple[Metric, ...] = ("cost",) if self.cost is not None else ()
        return tuple(dict.fromkeys((*compared, *costs)))

    def baseline_columns(self) -> list[str]:
        """Return the columns by which the naive baseline groups rows; of `day.month` it is `day`."""
        return [column.split(".", 1)[0] for column in self.baseline_by]

    def grouping_columns(self) -> tuple[str, ...]:
        """Return the columns by which held-out rows are grouped, each once: the baseline's and the subgroups'."""
        grouped = [column for rule in self.rules if isinstance(rule, SubgroupsRule) for column in rule.columns]
        return tuple(dict.fromkeys([*self.baseline_columns(), *(column.split(".", 1)[0] for column in grouped)]))


Wrong = Callable[[str, str, tuple[str, ...]], Iterator[str]]
"""Yields why a column cannot stand at a path of the file: unknown, or none of these types."""


def faults(
    gate: Gate, task: str, target: Column | None, columns: Mapping[str, Column], wrong: Wrong, *, intervals: bool
) -> Iterator[str]:
    """Yield what is wrong with a gate.

    `target`: column of the target; None if another file declares it. `intervals`: whether the model gives some.
    """
    yield from _grouping_faults("gate.baseline_by", gate.baseline_by, wrong)
    if target is not None and any(columns.get(column) is target for column in gate.baseline_columns()):
        yield "gate.baseline_by: the target cannot be what groups its baseline"
    for path, metric in _named(gate):
        if metric not in METRICS[task]:
            yield f"{path}: '{metric}' is not a metric of a {task}; those are {', '.join(METRICS[task])}"
        elif metric == "cost" and gate.cost is None:
            yield f"{path}: 'cost' needs `gate.cost`, which says what a wrong prediction costs"
    classes = _classes(target) if task == "classification" else ()
    if gate.cost is not None and (gate.cost.under is None) == (task == "regression"):
        wanted = "`under` and `over`" if task == "regression" else "`false_positive` and `false_negative`"
        yield f"gate.cost: a {task} takes {wanted}"
    elif gate.cost is not None and len(classes) > 2:
        yield f"gate.cost: the target has {len(classes)} classes, and costs are of two"
    if gate.positive is not None and (task == "regression" or (target and len(classes) != 2)):
        yield "gate.positive: only a target of two classes has a positive one"
    elif gate.positive is not None and target and gate.positive not in classes:
        yield f"gate.positive: '{gate.positive}' is no class of the target; those are {', '.join(classes)}"
    for number, rule in enumerate(gate.rules, start=1):
        path = f"gate.rules, entry {number}"
        if isinstance(rule, CalibrationRule) and task == "regression":
            yield f"{path}: calibration is of probabilities, and a regression predicts none"
        if isinstance(rule, CoverageRule) and not intervals:
            yield f"{path}: it asks what intervals cover, and the model gives none; set `trainer.intervals`"
        if isinstance(rule, SubgroupsRule):
            yield from _grouping_faults(f"{path}.columns", rule.columns, wrong, ("category", "boolean"))
            if rule.intersections > len(rule.columns):
                yield f"{path}.intersections: {rule.intersections} is more than the columns that are named"
        if isinstance(rule, ExcludedFeaturesRule):
            for column in rule.columns:
                if "__" not in column:
                    yield from wrong(f"{path}.columns", column, ())
        if isinstance(rule, StabilityRule) and not any(column.type in NUMERIC for column in columns.values()):
            yield f"{path}: no column is a number, so there is nothing to add noise to"


def _named(gate: Gate) -> Iterator[tuple[str, Metric]]:
    yield "gate.metric", gate.metric
    for number, rule in enumerate(gate.rules, start=1):
        if (name := getattr(rule, "metric", None)) is not None:
            yield f"gate.rules, entry {number}.metric", name


def _classes(target: Column | None) -> tuple[str, ...]:
    if target is None:
        return ()
    return tuple(target.values or ("false", "true"))


def _grouping_faults(path: str, named: list[str], wrong: Wrong, types: tuple[str, ...] = ()) -> Iterator[str]:
    for column in named:
        if "." in column:
            date_column, part = column.split(".", 1)
            yield from wrong(path, date_column, ("timestamp",) if part == "hour" else TEMPORAL)
            if part not in CalendarPart.__args__:  # type: ignore[attr-defined] # Literal's own attribute
                yield f"{path}: '{part}' is not a calendar part"
        else:
            yield from wrong(path, column, types)
