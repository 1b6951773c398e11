"""Explain a logged prediction: what each feature contributed, by the version that answered and what it saw."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.backup.keys import age
from rempart.errors import ObjectMissing, PredictionError, ServingError
from rempart.flows.prediction_log.replay import Logged, answer_of, equal, seen_features
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import candidate_record
from rempart.models.encoding import encode
from rempart.models.explanations.contributions import Contributions, contributions, references
from rempart.models.loading import LoadedModel
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 1
"""Seed of the sampling: an explanation is the same whenever it is asked for."""


@dataclass(frozen=True)
class Explained:
    """A logged prediction and its contributions, to the probability of `label`, or to the number if it is None.

    `values`: the features' values, which may be personal.
    """

    logged: Logged
    label: str | None
    found: Contributions
    values: Mapping[str, Any]


def explain(
    platform: Platform,
    pipeline: ModelPipeline,
    entry_id: str,
    journal: Path,
    identity: age.Identity | None = None,
    label: str | None = None,
) -> Explained:
    """Find an entry in a pipeline's log, check it as a replay does, and return what its features contributed.

    `label`: class whose probability is explained; default: the predicted one. Contributions are measured against rows
    that the version learned from. Raises the errors of `replay.replay`; ServingError also if the version computes
    another prediction now, or if its training rows are gone; PredictionError for an unknown class.
    """
    logged, model = answer_of(platform, pipeline, entry_id, journal, identity, "explain")
    row = seen_features(model.features, logged, "explain")
    (predicted,) = model.predict(row).to_pylist()
    if not equal(logged.output, predicted):
        raise ServingError(
            f"explain prediction {entry_id}: version {logged.version} computes another prediction from its features",
            f"Look at both: `rempart model replay {entry_id} --model {pipeline.name}`.",
        )
    output, of = _output(model, predicted, label)
    training = encode(model.features, _training(platform, pipeline, model, entry_id))
    found = contributions(model.figures, model.features, encode(model.features, row)[0], training, SEED, output)
    if not found.adds_up:
        raise ServingError(
            f"explain prediction {entry_id}: contributions and reference differ from the prediction by "
            f"{found.difference:.3g}, more than rounding",
            "Report it with the version's model.onnx: its answer depends on the other rows of a batch.",
        )
    return Explained(logged, of, found, dict(logged.private.features))


def _output(model: LoadedModel, predicted: Mapping[str, Any], label: str | None) -> tuple[int | None, str | None]:
    """Return the position and the name of the class that is explained; None for a regression."""
    if model.target is None:
        if label is not None:
            raise PredictionError(f"model {model.name} predicts a number, and has no class", "Leave out the class.")
        return None, None
    wanted = label if label is not None else predicted["prediction"]
    if wanted not in model.target.values:
        raise PredictionError(
            f"model {model.name} version {model.version} has no class of that name",
            f"Choose one of {', '.join(model.target.values)}.",
        )
    return model.target.values.index(wanted), str(wanted)


def _training(platform: Platform, pipeline: ModelPipeline, model: LoadedModel, entry_id: str) -> pa.Table:
    """Return sampled rows that a version learned from: only the columns of its features."""
    import numpy as np
    import pyarrow.parquet as pq

    record = candidate_record(platform.ledger, pipeline.name, model.version)
    assert record is not None  # noqa: S101 - the version was opened by it
    known, site = erasures.rewritten(platform.ledger), platform.active_site(pipeline.classification)
    try:
        body = erasures.read_dataset(known, site, record["dataset"])
    except ObjectMissing as cause:
        raise ServingError(
            f"explain prediction {entry_id}: the training rows of version {model.version} are gone ({cause.what})",
            "An erasure, the retention or a retirement took them: only the prediction itself can be replayed.",
        ) from cause
    rows = pq.read_table(io.BytesIO(body), columns=[feature.name for feature in model.features])
    count = references(len(model.features), rows.num_rows)
    return rows.take(np.sort(np.random.default_rng(SEED).permutation(rows.num_rows)[:count]))
