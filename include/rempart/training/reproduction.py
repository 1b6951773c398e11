"""Train a recorded job once more, from a file: `python -m rempart.training.reproduction`. Nothing is stored or logged.

It does what the job did (`outputs.make`), in a process of its own, with no key of a site or of MLflow.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rempart import canonical_json
from rempart.errors import IntegrityError
from rempart.models import onnx_format
from rempart.settings.schema import Strict
from rempart.sites.port import Site
from rempart.training import outputs, trial
from rempart.training.attempts.checkpoints import Checkpoints, Manifest
from rempart.training.attempts.interruption import Interruption
from rempart.training.attempts.progress import TrainingRun
from rempart.training.job import JobSpec

if TYPE_CHECKING:
    import numpy as np


class ReproductionOrder(Strict):
    """A job to repeat, the file with its rows to learn from, and the file for the model (ONNX)."""

    spec: JobSpec
    rows: str
    model: str


class _OneFile:
    """Stands for the site of a job whose only object is its training set."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, bucket: str, key: str, *, sha256: str) -> bytes:
        body = self._file.read_bytes()
        if hashlib.sha256(body).hexdigest() != sha256:
            raise IntegrityError(
                f"reproduce a model: {bucket}/{key} is not the recorded training set", "Read it from its site again."
            )
        return body


class _NotStored(Checkpoints):
    """No checkpoint of the former job counts, and none is stored."""

    def __init__(self, spec: JobSpec) -> None:
        self.manifest = Manifest(spec.job_id)

    def newest(self) -> None:
        return None

    def save(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]], done: int) -> None:
        return None


def make(order: ReproductionOrder) -> outputs.Outputs:
    """Return what the job makes of its rows. Raises TrainingError, ModelRefused, IntegrityError."""

    def tell(stage: str, **facts: Any) -> None:
        sys.stderr.write(f"{canonical_json.encode({'stage': stage, **facts}).decode()}\n")

    site = cast("Site", _OneFile(Path(order.rows)))
    run = TrainingRun(_NotStored(order.spec), tell, Interruption())
    return outputs.make(order.spec, lambda _: site, tell, run)


def main() -> None:
    order = ReproductionOrder.model_validate_json(sys.stdin.buffer.read())

    def trained() -> tuple[bytes, trial.TrialAnswer]:
        made = make(order)
        return made.files[onnx_format.MODEL_FILE], trial.TrialAnswer(metrics=made.metrics)

    trial.answer(trained, order.model)


if __name__ == "__main__":
    main()
