"""Declare the parameters of a trainer once: their check, and their JSON Schema for forms, follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.errors import TrainingError


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`, bounds included."""

    least: float
    most: float
    whole: bool = False


@dataclass(frozen=True)
class Word:
    """One of some words."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A text, such as patterns of features; the trainer checks what it says."""

    longest: int = 2000


Rule = Number | Word | Text
LOSSES = ("squared_error", "absolute_error", "quantile")
LOSS: dict[str, Rule] = {"loss": Word(LOSSES), "quantile": Number(0, 1)}
"""What a regression minimizes; `quantile` goes with the loss of that name."""


def check(trainer: str, rules: Mapping[str, Rule], params: Mapping[str, Any], task: str) -> None:
    """Raises TrainingError naming the parameter that is unknown, of another type or out of range."""
    for name, value in params.items():
        if (rule := rules.get(name)) is None:
            raise TrainingError(
                f"{trainer} has no parameter '{name}' for a {task}",
                f"Use a known parameter: {', '.join(sorted(rules))}, leave_out.",
            )
        if (fault := _fault(rule, value)) is not None:
            raise TrainingError(f"{trainer}: '{name}' must be {fault}", f"Correct trainer.params.{name}.")
    if "quantile" in rules and (params.get("loss") == "quantile") != ("quantile" in params):
        raise TrainingError(f"{trainer}: 'quantile' and the loss 'quantile' belong together", "Set both, or neither.")


def _fault(rule: Rule, value: Any) -> str | None:
    """Return what the value must be, or None if it is."""
    match rule:
        case Number():
            if isinstance(value, bool) or not isinstance(value, int if rule.whole else int | float):
                return "a whole number" if rule.whole else "a number"
            return None if rule.least <= value <= rule.most else f"from {rule.least:g} to {rule.most:g}"
        case Word():
            return None if value in rule.options else f"one of {', '.join(rule.options)}"
        case Text():
            return None if isinstance(value, str) and len(value) <= rule.longest else "a text"


def schema(rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Return the JSON Schema of the parameters, by name."""
    return {name: _schema(rule) for name, rule in rules.items()}


def _schema(rule: Rule) -> dict[str, Any]:
    match rule:
        case Number():
            kind = "integer" if rule.whole else "number"
            return {"type": kind, "minimum": rule.least, "maximum": rule.most}
        case Word():
            return {"type": "string", "enum": list(rule.options)}
        case Text():
            return {"type": "string", "maxLength": rule.longest}
