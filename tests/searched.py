"""A record of a search for parameters: five trials in two generations, of which one was pruned and one failed."""

from __future__ import annotations

from typing import Any

SPACE = {
    "num_leaves": {"low": 7, "high": 127, "log": True},
    "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
    "leave_out": {"choose": ["", "*_trend__*_mean_*"]},
}


def trial(number: int, value: float | None, state: str = "complete", **params: Any) -> dict[str, Any]:
    chosen = {"num_leaves": 7 + 30 * number, "learning_rate": 0.05, "leave_out": ""} | params
    found = {"number": number, "generation": 1 + number // 3, "params": chosen, "state": state, "value": value}
    return found | {"seconds": 12.5, "job": f"{number:016x}", "run": f"run-{number}", "place": "gpu-a"}


def body(**changed: Any) -> dict[str, Any]:
    """Trial 3 is the best."""
    trials = [
        trial(0, 24.0),
        trial(1, 90.0, "pruned"),
        trial(2, 22.5, learning_rate=0.1),
        trial(3, 21.25, leave_out="*_trend__*_mean_*"),
        trial(4, None, "failed"),
    ]
    return {
        "search": "0123456789abcdef",
        "dataset_sha256": "da" * 32,
        "trainer": "gradient_boosting",
        "space": SPACE,
        "metric": "mae",
        "direction": "minimize",
        "seed": 7,
        "pruner": "median",
        "fixed": {"max_iter": 1000},
        "trials": trials,
        "best": 3,
        "importances": {"num_leaves": 0.25, "learning_rate": 0.6, "leave_out": 0.15},
        "ended": "trials",
    } | changed
