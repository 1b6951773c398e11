"""Check a pipeline as a whole before any run: what its feature store, trainer and expectations would refuse later.

The pipeline file validates itself when read; this module holds the checks that need the packages. It reads only the
pipeline's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from rempart.errors import PipelineError, PlacementDenied, RempartError
from rempart.features.label_feed import feed_of
from rempart.features.plan import view_tables
from rempart.ingestion import expectations
from rempart.ingestion.derived import inputs
from rempart.models.encoding import features_of
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sovereignty.sources import decide_source
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    from rempart.training.job import Param


def check_trainer(pipeline: ModelPipeline, params: Mapping[str, Param] | None = None) -> dict[str, Param]:
    """Return the trainer's parameters, with `params` over those of the pipeline.

    Raises TrainingError for a wrong one.
    """
    merged: dict[str, Param] = {**pipeline.trainer.params, **(params or {})}
    _, rest = trainers.left_out(features_of(pipeline), merged)
    trainers.check(pipeline.trainer.use, rest, pipeline.prediction.task, pipeline.trainer.nodes)
    return merged


def check_origin(config: Config, pipeline: Pipeline, *, on: date) -> None:
    """Check that the policy lets the pipeline read from its source on this day. Raises PlacementDenied."""
    decision = decide_source(config, pipeline.classification, pipeline.source, on=on)
    if decision is not None and not decision.allowed:
        refusal = decision.refusal()
        raise PlacementDenied(f"include/pipelines/{pipeline.name}.yaml: source: {refusal.what}", refusal.hint)


def check(pipeline: Pipeline, *, thorough: bool = True) -> None:
    """Check the pipeline.

    Raises PipelineError with every fault. Without `thorough`, skip Great Expectations and the SQL of a derived pipeline
    (slow imports).
    """
    steps: list[Callable[[], object]] = [
        partial(expectations.check_names, pipeline.expectations),
        partial(inputs.check, pipeline, thorough=thorough),
    ]
    if isinstance(pipeline, ModelPipeline):
        steps = [
            partial(view_tables, pipeline),
            partial(check_trainer, pipeline),
            partial(feed_of, pipeline),
            *steps,
        ]
    if thorough:
        steps.append(partial(expectations.build, pipeline.expectations))
    found: dict[str, str] = {}
    for step in steps:
        try:
            step()
        except RempartError as error:
            found[error.what] = error.hint
    if found:
        where = f"include/pipelines/{pipeline.name}.yaml"
        raise PipelineError("\n".join(f"{where}: {what}" for what in found), " / ".join(dict.fromkeys(found.values())))
