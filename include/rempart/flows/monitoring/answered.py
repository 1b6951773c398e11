"""Rows of a watch with what a model predicts for each, and the losses of those whose target is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from typing import TYPE_CHECKING, Any

from rempart.features.labels import KNOWN_AT
from rempart.flows.training.train import target_feature
from rempart.models import metrics
from rempart.models.encoding import unknown
from rempart.models.predictions import ENDS, figures_of
from rempart.monitoring import coverage, performance
from rempart.monitoring.coverage import IntervalCoverage
from rempart.monitoring.performance import RowLosses
from rempart.settings.gates.metrics import by_row
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.models.loading import LoadedModel

HIDDEN = "(not shown)"
"""Stands for a segment's value that the pipeline file does not list."""


@dataclass(frozen=True)
class Answered:
    """Rows with what a model predicts for each."""

    rows: pa.Table
    predicted: pa.Table

    def only(self, chosen: pa.ChunkedArray) -> Answered:
        """Return the rows for which `chosen`, an array of booleans, is true."""
        return Answered(self.rows.filter(chosen), self.predicted.filter(chosen))


def answered(model: LoadedModel, rows: pa.Table) -> Answered:
    """Return rows with the predictions of a model. Raises TrainingError, ModelRefused."""
    return Answered(rows, model.predict(rows))


def known_to(model: LoadedModel, rows: pa.Table) -> tuple[dict[str, int], pa.Table]:
    """Return by feature how many rows have a value that a model does not know, and the rows without such a value."""
    import pyarrow.compute as pc

    found = unknown(model.features, rows)
    left = rows.filter(pc.invert(reduce(pc.or_, found.values()))) if found else rows
    return {name: outside.true_count for name, outside in found.items()}, left


def row_time(pipeline: ModelPipeline) -> str:
    """Return the column with the time of a row: the hold-out's, or the moment of the prediction."""
    return pipeline.holdout.column or "event_timestamp"


def row_metric(pipeline: ModelPipeline) -> str:
    """Return the gate's metric if it is made of losses by row, or else the task's that is."""
    return by_row(pipeline.gate.metric, pipeline.prediction.task)


@dataclass(frozen=True)
class Unseen:
    """The times from which a model did not learn: from `first` on, or after it if it `learned` from that time too."""

    first: date
    learned: bool


def unseen(pipeline: ModelPipeline, holdout: pa.Table, learned: pa.Table) -> Unseen | None:
    """Return the times from which a model learned from no row; None if its hold-out has none left.

    Those from the hold-out's begin on if all rows that it `learned` from are before. A hold-out of groups or classes is
    of all times: then those after the newest row of both.
    """
    import pyarrow.compute as pc

    held, known = (pc.min_max(rows[row_time(pipeline)]).as_py() for rows in (holdout, learned))
    if held["min"] is None:
        return None
    if known["max"] is None or known["max"] < held["min"]:
        return Unseen(held["min"], learned=False)
    return Unseen(max(held["max"], known["max"]), learned=True)


def is_unseen(pipeline: ModelPipeline, rows: pa.Table, given: Unseen) -> pa.ChunkedArray:
    """Return for each row whether a model did not learn from its time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    times = rows[row_time(pipeline)]
    first = pa.scalar(given.first, times.type)
    return pc.greater(times, first) if given.learned else pc.greater_equal(times, first)


def known(pipeline: ModelPipeline, given: Answered, now: datetime) -> Answered:
    """Return the rows whose target is known by now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = given.rows
    told = pc.is_valid(rows[pipeline.prediction.target])
    if KNOWN_AT in rows.column_names:
        by_now = pc.less_equal(rows[KNOWN_AT], pa.scalar(now, rows.schema.field(KNOWN_AT).type))
        told = pc.and_(told, pc.fill_null(by_now, fill_value=False))
    return given.only(told)


def losses(pipeline: ModelPipeline, given: Answered) -> RowLosses:
    """Return the losses of rows with a target, and their groups. Raises TrainingError."""
    rows, target = given.rows, target_feature(pipeline)
    made = figures_of(target, given.predicted)
    truth = metrics.target_values(target, rows)
    is_regression = pipeline.prediction.task == "regression"
    by = pipeline.gate.baseline_by if pipeline.monitoring.segments is None else pipeline.monitoring.segments
    return RowLosses(
        performance.losses(row_metric(pipeline), truth, made),
        {column: _groups(pipeline, rows, column) for column in by if column.split(".")[0] in rows.column_names},
        None if is_regression else performance.calibration_error(truth, made),
    )


def covered(pipeline: ModelPipeline, promised: float | None, given: Answered) -> IntervalCoverage | None:
    """Return what the intervals of a model cover of rows with a target; None if it gives none.

    `promised`: share of the true values that they shall cover. An end that is no number covers nothing.
    """
    if promised is None:
        return None
    truth = metrics.target_values(target_feature(pipeline), given.rows)
    lower, upper = (given.predicted[end].to_numpy() for end in ENDS)
    return coverage.judge(promised, (lower <= truth) & (truth <= upper), pipeline.monitoring)


def _groups(pipeline: ModelPipeline, rows: pa.Table, column: str) -> list[Any]:
    """Return the group of each row; values that the pipeline file does not list are one group without a name."""
    found = [key for (key,) in metrics.group_keys(rows, [column])]
    if "." in column or pipeline.columns[column].type == "boolean":
        return found
    listed = set(pipeline.columns[column].values or ())
    return [value if value in listed else HIDDEN for value in found]
