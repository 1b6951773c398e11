"""Find features of a training set that alone tell almost all of the target, before a model is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rempart.models.encoding import Feature, features_of, of_own_row
from rempart.models.gates import leakage
from rempart.settings.pipeline import ModelPipeline
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa


def suspects(
    pipeline: ModelPipeline, target: Feature, params: Mapping[str, Any], learn: pa.Table
) -> tuple[tuple[str, float], ...]:
    """Return features for which the gate would refuse a model, with the share of the target: the largest first.

    `params`: of the trainer, which may leave features out; `learn`: rows to learn from. Raises TrainingError.
    """
    features, _ = trainers.left_out(features_of(pipeline), params)
    rule = pipeline.gate.leakage()
    told = leakage.told_alone(of_own_row(pipeline, features), target, pipeline.prediction.task, learn)
    return leakage.above(told or {}, rule.limit, rule.allow)
