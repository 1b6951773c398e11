"""Train a model once on rows in a file: `python -m rempart.training.trial`. The model goes into another file.

It is a process of its own, as a job is: a trainer takes memory and threads, and may be a stranger's code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rempart import canonical_json
from rempart.errors import RempartError
from rempart.models import metrics
from rempart.models.encoding import encode
from rempart.settings.schema import Strict
from rempart.training import datasets
from rempart.training.job import FeatureSpec, TrainerSpec
from rempart.training.outputs import CHECKED
from rempart.training.trainers import trainers


class TrialOrder(Strict):
    """What to train on the rows of a Parquet file, and the file for the model (ONNX)."""

    file: str
    model: str
    task: Literal["regression", "classification"]
    target: FeatureSpec
    features: tuple[FeatureSpec, ...]
    trainer: TrainerSpec


class TrialAnswer(Strict):
    """Empty if a model was written; or `fault` and `hint`, why not."""

    fault: str = ""
    hint: str = ""


def train(order: TrialOrder) -> bytes:
    """Return a new model as ONNX. Raises TrainingError, ModelRefused."""
    rows = datasets.decoded(Path(order.file).read_bytes())
    features, params = trainers.left_out([feature.feature() for feature in order.features], order.trainer.params)
    target, inputs = order.target.feature(), encode(features, rows)
    learnt, some = metrics.target_values(target, rows), inputs[:: -(-len(inputs) // CHECKED)]
    use, seed, classes = order.trainer.use, order.trainer.seed, len(target.values)
    return trainers.train(use, inputs, learnt, params, seed, order.task, some, classes, features=features).body


def main() -> None:
    order = TrialOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        Path(order.model).write_bytes(train(order))
        answer = TrialAnswer()
    except RempartError as error:
        answer = TrialAnswer(fault=error.what, hint=error.hint)
    sys.stdout.buffer.write(canonical_json.encode(answer.model_dump(mode="json")) + b"\n")


if __name__ == "__main__":
    main()
