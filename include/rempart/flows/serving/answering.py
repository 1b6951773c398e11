"""A verified version that answers rows: its model, and the features of its pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from rempart.errors import ModelRefused
from rempart.flows.prediction.champion import check_definitions
from rempart.flows.serving.row_features import RowFeatures
from rempart.flows.serving.stored_features import StoredFeatures
from rempart.models import predictions
from rempart.models.encoding import RowEncoder
from rempart.models.inputs import Input
from rempart.models.loading import LoadedModel
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.rows import Key, Row
from rempart.settings.pipeline import ModelPipeline


def kept_columns(pipeline: ModelPipeline, inputs: Sequence[Input]) -> tuple[Input, ...]:
    """Return the columns that the log keeps of a request: an erasure finds its entry by the key. Pure."""
    named = [*pipeline.key]
    for view in pipeline.features.values():
        named += [*getattr(view, "by", ()), *getattr(view, "key", ())]
    others = dict.fromkeys(name for name in named if name not in {each.name for each in inputs})
    return (*inputs, *(Input(name, pipeline.columns[name].type, nullable=True) for name in others))


class AnsweringVersion:
    """A version with the features of its pipeline. It implements `serving.scorer.deployments.OpenedVersion`.

    Raises PredictionError if the pipeline file gives other features than those that the model learned from.
    """

    def __init__(
        self, model: LoadedModel, pipeline: ModelPipeline, stored: StoredFeatures, clock: Callable[[], datetime]
    ) -> None:
        check_definitions(pipeline, model)
        self.version, self.sha256, self.inputs = model.version, model.sha256, model.inputs
        self.kept, self.key = kept_columns(pipeline, model.inputs), tuple(pipeline.key)
        self.is_broken = False
        self.outputs: Mapping[str, str] = predictions.columns(
            model.task, model.target, intervals=model.coverage is not None
        )
        self._model, self._stored = model, stored
        self._names = [feature.name for feature in model.features]
        self._encoder = RowEncoder(model.features)
        self._features = RowFeatures(pipeline, self._names, model.inputs, stored.of, clock)

    def answer(self, rows: Sequence[Row | Key]) -> BatchAnswer:
        """Return a prediction for each row, and for each key of entities whose features the online store has.

        Raises PredictionError, TrainingError, FeatureError, DatabaseUnavailable, ModelRefused.
        """
        made = self._features.of(rows)
        matrix = self._encoder.matrix(made)
        try:
            figures = self._model.answers(matrix)
        except ModelRefused:
            self.is_broken = True
            raise
        outputs = predictions.named_rows(self._model.task, self._model.target, figures, self._model.operating)
        return BatchAnswer(self._names, made, outputs, self._features.without(made))

    def close(self) -> None:
        """End the model's process, and close the connections."""
        self._model.close()
        self._stored.close()
        self._features.close()
