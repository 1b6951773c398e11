"""Judge the feature views of a pipeline by the ledger: age of the newest value, comparison with the snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from rempart.features.freshness import records
from rempart.features.freshness.judgement import Freshness, ViewContent, judge
from rempart.features.plan import ViewTable, view_table
from rempart.ledger.port import Evidence
from rempart.settings.pipeline import ModelPipeline, TrailingView, UsedView
from rempart.web.facts import NEWEST, CockpitFacts, Unknown
from rempart.web.read_models.messages import State, worst

COMPARED_WITHIN = timedelta(days=2)
"""Age at which a comparison of online values is old, and a missing one is unknown. Two are made a day."""
Skew = Literal["equal", "different", "not compared", "unknown"]
STATES: Mapping[str, State] = {
    "fresh": "good",
    "equal": "good",
    "stale": "bad",
    "different": "bad",
    "never loaded": "warning",
    "not compared": "unknown",
    "no limit": "unknown",
    "unknown": "unknown",
}
"""How good each freshness and each outcome of a comparison is."""


@dataclass(frozen=True)
class FeatureView:
    """A feature view online: age of its newest value, and its newest comparison with the snapshot.

    `newest`: newest event time, and `newest_day` its date if the view's moment is a whole day. `loaded_at`: load that
    is online. A value is not newer than its load. `entities`, `newest` and `loaded_at` are None if unknown.
    `different`: entities that differ, of `compared` ones; None if unknown. A difference stands until a comparison finds
    the view equal. `is_current`: whether the newest comparison had a result, and is at most two days old.
    `passed_days`: days of the view's longest window, if the newest value is older: no prediction that is asked for now
    is made with the view. None: it is new enough, unknown, or has no window.
    """

    view: str
    freshness: Freshness
    age_seconds: float | None
    limit_seconds: float | None
    entities: int | None
    newest: datetime | None
    loaded_at: datetime | None
    skew: Skew
    different: int | None
    compared: int | None
    compared_at: datetime | None
    is_current: bool
    passed_days: int | None = None
    newest_day: date | None = None

    @property
    def age_state(self) -> State:
        return STATES[self.freshness]

    @property
    def skew_state(self) -> State:
        return STATES[self.skew]

    @property
    def state(self) -> State:
        """Return the worse of both states. An age without a limit does not count."""
        return worst([self.skew_state, *([] if self.freshness == "no limit" else [self.age_state])])


def feature_views(facts: CockpitFacts, name: str, now: datetime) -> tuple[FeatureView, ...]:
    """Return the feature views of a pipeline's file, judged at `now`; empty for a pipeline without a model.

    Views of other pipelines are judged there.
    """
    pipeline = None if isinstance(facts.pipelines, Unknown) else facts.pipelines.get(name)
    if not isinstance(pipeline, ModelPipeline):
        return ()
    loads = [record for record in facts.standing("materialization") if record.subject == name]
    comparisons = [record for record in facts.standing("skew") if record.subject == name]
    measured = sorted([*loads, *comparisons], key=lambda record: -record.seq)
    return tuple(
        _dated(pipeline, _feature_view(facts, view_table(pipeline, view), spec.max_age, measured, comparisons, now))
        for view, spec in pipeline.features.items()
        if spec.kind != "used"
    )


def _dated(pipeline: ModelPipeline, found: FeatureView) -> FeatureView:
    """Return the view with the date of its newest value, where its moment is a whole day.

    The values of `days` count from the day after, so that their event time is the end of the day.
    """
    view = pipeline.features[found.view]
    if isinstance(view, UsedView) or found.newest is None or pipeline.conflict_rule == "history":  # from a version on
        return found
    if isinstance(view, TrailingView) and view.days:
        return replace(found, newest_day=(found.newest.astimezone(UTC) - timedelta(days=1)).date())
    if pipeline.moments[view.at].is_day(pipeline.columns):
        return replace(found, newest_day=found.newest.astimezone(UTC).date())
    return found


def _passed_days(table: ViewTable, newest: datetime | None, now: datetime) -> int | None:
    """Return the days of the longest window if even the newest value is too old for a prediction of now."""
    oldest = table.oldest(now)
    return table.ttl_days - 1 if table.ttl_days and oldest and newest and newest < oldest else None


def _feature_view(
    facts: CockpitFacts,
    table: ViewTable,
    limit: timedelta | None,
    measured: Sequence[Evidence],
    comparisons: Sequence[Evidence],
    now: datetime,
) -> FeatureView:
    view = table.view
    # older records were not read: the view may have been loaded before them
    reached = len(facts.of("materialization")) < NEWEST["materialization"]
    known = not isinstance(facts.evidence, Unknown) and bool(measured or reached)
    content: ViewContent | None = None
    try:
        content = next(filter(None, (records.content_of(view, record.body) for record in measured)), None)
    except (KeyError, TypeError, ValueError):  # a record of another form
        known = False
    judged = judge(content, limit, now, known=known)
    compared, counts = next(_results(view, comparisons), (None, None))
    is_current = compared is not None and compared is comparisons[0] and now - compared.at <= COMPARED_WITHIN
    begun = measured[-1].at if measured else now
    skew: Skew = "unknown" if comparisons or not known or now - begun > COMPARED_WITHIN else "not compared"
    if counts is not None and counts["different"]:
        skew = "different"
    elif is_current:
        skew = "equal"
    else:
        compared, counts = (comparisons[0] if comparisons else None), None
    return FeatureView(
        view,
        judged.state,
        judged.age.total_seconds() if judged.age is not None else None,
        limit.total_seconds() if limit is not None else None,
        content.entities if content else None,
        content.newest if content else None,
        content.loaded_at if content else None,
        skew,
        int(counts["different"]) if counts else None,
        int(counts["compared"]) if counts else None,
        compared.at if compared else None,
        is_current,
        _passed_days(table, content.newest if content else None, now),
    )


def _results(view: str, comparisons: Sequence[Evidence]) -> Iterator[tuple[Evidence, Mapping[str, Any]]]:
    """Yield the comparisons that have a result for a view, with its counts."""
    for comparison in comparisons:
        if counts := (comparison.body.get("compared") or {}).get(view):
            yield comparison, counts
