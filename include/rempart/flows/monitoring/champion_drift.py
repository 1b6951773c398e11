"""Watch the champion of a pipeline: have its inputs, its predictions or its errors moved since it was trained?

The reference is the frozen training set of the champion's evidence, read again and checked by its SHA-256. So no copy
of its statistics is kept that could differ from it, or that an erasure would have to find.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rempart.errors import RempartError, TrainingError
from rempart.features.labels import KNOWN_AT
from rempart.flows.prediction.champion import champion_of
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.champions import decisions_on, intended
from rempart.flows.training.train import target_feature, training_set
from rempart.models import metrics
from rempart.models.predictions import PREDICTION, figures
from rempart.monitoring import columns, counting, performance, verdict
from rempart.monitoring.performance import RowLosses
from rempart.monitoring.profiles import Column, ColumnProfile, Profile
from rempart.monitoring.sources import ObservedRows, RowSource
from rempart.monitoring.verdict import ChampionVerdict, Window
from rempart.settings.gates.metrics import by_row
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.models.loading import LoadedModel

logger = logging.getLogger(__name__)

PREDICTED = 50_000
"""Rows of the training data of which predictions are made; of more rows each n-th."""
HIDDEN = "(not shown)"
"""Stands for a segment's value that the pipeline file does not list."""


@dataclass(frozen=True)
class StoredFeatures:
    """Rows of the loaded snapshot with their features as they were at each row's moment."""

    platform: Platform
    pipeline: ModelPipeline
    name: str = "snapshot"

    def read(self) -> ObservedRows:
        """Return the rows. Raises the errors of `train.training_set`."""
        found = training_set(self.platform, self.pipeline)
        return ObservedRows(found.table, found.snapshot)


def watch(platform: Platform, pipeline: ModelPipeline, source: RowSource | None = None) -> ChampionVerdict | None:
    """Judge the champion on rows that it did not learn from, and record the verdict; None without a champion.

    `source`: default: the loaded snapshot. Raises the error that kept it from being judged, after it was recorded as
    unknown: PredictionError, ModelRefused, FeatureError, ObjectMissing, IntegrityError, SiteError, TrackingUnavailable,
    DatabaseUnavailable; an error of the ledger is not recorded.
    """
    ledger, name = platform.ledger, pipeline.name
    removals.check_open(ledger, name)
    if (version := intended(decisions_on(ledger, name))) is None:
        return None
    rows = source or StoredFeatures(platform, pipeline)
    try:
        found = _judged(platform, pipeline, version, rows)
    except RempartError as fault:
        unjudged = ChampionVerdict(version, "unknown", (fault.what,), Window(rows.name, "", None, None, 0))
        ledger.append("monitoring", name, unjudged.body())
        raise
    ledger.append("monitoring", name, found.body())
    return found


def _judged(platform: Platform, pipeline: ModelPipeline, version: str, rows: RowSource) -> ChampionVerdict:
    model = champion_of(platform, pipeline).model
    record = candidate_record(platform.ledger, pipeline.name, version) or {}
    site = platform.active_site(pipeline.classification)
    known, dataset = erasures.rewritten(platform.ledger), record["dataset"]
    train = datasets.decoded(erasures.read_dataset(known, site, dataset))
    holdout = datasets.decoded(erasures.read_dataset(known, site, dataset["held_out"]))
    observed = rows.read()
    recorded = float(record["metrics"][_metric(pipeline)])
    return judge(pipeline, model, Reference(train, holdout, recorded), observed, rows.name, platform.clock())


@dataclass(frozen=True)
class Reference:
    """The rows that a champion learned from, its hold-out, and the gate's metric that is on record for the hold-out."""

    train: pa.Table
    holdout: pa.Table
    recorded: float


def judge(
    pipeline: ModelPipeline,
    model: LoadedModel,
    reference: Reference,
    observed: ObservedRows,
    source: str,
    now: datetime,
) -> ChampionVerdict:
    """Return the verdict on a champion. Reads no store. Raises TrainingError, ModelRefused, FeatureError."""
    rules = pipeline.monitoring
    rows = since_training(pipeline, reference.holdout, observed.table)
    dates = rows[_time(pipeline)]
    window = Window(source, observed.snapshot, *_span(dates), rows.num_rows)
    if rows.num_rows < rules.least_rows:
        return verdict.conclude(model.version, window, (), None, rules.least_rows)
    window_rows = _answered(model, rows)
    train = reference.train
    learned = _answered(model, train.take([*range(0, train.num_rows, max(1, train.num_rows // PREDICTED))]))
    training, seen = profiles(pipeline, model, train, learned, window_rows)
    moved = columns.judge(training, seen, rules)
    measured = performance.judge(
        _metric(pipeline),
        _losses(pipeline, _known(pipeline, window_rows, now)),
        _losses(pipeline, _answered(model, reference.holdout)),
        reference.recorded,
        rules,
        _losses(pipeline, learned),
    )
    return verdict.conclude(model.version, window, moved, measured, rules.least_rows)


def since_training(pipeline: ModelPipeline, holdout: pa.Table, rows: pa.Table) -> pa.Table:
    """Return the rows of the window: those from the hold-out's begin on, back to `window` before the newest.

    A hold-out of groups or classes is of all times: then the rows after its newest. Raises TrainingError if the
    hold-out has no row, because all were erased.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    dates = rows[_time(pipeline)]
    if not rows.num_rows:
        return rows
    least, after = (pc.min, pc.greater_equal) if pipeline.holdout.column else (pc.max, pc.greater)
    if (begin := least(holdout[_time(pipeline)]).as_py()) is None:
        raise TrainingError(
            f"watch the champion of {pipeline.name}: its hold-out has no row with a date left",
            f"Train again: `rempart pipeline run {pipeline.name} --follow`.",
        )
    first = pc.max(dates).as_py() - pipeline.monitoring.window
    recent = pc.greater_equal(dates, pa.scalar(max(begin, first), dates.type))
    return rows.filter(pc.and_(recent, after(dates, pa.scalar(begin, dates.type))))


def _time(pipeline: ModelPipeline) -> str:
    """Return the column with the time of a row: the hold-out's, or the moment of the prediction."""
    return pipeline.holdout.column or "event_timestamp"


@dataclass(frozen=True)
class Answered:
    """Rows with what the champion predicts for each."""

    rows: pa.Table
    predicted: pa.Table


def _answered(model: LoadedModel, rows: pa.Table) -> Answered:
    return Answered(rows, model.predict(rows))


def profiles(
    pipeline: ModelPipeline, model: LoadedModel, train: pa.Table, learned: Answered, window: Answered
) -> tuple[Profile, Profile]:
    """Return the profiles of the training data and of the window: features that the model reads, and predictions.

    `learned`: a sample of the training data.
    """
    watched = [Column(f.name, "category" if f.values else "number", f.values) for f in model.features]
    answer = Column(PREDICTION, "category", model.target.values) if model.target else Column(PREDICTION, "number")
    time = _time(pipeline)
    found: list[dict[str, ColumnProfile]] = [{}, {}]
    for chosen, *sides in (
        (watched, train, window.rows),
        ([answer], _with_time(learned, time), _with_time(window, time)),
    ):
        grid = counting.edges(counting.batches(sides[0]), sides[0].num_rows, chosen)
        for profile, table in zip(found, sides, strict=True):
            profile |= counting.profile(counting.batches(table), chosen, grid, time)
    return found[0], found[1]


def _with_time(answered: Answered, time: str) -> pa.Table:
    import pyarrow as pa

    return pa.table({PREDICTION: answered.predicted[PREDICTION], time: answered.rows[time]})


def _known(pipeline: ModelPipeline, answered: Answered, now: datetime) -> Answered:
    """Return the rows whose target is known by now."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = answered.rows
    known = pc.is_valid(rows[pipeline.prediction.target])
    if KNOWN_AT in rows.column_names:
        by_now = pc.less_equal(rows[KNOWN_AT], pa.scalar(now, rows.schema.field(KNOWN_AT).type))
        known = pc.and_(known, pc.fill_null(by_now, fill_value=False))
    return Answered(rows.filter(known), answered.predicted.filter(known))


def _metric(pipeline: ModelPipeline) -> str:
    """Return the gate's metric if it is made of losses by row, or else the task's that is."""
    return by_row(pipeline.gate.metric, pipeline.prediction.task)


def _losses(pipeline: ModelPipeline, answered: Answered) -> RowLosses:
    rows, made = answered.rows, figures(answered.predicted)
    truth = metrics.target_values(target_feature(pipeline), rows)
    is_regression = pipeline.prediction.task == "regression"
    by = pipeline.gate.baseline_by if pipeline.monitoring.segments is None else pipeline.monitoring.segments
    return RowLosses(
        performance.losses(_metric(pipeline), truth, made),
        {column: _groups(pipeline, rows, column) for column in by if column.split(".")[0] in rows.column_names},
        None if is_regression else performance.calibration_error(truth, made),
    )


def _groups(pipeline: ModelPipeline, rows: pa.Table, column: str) -> list[Any]:
    """Return the group of each row; values that the pipeline file does not list are one group without a name."""
    found = [key for (key,) in metrics.group_keys(rows, [column])]
    if "." in column or pipeline.columns[column].type == "boolean":
        return found
    listed = set(pipeline.columns[column].values or ())
    return [value if value in listed else HIDDEN for value in found]


def _span(dates: pa.ChunkedArray) -> tuple[date | None, date | None]:
    import pyarrow.compute as pc

    ends = pc.min_max(dates).as_py()
    days = [value.date() if isinstance(value, datetime) else value for value in (ends["min"], ends["max"])]
    return days[0], days[1]
