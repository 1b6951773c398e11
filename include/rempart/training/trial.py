"""Train a model once on rows in a file: `python -m rempart.training.trial`. The model goes into another file.

It is a process of its own, as a job is: a trainer takes memory and threads, and may be a stranger's code. `ask` starts
such a process, and `answer` is what it does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rempart import canonical_json
from rempart.errors import RempartError, TrainingError
from rempart.models import metrics
from rempart.models.encoding import encode
from rempart.models.gates.thresholds import OperatingPoint
from rempart.settings.schema import Strict
from rempart.training import backends, datasets
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
    """Metrics and the operating point by the validation part, if the process wrote a model; or `fault` and `hint`."""

    metrics: dict[str, float] = Field(default_factory=dict)
    operating: OperatingPoint | None = None
    fault: str = ""
    hint: str = ""


def ask(module: str, order: Strict, use: str, limit: timedelta, what: str) -> TrialAnswer:
    """Return the answer of a module that trains in a process of its own, with no key of a site.

    `use`: the trainer; `limit`: after which the process is ended; `what`: of the errors. Raises TrainingError.
    """
    try:
        done = subprocess.run(
            [backends.python_of(use), "-m", module],
            input=order.model_dump_json().encode(),
            capture_output=True,
            env=backends.bare_environment(),
            timeout=limit.total_seconds(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrainingError(
            f"{what}: it was ended because it ran longer than {limit}",
            "Raise trainer.timeout in the pipeline, or take fewer rows.",
        ) from None
    try:
        given = TrialAnswer.model_validate_json((done.stdout.splitlines() or [b""])[-1])
    except ValidationError:  # an error of the trainer may quote values, and is not repeated
        raise TrainingError(
            f"{what}: the trainer's process ended with status {done.returncode}",
            "Check trainer.use and trainer.params, that the machine has enough memory, and that the trainer's "
            "libraries are those of the lock.",
        ) from None
    if given.fault:
        raise TrainingError(given.fault, given.hint)
    return given


def answer(make: Callable[[], tuple[bytes, TrialAnswer]], model: str) -> None:
    """Write a model (ONNX) into the file `model`, and the answer, or why there is no model, to standard output."""
    try:
        body, given = make()
        Path(model).write_bytes(body)
    except RempartError as error:
        given = TrialAnswer(fault=error.what, hint=error.hint)
    sys.stdout.buffer.write(canonical_json.encode(given.model_dump(mode="json")) + b"\n")


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

    def make() -> tuple[bytes, TrialAnswer]:
        learned = train(order)
        how = learned.validated
        return learned.model.body, TrialAnswer(metrics=learned.metrics, operating=how.operating if how else None)

    answer(make, order.model)


if __name__ == "__main__":
    main()
