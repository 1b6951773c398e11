"""Parameters that mean features or classes: directions of features (monotone constraints), weights of classes."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from rempart.errors import TrainingError
from rempart.models.encoding import Feature
from rempart.settings.evaluation.splits import EARLY_STOPPING
from rempart.training.trainers import parameters
from rempart.training.trainers.parameters import Number, Rule, Text

DIRECTIONS: dict[str, Rule] = {"increasing": Text(), "decreasing": Text()}
"""Patterns of features, with commas between them: with such a feature, the prediction never falls, or never rises."""
WEIGHTS: dict[str, Rule] = {"class_weight": Text(200)}
"""`balanced`, or a number for each class in the order of the target's `values`, such as `1, 1, 5`."""
MOST_ITERATIONS = 1_000_000
_SIGNS = {"increasing": 1, "decreasing": -1}


def of_trees(own: Mapping[str, Rule]) -> dict[str, dict[str, Rule]]:
    """Return the parameters of a trainer of trees for each task: its own, and those that all trainers of trees have."""
    shared: dict[str, Rule] = {
        **own,
        "learning_rate": Number(1e-9, 1_000),
        "max_bin": Number(2, 65_535, whole=True),
        EARLY_STOPPING: Number(1, MOST_ITERATIONS, whole=True),
        **DIRECTIONS,
    }
    return {"regression": {**shared, **parameters.LOSS}, "classification": {**shared, **WEIGHTS}}


def check_values(trainer: str, rules: Mapping[str, Mapping[str, Rule]], params: Mapping[str, Any], task: str) -> None:
    """Check parameters without features and classes. `rules`: by task.

    Raises TrainingError naming the parameter that is unknown, of another type or out of range.
    """
    parameters.check(trainer, rules[task], params, task)
    class_weights(params, 0)


def check(params: Mapping[str, Any], features: Sequence[Feature], classes: int) -> None:
    """Check parameters that name features, and the number of weights. `classes`: of the target, 0 for a regression.

    Raises TrainingError.
    """
    directions(params, features, classes)
    class_weights(params, classes)


def directions(params: Mapping[str, Any], features: Sequence[Feature], classes: int) -> dict[str, int]:
    """Return 1 or -1 for each feature that has a direction. `classes`: of the target, 0 for a regression.

    Raises TrainingError if a pattern matches nothing or a category, a feature has both directions, the target has more
    than two classes, or the loss is one whose leaves are set anew after the tree has grown: directions hold for the
    values before that.
    """
    found: dict[str, int] = {}
    for name, sign in _SIGNS.items():
        for pattern in [part.strip() for part in str(params.get(name, "")).split(",") if part.strip()]:
            matched = [feature for feature in features if fnmatch.fnmatchcase(feature.name, pattern)]
            if not matched:
                raise _refused(name, f"'{pattern[:80]}' matches no feature", features)
            for feature in matched:
                if feature.type == "category":
                    raise _refused(name, f"'{feature.name}' is a category, whose values have no order", features)
                if found.setdefault(feature.name, sign) != sign:
                    raise _refused(name, f"'{feature.name}' is in increasing and in decreasing", features)
    if found and (loss := params.get("loss", "squared_error")) != "squared_error":
        raise TrainingError(
            f"trainer.params: directions of features do not hold with the loss '{loss}'",
            "Use the loss squared_error, or remove increasing and decreasing from trainer.params.",
        )
    if found and classes > 2:
        raise TrainingError(
            f"trainer.params: directions of features are for two classes, but the target has {classes}",
            "Remove increasing and decreasing from trainer.params.",
        )
    return found


def _refused(name: str, why: str, features: Sequence[Feature]) -> TrainingError:
    ordered = ", ".join(feature.name for feature in features if feature.type != "category")
    return TrainingError(f"trainer.params.{name}: {why}", f"Use names of features with an order: {ordered}.")


def signs(params: Mapping[str, Any], features: Sequence[Feature], classes: int) -> list[int]:
    """Return the direction of each column of the matrix: 1, -1, or 0 for none; empty if no feature has one."""
    found = directions(params, features, classes)
    return [found.get(feature.name, 0) for feature in features for _ in feature.columns()] if found else []


def class_weights(params: Mapping[str, Any], classes: int) -> list[float] | None:
    """Return a weight for each class; empty for `balanced`, None without weights. Raises TrainingError."""
    if (told := str(params.get("class_weight", "")).strip()) in ("", "balanced"):
        return [] if told else None
    try:
        weights = [float(part) for part in told.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(1e-6 <= weight <= 1e6 for weight in weights) or (classes and len(weights) != classes):
        raise TrainingError(
            "trainer.params.class_weight must be 'balanced', or a number from 1e-06 to 1e+06 for each class"
            + (f", and the target has {classes}" if classes else ""),
            "Write the numbers in the order of the target's values, with commas between them, such as '1, 1, 5'.",
        )
    return weights


def row_weights(params: Mapping[str, Any], target: Any, classes: int, of: Any = None) -> Any:
    """Return the weight of each row [n], or None. target: positions of classes.

    Balanced weights give each class the same sum, and all rows the sum n, as scikit-learn defines it. With `of`,
    classes of other rows, return the weights of these: each class as among the rows of `target`.
    """
    import numpy as np

    if (weights := class_weights(params, classes)) is None:
        return None
    positions = np.asarray(target, np.int64)
    if not weights:
        counts = np.bincount(positions, minlength=classes)
        weights = (len(positions) / (classes * np.maximum(counts, 1))).tolist()
    return np.asarray(weights)[positions if of is None else np.asarray(of, np.int64)]


def require_classes(target: Any, classes: int) -> None:
    """Raises TrainingError if a declared class has no row to learn from."""
    import numpy as np

    if absent := classes - len(np.unique(target)):
        raise TrainingError(
            f"train the model: {absent} of the target's {classes} declared classes have no training row",
            "Remove them from the target's `values`, or wait for data that has them.",
        )
