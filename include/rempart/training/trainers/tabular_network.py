"""A neural network for tables, by PyTorch: the built-in trainer for data that outgrows trees, on a CPU or a GPU.

PyTorch is no part of the platform's environment. It is imported where the job runs, in the trainer's environment or
image, and nowhere else; ordering a job, checking its parameters and its model need none of it.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.training.trainers.built_in import BuiltIn
from rempart.training.trainers.network import conversion
from rempart.training.trainers.network import settings as network_settings

if TYPE_CHECKING:
    from rempart.training.attempts.progress import TrainingRun

TORCH = "torch>=2.9,<2.14"
"""PyTorch's line of requirements-torch.txt. It is part of the code version; a result names the version that made it."""


@dataclass(frozen=True)
class Network:
    """A trained network. `layers`: weight [out, in] and bias [out] of each, float32, as PyTorch holds them."""

    statistics: conversion.Scaling
    layers: tuple[tuple[Any, Any], ...]
    task: str

    def to_onnx(self) -> bytes:
        return conversion.convert(self.statistics, self.layers, self.task)

    def predict(self, inputs: Any) -> Any:
        """Return PyTorch's own predictions in float32 on the CPU: [n] in the target's unit, or probabilities [n,
        classes].
        """
        import torch

        values = torch.from_numpy(conversion.standardised(inputs, self.statistics))
        with torch.no_grad():
            for number, (weight, bias) in enumerate(self.layers):
                values = torch.nn.functional.linear(values, torch.from_numpy(weight), torch.from_numpy(bias))
                if number < len(self.layers) - 1:
                    values = torch.relu(values)
            if self.task == "classification":
                return torch.softmax(values, dim=1).numpy()
            return (values[:, 0] * self.statistics.target_scale + self.statistics.target_mean).numpy()


def installed() -> str:
    """Return the installed version of PyTorch. Raises TrainingError if it is missing or outside the declared range."""
    from packaging.requirements import Requirement

    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version or not Requirement(TORCH).specifier.contains(version, prereleases=True):
        raise TrainingError(
            f"tabular_network needs {TORCH}, but the installed version is {version or 'none'}",
            "Run the job in the trainer's environment (`make setup-trainer` makes .venv-trainer) or image.",
        )
    return version


def fit(
    inputs: Any,
    target: Any,
    params: Mapping[str, Any],
    seed: int,
    task: str,
    classes: int,
    run: TrainingRun | None = None,
) -> Network:
    """Return a trained network. inputs: float32 [n, k], NaN for null; target: [n], class positions for a
    classification.

    Each step is one update by one batch. The batches of an epoch follow from seed and epoch alone. So a job that
    continues from a checkpoint makes the same updates: on the same machine, device and number of nodes, the weights are
    equal to the bit. Raises TrainingError, PeerLost.
    """
    chosen, version = network_settings.settings(params, task), installed()
    # before CUDA starts: its matrix products are reproducible only with a workspace of fixed size
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from rempart.training.trainers.network import batches, fitting

    device, precision = fitting.place(chosen)
    if run is not None:
        run.made_with |= {"torch": version, "device": device, "precision": precision}
        if run.group.size > 1:
            summed_by = fitting.settle(run.group, device, precision)
            run.made_with |= {"nodes": str(run.group.size), "summed_by": summed_by}
    statistics = conversion.scaling(inputs, target, task)
    wanted = (target - statistics.target_mean) / statistics.target_scale if task == "regression" else target
    dtype = "int64" if task == "classification" else "float32"
    rows = batches.Batches(inputs, wanted.astype(dtype), statistics, device)
    learnt = fitting.learn(
        rows,
        len(inputs),
        statistics.width,
        chosen,
        seed,
        classes if task == "classification" else 0,
        device,
        precision,
        run,
    )
    if run is not None:
        run.waited_seconds = (run.waited_seconds or 0.0) + rows.waited
    if not all(math.isfinite(float(abs(array).max())) for layer in learnt for array in layer):
        raise TrainingError(
            "tabular_network: the weights are not finite", "Lower learning_rate, or set precision: float32."
        )
    return Network(statistics, learnt, task)


TRAINER = BuiltIn(
    fit,
    network_settings.check,
    network_settings.schema,
    modules=(
        "network/batches.py",
        "network/conversion.py",
        "network/fitting.py",
        "network/settings.py",
        "tabular_network.py",
    ),
    libraries=("numpy", "onnx"),
    shares_work=True,
    needs_torch=True,
)
