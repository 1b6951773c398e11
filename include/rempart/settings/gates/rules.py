"""The rules of a gate, one model for each kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rempart.settings.gates.metrics import Metric
from rempart.settings.schema import Strict

Confidence = Annotated[
    float | None,
    Field(
        ge=0.5,
        lt=1,
        description=(
            "Share of 1,000 random resamples of the held-out rows in which the rule must hold too. `null`: the rows as "
            "they are decide alone."
        ),
    ),
]
Chosen = Annotated[Metric | None, Field(description="Metric that the rule compares. Default: `gate.metric`.")]


class LimitRule(Strict):
    """A metric is no worse than a number."""

    kind: Literal["limit"] = "limit"
    metric: Metric = Field(description="Metric that the rule compares.")
    limit: float = Field(description="Worst value of the metric that passes.")


class BaselineRule(Strict):
    """A metric beats that of the naive baseline of `gate.baseline_by`, and that of no groups."""

    kind: Literal["beats_baseline"] = "beats_baseline"
    metric: Chosen = None
    margin: float = Field(default=0.1, ge=0, lt=1, description="Share by which the candidate must beat the baseline.")
    confidence: Confidence = 0.95


class ChampionRule(Strict):
    """A metric is no worse than the champion's on the same rows. Nothing is asked while there is no champion."""

    kind: Literal["beats_champion"] = "beats_champion"
    metric: Chosen = None
    tolerance: float = Field(default=0.0, ge=0, description="Share by which the candidate may be worse.")
    confidence: Confidence = 0.95


class CalibrationRule(Strict):
    """Probabilities come true about as often as they say."""

    kind: Literal["calibration"] = "calibration"
    limit: float = Field(gt=0, le=1, description="Largest `calibration_error` that passes.")


class CoverageRule(Strict):
    """Intervals contain the true value as often as they should, and are no wider than useful."""

    kind: Literal["coverage"] = "coverage"
    at_least: float = Field(
        gt=0, lt=1, description="Least share of the held-out rows whose true value lies in its interval."
    )
    max_width: float | None = Field(
        default=None, gt=0, description="Largest mean width of an interval, in the target's unit. Default: any."
    )


class SubgroupsRule(Strict):
    """No subgroup is much worse than all rows."""

    kind: Literal["subgroups"] = "subgroups"
    columns: list[str] = Field(
        min_length=1,
        max_length=12,
        description="Columns with listed values, booleans, or calendar parts such as `arrival_date.month`.",
    )
    intersections: int = Field(
        default=1, ge=1, le=3, description="Number of columns whose values make up one subgroup, at most."
    )
    min_rows: int = Field(
        default=200,
        ge=30,
        description="Rows below which a subgroup is not judged. One of at least 30 rows is shown.",
    )
    ratio: float = Field(
        gt=1,
        description=(
            "How many times the error of all rows a subgroup's error may be. The error of a metric of which higher is "
            "better is what it lacks to 1."
        ),
    )
    metric: Chosen = None


class SizeRule(Strict):
    """The model's file is no larger than a number of megabytes."""

    kind: Literal["size"] = "size"
    limit_mb: float = Field(gt=0, description="Largest size of model.onnx, in megabytes (1,000,000 bytes).")


class LatencyRule(Strict):
    """The model predicts one row fast enough."""

    kind: Literal["latency"] = "latency"
    limit_ms: float = Field(
        default=250.0,
        gt=0,
        description="Largest median time of a prediction of one row in a process of its own, in milliseconds.",
    )


class StabilityRule(Strict):
    """Small noise in the numbers that a model reads changes its predictions little."""

    kind: Literal["stability"] = "stability"
    noise: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Noise, as a share of the standard deviation of each number.",
    )
    limit: float = Field(
        gt=0,
        description=(
            "Largest mean change of a prediction: of a regression as a share of the predictions' standard deviation, "
            "of a classification in probability."
        ),
    )


class ExcludedFeaturesRule(Strict):
    """The model reads nothing that a person excluded."""

    kind: Literal["excluded_features"] = "excluded_features"
    columns: list[str] = Field(
        min_length=1, description="Columns of the schema, or features as `view__feature`, that no model may read."
    )


class LeakageRule(Strict):
    """No feature alone tells the target: such a feature is often a copy that is declared known too early.

    Every gate asks it, also without an entry. Without an entry only a refusal is told. Trailing features are not asked.
    """

    kind: Literal["leakage"] = "leakage"
    limit: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description=(
            "Share of the target that a feature may tell alone, in the rows to learn from: of a number, the explained "
            "variance of its ranks; of a class, the wrong guesses that it avoids. `1` refuses nothing."
        ),
    )
    allow: list[str] = Field(
        default_factory=list,
        description=(
            "Features as `view__feature` that may tell more: you made sure that they are known at the moment of the "
            "prediction."
        ),
    )


Rule = Annotated[
    LimitRule
    | BaselineRule
    | ChampionRule
    | CalibrationRule
    | CoverageRule
    | SubgroupsRule
    | SizeRule
    | LatencyRule
    | StabilityRule
    | ExcludedFeaturesRule
    | LeakageRule,
    Field(discriminator="kind"),
]
