"""Train a model once on rows in a file: `python -m rempart.training.trial`. The model goes into another file.

It is a process of its own, as a job is: a trainer takes memory and threads, and may be a stranger's code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from rempart import canonical_json
from rempart.errors import RempartError
from rempart.models import metrics
from rempart.models.encoding import encode
from rempart.models.gates.thresholds import OperatingPoint
from rempart.settings.schema import Strict
from rempart.training import datasets
from rempart.training.job import Costs, FeatureSpec, Split, TrainerSpec
from rempart.training.protocol import learning
from rempart.training.trainers import trainers


class TrialOrder(Strict):
    """What to train on the rows of a Parquet file, and the file for the model (ONNX)."""

    file: str
    model: str
    task: Literal["regression", "classification"]
    target: FeatureSpec
    features: tuple[FeatureSpec, ...]
    trainer: TrainerSpec
    validation: Split | None = None
    costs: Costs | None = None


class TrialAnswer(Strict):
    """The metrics and the operating point by the validation part if a model was written; or `fault` and `hint`."""

    metrics: dict[str, float] = Field(default_factory=dict)
    operating: OperatingPoint | None = None
    fault: str = ""
    hint: str = ""


def train(order: TrialOrder) -> learning.Learned:
    """Return a new model. Raises TrainingError, ModelRefused."""
    rows = datasets.decoded(Path(order.file).read_bytes())
    features, params = trainers.left_out([feature.feature() for feature in order.features], order.trainer.params)
    target, inputs = order.target.feature(), encode(features, rows)
    learnt = learning.Rows(rows, inputs, metrics.target_values(target, rows), params, features)
    some = inputs[:: -(-len(inputs) // learning.CHECKED)]
    return learning.learn(order, learnt, some, None, lambda *_, **__: None)


def main() -> None:
    order = TrialOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        learned = train(order)
        Path(order.model).write_bytes(learned.model.body)
        how = learned.validated
        answer = TrialAnswer(metrics=learned.metrics, operating=how.operating if how else None)
    except RempartError as error:
        answer = TrialAnswer(fault=error.what, hint=error.hint)
    sys.stdout.buffer.write(canonical_json.encode(answer.model_dump(mode="json")) + b"\n")


if __name__ == "__main__":
    main()
