"""Parameters of the trainer `tabular_network`: their defaults, types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.errors import TrainingError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
LOSSES = ("squared_error", "absolute_error")
_REMEDY = "Correct trainer.params."


@dataclass(frozen=True)
class Settings:
    """Parameters as the trainer uses them.

    `precision`: of the matrix products; weights and their updates are always float32. `auto` is float32 on a CPU, and
    on a GPU bfloat16 if available, else float16. `device`: `auto` takes CUDA if available.
    """

    hidden: tuple[int, ...] = (128, 64)
    epochs: int = 30
    learning_rate: float = 0.003
    batch_size: int = 256
    weight_decay: float = 1e-4
    loss: str = "squared_error"
    precision: str = "auto"
    device: str = "auto"


def settings(params: Mapping[str, Any], task: str) -> Settings:
    """Return the checked parameters.

    Raises TrainingError for a parameter that is unknown, of another type or out of range.
    """
    known = [name for name in Settings.__dataclass_fields__ if name != "loss" or task == "regression"]
    if unknown := [name for name in params if name not in known]:
        raise TrainingError(
            f"tabular_network has no parameter '{unknown[0]}' for a {task}",
            f"Use a known parameter: {', '.join(sorted(known))}, leave_out.",
        )
    made: dict[str, Any] = {
        name: _hidden(value) if name == "hidden" else _checked(name, value) for name, value in params.items()
    }
    return Settings(**made)


def _hidden(value: Any) -> tuple[int, ...]:
    parts = [part.strip() for part in str(value).split(",")]
    sizes = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if isinstance(value, bool) or len(sizes) != len(parts) or not all(1 <= size <= 8192 for size in sizes):
        raise TrainingError(
            "tabular_network: 'hidden' must be the sizes of the hidden layers, each from 1 to 8192, such as '128,64'",
            _REMEDY,
        )
    return sizes


def _checked(name: str, value: Any) -> Any:
    words = {"precision": PRECISIONS, "device": DEVICES, "loss": LOSSES}
    if name in words:
        if value not in words[name]:
            raise TrainingError(f"tabular_network: '{name}' must be one of {', '.join(words[name])}", _REMEDY)
        return value
    if name in ("epochs", "batch_size"):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
            raise TrainingError(f"tabular_network: '{name}' must be a whole number from 1 to 1000000", _REMEDY)
        return value
    lowest = 0.0 if name == "weight_decay" else 1e-9
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= 10:
        raise TrainingError(f"tabular_network: '{name}' must be a number from {lowest:g} to 10", _REMEDY)
    return float(value)


def check(params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    settings(params, task)


def schema(task: str) -> dict[str, Any]:
    """Return the JSON Schema of the parameters, by name; `check` knows their ranges."""
    kinds = {"int": "integer", "float": "number", "str": "string"}
    return {
        name: {"type": ["string", "integer"] if name == "hidden" else kinds[str(field.type)]}
        for name, field in Settings.__dataclass_fields__.items()
        if name != "loss" or task == "regression"
    }
