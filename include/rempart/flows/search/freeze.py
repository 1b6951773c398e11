"""Begin a search: freeze the training set of all its trials, and open its run in MLflow."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import IntegrityError, PipelineError, TrainingError
from rempart.flows.search import records
from rempart.flows.search.records import Direction
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.flows.training import train
from rempart.flows.training.candidates import orders
from rempart.flows.training.check_pipeline import check_search
from rempart.flows.training.train import FrozenSet
from rempart.ledger.port import Ledger
from rempart.settings.gates.metrics import LOWER_IS_BETTER, by_row
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.search.ranges import ParameterSearch
from rempart.training import datasets
from rempart.training.job import Dataset, JobLabels
from rempart.training.search import space, tracked
from rempart.training.search.space import Space
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.features.label_feed import LabelsUsed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenSearch:
    """A search that has begun, as its tasks pass it on. `parent`: its run in MLflow; `began`: an instant, ISO 8601.

    The other fields are those of `FrozenSet` as JSON.
    """

    search: str
    parent: str
    began: str
    dataset: Mapping[str, Any]
    snapshot: str
    labels: Mapping[str, Any] | None
    used: Mapping[str, str]

    def rows(self) -> FrozenSet:
        labels = None if self.labels is None else JobLabels.model_validate(self.labels)
        return FrozenSet(Dataset.model_validate(self.dataset), self.snapshot, labels, self.used)

    def seconds(self, now: datetime) -> float:
        """Return the time since the search began."""
        return (now - datetime.fromisoformat(self.began)).total_seconds()


def freeze(platform: Platform, pipeline: ModelPipeline) -> FrozenSearch:
    """Freeze the current training set for a search. Raises PipelineError, and the errors of `flows.training.train`."""
    check_search(pipeline)  # before the join, which takes minutes
    found = train.training_set(platform, pipeline)
    return freeze_rows(platform, pipeline, found.table, found.snapshot, labels=found.labels, used=found.used)


def freeze_rows(
    platform: Platform,
    pipeline: ModelPipeline,
    table: pa.Table,
    snapshot: str,
    *,
    labels: LabelsUsed | None = None,
    used: Mapping[str, str] | None = None,
) -> FrozenSearch:
    """Begin a search on a table with the columns of `features.training_set.point_in_time`. Raises as `freeze`."""
    check_search(pipeline)
    how = orders.measuring(pipeline, pipeline.trainer.params)
    rows = train.freeze(platform, pipeline, table, snapshot, how, pipeline.trainer.params, labels=labels, used=used)
    search = identity(pipeline, rows.dataset)
    tags = {"rempart.pipeline": pipeline.name, "rempart.dataset_sha256": rows.dataset.sha256}
    parent = tracked.parent(platform.tracking(), pipeline.name, search, tags)
    records.write_rows(platform.ledger, pipeline.name, search, told_rows(rows))
    logger.info("search %s: %d trials, %d at once", search, declared(pipeline).trials, declared(pipeline).at_once)
    return FrozenSearch(search, parent, platform.clock().isoformat(), **told_rows(rows))


def told_rows(rows: FrozenSet) -> dict[str, Any]:
    """Return a frozen training set as plain JSON."""
    return {
        "dataset": rows.dataset.model_dump(mode="json"),
        "snapshot": rows.snapshot,
        "labels": rows.labels.model_dump(mode="json") if rows.labels else None,
        "used": dict(rows.used),
    }


def declared(pipeline: ModelPipeline) -> ParameterSearch:
    """Return the section `trainer.search`. Raises PipelineError without one."""
    if pipeline.trainer.search is None:
        raise PipelineError(
            f"include/pipelines/{pipeline.name}.yaml: trainer.search is missing",
            "Add the ranges to search: docs/how-to/search-parameters.md.",
        )
    return pipeline.trainer.search


def space_of(pipeline: ModelPipeline) -> Space:
    """Return the space of a pipeline's search. Raises PipelineError, TrainingError."""
    return space.space_of(declared(pipeline), pipeline.trainer.use, pipeline.prediction.task)


def told_space(pipeline: ModelPipeline) -> dict[str, dict[str, Any]]:
    """Return the ranges as in the pipeline file."""
    return {name: each.model_dump(exclude_defaults=True) for name, each in sorted(declared(pipeline).params.items())}


def judged_by(pipeline: ModelPipeline) -> tuple[str, Direction]:
    """Return the metric on the validation part by which trials are compared, and what is better.

    It is the gate's, or the first of the task that each job measures.
    """
    metric = by_row(pipeline.gate.metric, pipeline.prediction.task)
    return metric, "minimize" if LOWER_IS_BETTER[metric] else "maximize"


def identity(pipeline: ModelPipeline, dataset: Dataset) -> str:
    """Return the id of a search: 16 hex digits of the SHA-256 of what determines its trials.

    Limits of time, GPU hours and the number of trials are left out: with more of them the same search goes on.
    """
    search, trainer = declared(pipeline), pipeline.trainer
    determining = {
        "pipeline": pipeline.name,
        "dataset": dataset.sha256,
        "held_out": dataset.held_out,
        "trainer": {"use": trainer.use, "params": trainer.params, "seed": trainer.seed},
        "space": told_space(pipeline),
        "at_once": search.at_once,
        "pruner": search.pruner,
        "metric": judged_by(pipeline)[0],
        "validation": None if pipeline.validation is None else pipeline.validation.model_dump(mode="json"),
        "code": trainers.code_version(trainer.use),
    }
    return hashlib.sha256(canonical_json.encode(determining)).hexdigest()[:16]


def check_same(ledger: Ledger, pipeline: ModelPipeline, search: FrozenSearch) -> None:
    """Check that a search goes on as it began: with its pipeline file and code, and the rows on record.

    What tasks tell each other can be changed in Airflow. No row may have been erased since, whose trace the trials'
    models have. Raises TrainingError, IntegrityError.
    """
    if identity(pipeline, search.rows().dataset) != search.search:
        raise changed(pipeline, search)
    if not records.are_its_rows(ledger, pipeline.name, search.search, told_rows(search.rows())):
        raise IntegrityError(
            f"go on with search {search.search} of {pipeline.name}: the task `freeze` tells of other rows than the "
            "search began with by the ledger",
            f"Look in Airflow's audit log for who changed the XCom of `freeze`. Then trigger search_{pipeline.name}.",
        )
    rows, rewritten = search.rows().dataset, erasures.rewritten(ledger)
    if {(rows.bucket, rows.key), (rows.bucket, datasets.held_out_key(pipeline.name, rows.held_out))} & rewritten.keys():
        raise TrainingError(
            f"go on with search {search.search} of {pipeline.name}: rows of its training set were erased since it "
            "began",
            f"Start it anew, without these rows: trigger search_{pipeline.name}.",
        )


def changed(pipeline: ModelPipeline, search: FrozenSearch) -> TrainingError:
    """Return the error of a pipeline file that is not the one with which a search began."""
    return TrainingError(
        f"go on with search {search.search} of {pipeline.name}: the pipeline file or the trainer's code has "
        "changed since it began",
        f"Start it anew: trigger search_{pipeline.name}.",
    )
