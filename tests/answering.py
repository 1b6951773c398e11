"""A trained model, its evidence and a platform in memory: what the scorer's tests open."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rempart.features.prediction.plan import inputs_of
from rempart.flows.training.train import target_feature
from rempart.models.encoding import encode, features_of
from rempart.models.inputs import Input
from rempart.models.metrics import target_values
from rempart.models.onnx_format import MODEL_FILE
from rempart.serving.entries import PredictionEntry, PredictionGroup
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.rows import Key, Row
from rempart.settings.pipeline import ModelPipeline
from rempart.training.trainers import trainers
from tests.logged import entries_of
from tests.unit.training import stage

TABLE = stage.table(60)


@cache
def body(iterations: int) -> bytes:
    """A classifier of the stays' seasons."""
    features, season = features_of(stage.pipeline()), target_feature(stage.pipeline(task="classification"))
    matrix = encode(features, TABLE)
    truth = target_values(season, TABLE)
    params = {"max_iter": iterations}
    return trainers.train("gradient_boosting", matrix, truth, params, 1, "classification", matrix, 3).body


def record(version: str, iterations: int, pipeline: ModelPipeline | None = None) -> dict[str, Any]:
    """The `candidate` evidence of a version, as far as the scorer reads it."""
    made_of = pipeline or stage.pipeline()
    features, digest = features_of(made_of), hashlib.sha256(body(iterations)).hexdigest()
    return {
        "name": made_of.name,
        "version": version,
        "files": {MODEL_FILE: digest},
        "outputs": {f"jobs/{version}/{MODEL_FILE}": digest},
        "task": "classification",
        "target": target_feature(stage.pipeline(task="classification")).as_json(),
        "features": [feature.as_json() for feature in features],
        "inputs": [each.as_json() for each in inputs_of(made_of, [feature.name for feature in features])],
        "classification": "personal",
    }


class RecordingLog:
    """A prediction log in memory. With a fault it refuses, as a full disk does."""

    def __init__(self) -> None:
        self.entries: list[PredictionEntry] = []
        self.fault: Exception | None = None

    async def write(self, group: PredictionGroup) -> None:
        if self.fault:
            raise self.fault
        self.entries += entries_of(group)


class ScriptedVersion:
    """A version without a model: each prediction is its version's number. Its inputs are of all types."""

    is_broken = False
    outputs: Mapping[str, str] = {"prediction": "double"}
    inputs = (
        Input("lead", "integer"),
        Input("rate", "number", nullable=True),
        Input("vip", "boolean"),
        Input("room", "category", values=("plain", "sea")),
        Input("guest", "string"),
        Input("arrival", "date"),
        Input("at", "timestamp"),
    )

    kept, key = (*inputs, Input("stay_id", "integer", nullable=True)), ("stay_id",)

    def __init__(self, version: str = "1") -> None:
        self.version, self.sha256 = version, version.zfill(64)
        self.closed = False
        self.without: Sequence[str] = ()
        self.fails: Exception | None = None
        self.batches: list[int] = []

    def answer(self, rows: Sequence[Row | Key]) -> BatchAnswer:
        assert not self.closed
        if self.fails:
            raise self.fails
        self.batches.append(len(rows))
        outputs = [{"prediction": float(self.version)}] * len(rows)
        return BatchAnswer(["lead"], [(1.0,)] * len(rows), outputs, [self.without] * len(rows))

    def close(self) -> None:
        self.closed = True


ROW: dict[str, Any] = {
    "lead": 3,
    "rate": 1.5,
    "vip": True,
    "room": "sea",
    "guest": "g",
    "arrival": "2026-01-31",
    "at": "2026-01-31T10:00:00+01:00",
}
