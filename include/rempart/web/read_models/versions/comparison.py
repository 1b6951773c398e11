"""Compare two versions of a model: figures, training, features and their importance. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rempart.web.read_models.model_versions import ModelVersion, of_others


@dataclass(frozen=True)
class Difference:
    """A value that two versions do not share; None where a version lacks it."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side. `only_first`, `only_second`: features that only one of them reads.

    `importance`: of each feature, by the model cards.
    """

    model: str
    first: ModelVersion
    second: ModelVersion
    metrics: tuple[Difference, ...]
    training: tuple[Difference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    importance: tuple[Difference, ...] = ()


def compared(
    model: str,
    first: ModelVersion,
    second: ModelVersion,
    importances: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {}),
) -> Comparison:
    """Return the differences of two versions. Figures are listed also where they are equal.

    `importances`: of the features of each, highest first, where they were measured.
    """
    figures = [(version.judged.metrics if version.judged else None) or version.metrics for version in (first, second)]
    metrics = tuple(Difference(name, figures[0].get(name), figures[1].get(name)) for name in _keys(*figures))
    whole = [{**_training(version), **version.params} for version in (first, second)]
    training = tuple(
        Difference(name, whole[0].get(name), whole[1].get(name))
        for name in _keys(*whole)
        if whole[0].get(name) != whole[1].get(name)
    )
    return Comparison(
        model,
        first,
        second,
        metrics,
        training,
        tuple(name for name in first.features if name not in second.features),
        tuple(name for name in second.features if name not in first.features),
        tuple(Difference(name, *(known.get(name) for known in importances)) for name in _keys(*importances)),
    )


def _keys(*found: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for names in found for name in names))


def _training(version: ModelVersion) -> dict[str, Any]:
    return {
        "trainer": version.trainer,
        "seed": version.seed,
        "training set": version.dataset_sha256[:16],
        "held-out rows": version.held_out_sha256[:16],
        "snapshot": version.snapshot,
        **({"labels": version.labels} if version.labels else {}),
        **({"views of others": of_others(version.used)} if version.used else {}),
        "rows to learn from": version.rows_train,
        "rows held out": version.rows_holdout,
        "code": version.code_version,
    }
