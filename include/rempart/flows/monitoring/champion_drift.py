"""Watch the champion of a pipeline: have its inputs, its predictions or its errors moved since it was trained?

The reference is the frozen training set of the champion's evidence, read again and checked by its SHA-256. So no copy
of its statistics is kept that could differ from it, or that an erasure would have to find.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from rempart.errors import RempartError, TrainingError
from rempart.features.freshness import newest
from rempart.features.labels import KNOWN_AT
from rempart.flows.monitoring import challenger, separation
from rempart.flows.monitoring.answered import (
    Answered,
    answered,
    covered,
    is_unseen,
    known,
    known_to,
    losses,
    row_metric,
    row_time,
    unseen,
)
from rempart.flows.monitoring.challenger import Challenger
from rempart.flows.prediction.champion import champion_of, version_of
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import trained_version
from rempart.flows.training.champions import decisions_on, intended
from rempart.flows.training.materialize import feature_databases
from rempart.flows.training.train import training_set
from rempart.models.predictions import PREDICTION
from rempart.monitoring import columns, counting, freshness, performance, verdict
from rempart.monitoring.freshness import Expected, NewestTimes
from rempart.monitoring.profiles import Column, ColumnProfile, Profile
from rempart.monitoring.sources import ObservedRows, RowSource
from rempart.monitoring.verdict import ChampionVerdict, Window
from rempart.settings.pipeline import ModelPipeline
from rempart.training import datasets

if TYPE_CHECKING:
    import pyarrow as pa

    from rempart.models.loading import LoadedModel

logger = logging.getLogger(__name__)

PREDICTED = 50_000
"""Rows of the training data of which predictions are made; of more rows each n-th."""


@dataclass(frozen=True)
class StoredFeatures:
    """Rows of the loaded snapshot with their features as they were at each row's moment."""

    platform: Platform
    pipeline: ModelPipeline
    name: str = "snapshot"

    def read(self) -> ObservedRows:
        """Return the rows. Raises the errors of `train.training_set`."""
        found = training_set(self.platform, self.pipeline)
        times = newest.read(feature_databases(self.platform), self.pipeline, self.platform.clock())
        return ObservedRows(found.table, found.snapshot, NewestTimes(*times))


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
    record = trained_version(platform.ledger, pipeline.name, version)
    site, dataset = platform.active_site(pipeline.classification), record.body["dataset"]
    rewritten = erasures.rewritten(platform.ledger)
    train = datasets.decoded(erasures.read_dataset(rewritten, site, dataset))
    holdout = datasets.decoded(erasures.read_dataset(rewritten, site, dataset["held_out"]))
    reference = Reference(train, holdout, float(record.body["metrics"][row_metric(pipeline)]), record.at)
    observed = rows.read()
    open_version = partial(version_of, platform, pipeline.name)
    other = challenger.opened(platform.ledger, site, pipeline, version, open_version)
    try:
        return judge(pipeline, model, reference, observed, rows.name, platform.clock(), other)
    finally:
        if other and other.model:
            other.model.close()


@dataclass(frozen=True)
class Reference:
    """The rows that a champion learned from, its hold-out, and the gate's metric that is on record for the hold-out.

    `trained_at`: time of the record.
    """

    train: pa.Table
    holdout: pa.Table
    recorded: float
    trained_at: datetime


def judge(
    pipeline: ModelPipeline,
    model: LoadedModel,
    reference: Reference,
    observed: ObservedRows,
    source: str,
    now: datetime,
    other: Challenger | None = None,
) -> ChampionVerdict:
    """Return the verdict on a champion. Reads no store. Raises TrainingError, ModelRefused, FeatureError."""
    rules = pipeline.monitoring
    rows = since_training(pipeline, reference.holdout, reference.train, observed.table)
    window = Window(source, observed.snapshot, *_span(rows[row_time(pipeline)]), rows.num_rows)
    ages = freshness.judge(observed.newest, expected(pipeline, reference, now), rules.late, now)
    if rows.num_rows < rules.least_rows:
        return verdict.conclude(model.version, window, (), None, rules.least_rows, ages)
    unknown, predicted = known_to(model, rows)
    window = replace(window, unpredicted=rows.num_rows - predicted.num_rows, unknown=unknown)
    window_rows = answered(model, predicted)
    labelled = known(pipeline, window_rows, now)
    train = reference.train
    learned = answered(model, train.take([*range(0, train.num_rows, max(1, train.num_rows // PREDICTED))]))
    training, seen = profiles(pipeline, model, train, learned, rows, window_rows)
    measured = performance.judge(
        row_metric(pipeline),
        losses(pipeline, labelled),
        losses(pipeline, answered(model, reference.holdout)),
        reference.recorded,
        rules,
        losses(pipeline, learned),
    )
    return verdict.conclude(
        model.version,
        window,
        columns.judge(training, seen, rules),
        measured,
        rules.least_rows,
        ages,
        challenger.compare(pipeline, other, labelled) if other else None,
        separation.separate(pipeline, model, train, rows),
        covered(pipeline, model.coverage, labelled),
        domain_alarms=rules.domain_classifier == "alarm",
        tolerated=rules.unknown,
    )


def expected(pipeline: ModelPipeline, reference: Reference, now: datetime) -> Expected:
    """Return what the schedule and the frozen rows let expect of the age of data."""
    import numpy as np

    at = np.datetime64(reference.trained_at.astimezone(UTC).replace(tzinfo=None), "us")
    found = dict[str, Any]()
    for name in ("event_timestamp", KNOWN_AT):
        sides = [side[name] for side in (reference.train, reference.holdout) if name in side.column_names]
        moments = np.concatenate([_moments(side) for side in sides]) if sides else np.empty(0, "datetime64[us]")
        found[name] = moments[moments <= at]

    def age(moments: Any) -> timedelta:
        length: timedelta = (at - moments.max()).astype(timedelta) if len(moments) else timedelta()
        return length

    rows = found["event_timestamp"]
    labels = found[KNOWN_AT] if KNOWN_AT in reference.train.column_names else rows
    return Expected(freshness.interval(pipeline.schedules.ingest, now), freshness.pause(rows), age(rows), age(labels))


def _moments(column: pa.ChunkedArray) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.drop_null(column).cast(pa.timestamp("us")).to_numpy()


def since_training(pipeline: ModelPipeline, holdout: pa.Table, learned: pa.Table, rows: pa.Table) -> pa.Table:
    """Return the rows of the window: those of `answered.unseen`, back to `window` before the newest.

    Raises TrainingError if the hold-out has no row, because all were erased.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    dates = rows[row_time(pipeline)]
    if not rows.num_rows:
        return rows
    if (since := unseen(pipeline, holdout, learned)) is None:
        raise TrainingError(
            f"watch the champion of {pipeline.name}: its hold-out has no row with a date left",
            f"Train again: `rempart pipeline run {pipeline.name} --follow`.",
        )
    first = pc.max(dates).as_py() - pipeline.monitoring.window
    recent = pc.greater_equal(dates, pa.scalar(first, dates.type))
    return rows.filter(pc.and_(recent, is_unseen(pipeline, rows, since)))


def profiles(
    pipeline: ModelPipeline, model: LoadedModel, train: pa.Table, learned: Answered, rows: pa.Table, window: Answered
) -> tuple[Profile, Profile]:
    """Return the profiles of the training data and of the window: features that the model reads, and predictions.

    `learned`: a sample of the training data; `window`: those of the window's `rows` that the model can predict.
    """
    watched = [Column(f.name, "category" if f.values else "number", f.values) for f in model.features]
    answer = Column(PREDICTION, "category", model.target.values) if model.target else Column(PREDICTION, "number")
    time = row_time(pipeline)
    found: list[dict[str, ColumnProfile]] = [{}, {}]
    for chosen, *sides in (
        (watched, train, rows),
        ([answer], _with_time(learned, time), _with_time(window, time)),
    ):
        grid = counting.edges(counting.batches(sides[0]), sides[0].num_rows, chosen)
        for profile, table in zip(found, sides, strict=True):
            profile |= counting.profile(counting.batches(table), chosen, grid, time)
    return found[0], found[1]


def _with_time(answered: Answered, time: str) -> pa.Table:
    import pyarrow as pa

    return pa.table({PREDICTION: answered.predicted[PREDICTION], time: answered.rows[time]})


def _span(dates: pa.ChunkedArray) -> tuple[date | None, date | None]:
    import pyarrow.compute as pc

    ends = pc.min_max(dates).as_py()
    days = [value.date() if isinstance(value, datetime) else value for value in (ends["min"], ends["max"])]
    return days[0], days[1]
