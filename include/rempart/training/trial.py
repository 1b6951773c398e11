"""Train a model once on a training set in a file and score it: `python -m rempart.training.trial`. Nothing is stored.

It is a process of its own, as a job is: a trainer takes memory and threads, and may be a stranger's code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from rempart import canonical_json
from rempart.errors import RempartError
from rempart.models import metrics, onnx_format
from rempart.models.encoding import encode
from rempart.settings.schema import Strict
from rempart.training import outputs
from rempart.training.job import FeatureSpec, TrainerSpec
from rempart.training.trainers import trainers


class TrialOrder(Strict):
    """What to train, and the file of the frozen training set (Parquet with a column `split`)."""

    file: str
    task: Literal["regression", "classification"]
    target: FeatureSpec
    features: tuple[FeatureSpec, ...]
    trainer: TrainerSpec


class TrialAnswer(Strict):
    """The scores on the held-out rows; or `fault` and `hint`, why there are none."""

    metrics: dict[str, float] = Field(default_factory=dict)
    fault: str = ""
    hint: str = ""


def scores(order: TrialOrder) -> dict[str, float]:
    """Return the scores of a new model on the held-out rows, as those of a job. Raises TrainingError, ModelRefused."""
    train, holdout = outputs.split_rows(Path(order.file).read_bytes())
    features, params = trainers.left_out([feature.feature() for feature in order.features], order.trainer.params)
    target, task, use = order.target.feature(), order.task, order.trainer.use
    unseen, classes = encode(features, holdout), len(target.values)
    trained = trainers.train(
        use,
        encode(features, train),
        metrics.target_values(target, train),
        params,
        order.trainer.seed,
        task,
        unseen,
        classes,
    )
    predicted = onnx_format.run(onnx_format.open_session(trained.body), unseen, task, classes)
    return metrics.score(task, metrics.target_values(target, holdout), predicted)


def main() -> None:
    order = TrialOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        answer = TrialAnswer(metrics=scores(order))
    except RempartError as error:
        answer = TrialAnswer(fault=error.what, hint=error.hint)
    sys.stdout.buffer.write(canonical_json.encode(answer.model_dump(mode="json")) + b"\n")


if __name__ == "__main__":
    main()
