"""The champion of a pipeline: from the columns of the source to named predictions. All that predicts goes through it.

Which version is champion, and which bytes it has, is read from signed evidence. MLflow only keeps the files: an alias
that was moved there, or a file that was changed, predicts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from rempart.counts import counted
from rempart.errors import ChampionMissing, PredictionError, SiteUnavailable, TrackingRefused, TrackingUnavailable
from rempart.features.prediction.plan import FeaturePlan, StoredView, inputs_of, plan
from rempart.flows.prediction.judged_rows import judge_features
from rempart.flows.shared import time_limit
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates import stored_objects
from rempart.flows.training.candidates.record import trained_version
from rempart.flows.training.champions import decisions_on, intended
from rempart.flows.training.materialize import feature_databases
from rempart.ingestion.parsing import moments
from rempart.models.encoding import features_of
from rempart.models.inputs import typed
from rempart.models.loading import LoadedModel, load
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
"""Rows of which features are made at once."""


@dataclass(frozen=True)
class Answers:
    """Predictions, in order, of the rows whose features the champion knows.

    `unknown`: for each row whether it has none, because the champion does not know a value of a feature; `reasons`: of
    each of these, without a value.
    """

    predicted: pa.Table
    unknown: pa.BooleanArray
    reasons: pa.Array


@dataclass(frozen=True)
class Champion:
    """A verified champion. `plan`: how its features are made. `lookup`: of a trailing view's entities, at a time."""

    model: LoadedModel
    plan: FeaturePlan
    lookup: Callable[[StoredView, pa.Array, datetime], pa.Table]
    clock: Callable[[], datetime]

    def predict(self, rows: pa.Table) -> pa.Table:
        """Return a prediction for each row, in order, with the columns of `models.predictions`.

        `rows`: the columns of `model.inputs`, in any order; others are passed over. Features of the row are those of a
        training set. Features of trailing views come from the online store, as they are now. Nothing is predicted if
        one row is at fault. Raises PredictionError with the column and the number of rows; FeatureError, ModelRefused,
        DatabaseUnavailable.
        """
        found = self.answers(rows)
        for each in found.reasons.value_counts().to_pylist():
            raise PredictionError(
                f"predict {counted(rows.num_rows, 'row')}: {each['values']} in {counted(each['counts'], 'row')}",
                f"Leave these rows out, or train again: `rempart pipeline run {self.plan.pipeline.name} --follow`.",
            )
        return found.predicted

    def answers(self, rows: pa.Table) -> Answers:
        """Return what `predict` returns, but of rows with a value of a feature that is unknown the reasons."""
        import pyarrow as pa

        given = typed(self.model.inputs, rows)
        if outside := moments.beyond(given, self.plan.pipeline):
            raise PredictionError(
                f"predict {counted(rows.num_rows, 'row')}: {next(iter(outside.values()))[0]} in "
                f"{counted(len(outside), 'row')}",
                "Correct these rows, or leave them out.",
            )
        found = list(self._answered(given, self.clock()))
        return Answers(
            pa.concat_tables([each.predicted for each in found]),
            pa.concat_arrays([each.unknown for each in found]),
            pa.concat_arrays([each.reasons for each in found]),
        )

    def _answered(self, given: pa.Table, at: datetime) -> Iterator[Answers]:
        import pyarrow.compute as pc

        from rempart.features.prediction.rows import features

        for start in range(0, max(1, given.num_rows), ROWS):
            rows = given.slice(start, ROWS)
            made = features(self.plan, rows, at, lambda view, keys: self.lookup(view, keys, at))
            unknown, reasons = judge_features(self.model.features, made)
            yield Answers(self.model.predict(made.filter(pc.invert(unknown))), unknown, reasons)


def champion_of(platform: Platform, pipeline: ModelPipeline) -> Champion:
    """Return the champion of a pipeline by the ledger, after comparing its files with their recorded SHA-256.

    Raises ChampionMissing; PredictionError if the pipeline file defines its features in another way;
    ModelRefused, TrackingUnavailable, PlacementDenied, LedgerError, DatabaseUnavailable.
    """
    from rempart.features.prediction.lookup import online_rows

    name = pipeline.name
    if (version := champion_version(platform, name)) is None:
        raise ChampionMissing(
            f"predict with pipeline '{name}': it has no champion", f"Train one: `rempart pipeline run {name} --follow`."
        )
    model = version_of(platform, name, version)
    check_definitions(pipeline, model)
    made = plan(pipeline, [feature.name for feature in model.features])

    def lookup(view: StoredView, keys: pa.Array, at: datetime) -> pa.Table:
        return online_rows(feature_databases(platform), pipeline, view, keys, at)

    return Champion(model, made, lookup, platform.clock)


def champion_version(platform: Platform, name: str) -> str | None:
    """Return the version of a model that is champion by the ledger, or None. Raises LedgerError."""
    return intended(decisions_on(platform.ledger, name))


def version_of(platform: Platform, name: str, version: str) -> LoadedModel:
    """Return a version of a model that was trained here, champion or not, after the same comparison of its files.

    Raises ModelRefused, TrackingUnavailable, PlacementDenied, LedgerError, DatabaseUnavailable.
    """
    record = trained_version(platform.ledger, name, version)
    try:
        return load(platform.tracking(), record.body)
    except (TrackingRefused, TrackingUnavailable) as error:
        look = partial(stored_objects.look, platform, {name: version})
        try:  # the site may be why MLflow gives nothing, and silent for minutes
            found = time_limit.answer_of_site(look, f"look for the objects of model {name} version {version}")[name]
        except SiteUnavailable:
            raise error from None
        raise stored_objects.cause(found, name, version, error) from error


def check_definitions(pipeline: ModelPipeline, model: LoadedModel) -> None:
    """Check that a pipeline file gives the features that a model learned from.

    Declared values of a category may differ: the model's own count. Raises PredictionError with the first feature or
    column that differs.
    """
    known = {feature.name: feature for feature in features_of(pipeline)}
    for feature in model.features:
        now = known.get(feature.name)
        if now is None or now.type != feature.type or replace(now, values=feature.values) != feature:
            raise _differs(pipeline, model, f"feature '{feature.name}'")
    needed = {each.name: each.type for each in inputs_of(pipeline, [feature.name for feature in model.features])}
    given = {each.name: each.type for each in model.inputs}
    if different := sorted({name for name, _ in needed.items() ^ given.items()}):
        raise _differs(pipeline, model, f"column '{different[0]}' of its features")


def _differs(pipeline: ModelPipeline, model: LoadedModel, what: str) -> PredictionError:
    return PredictionError(
        f"predict with model {model.name} version {model.version}: {what} is defined in another way in "
        f"include/pipelines/{pipeline.name}.yaml than when the model was trained",
        f"Train with the new definition (`rempart pipeline run {pipeline.name} --follow`), or bring the former one "
        "back.",
    )
