"""List snapshots by pages: rows delivered, accepted and in quarantine. Only counts; no row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.errors import PipelineError
from rempart.ingestion.sources.derived import INPUT
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import quarantine
from rempart.web.read_models.feature_store.views import feature_views
from rempart.web.read_models.messages import Moment, State, moment, worst

PAGE = 50


@dataclass(frozen=True)
class SnapshotEntry:
    """One ingestion that made a snapshot. `quarantined`: rows that it sent to quarantine; below 0 if rows left it."""

    seq: int
    at: datetime
    pipeline: str
    id: str
    previous: str | None
    site: str
    deliveries: int
    rows: int
    delivered: int
    accepted: int
    repeated: int
    quarantined: int


@dataclass(frozen=True)
class PipelineData:
    """A pipeline: its classification, its newest snapshot, its delivered rows and the rows that wait in quarantine
    now, as far back as the facts go. `features`: worst state of its feature views; None without any.
    """

    pipeline: str
    classification: str | None
    error: str | None
    newest: SnapshotEntry | None
    quarantined: int
    delivered: int
    features: State | None = None


@dataclass(frozen=True)
class Data:
    """The page's content. `page` counts from 0, to `pages` - 1."""

    moment: Moment
    pipelines: tuple[PipelineData, ...]
    snapshots: tuple[SnapshotEntry, ...]
    page: int
    pages: int


def data(facts: CockpitFacts, now: datetime, page: int = 0) -> Data:
    """Return the page's content: every pipeline, and one page of the snapshots, newest first."""
    found, refused = _snapshots(facts), quarantine.rows(facts)
    pages = max(1, -(-len(found) // PAGE))
    page = min(max(page, 0), pages - 1)
    pipelines = {} if isinstance(facts.pipelines, Unknown) else facts.pipelines
    told = []
    for name, pipeline in pipelines.items():
        own = [dataset for dataset in found if dataset.pipeline == name]
        views = feature_views(facts, name, now)
        told.append(
            PipelineData(
                name,
                None if isinstance(pipeline, PipelineError) else pipeline.classification,
                pipeline.what if isinstance(pipeline, PipelineError) else None,
                own[0] if own else None,
                refused.get(name, 0),
                sum(snapshot.delivered for snapshot in own),
                worst(view.state for view in views) if views else None,
            )
        )
    return Data(moment(facts, now), tuple(told), found[page * PAGE : (page + 1) * PAGE], page, pages)


def newest_snapshot(facts: CockpitFacts, pipeline: str) -> str | None:
    """Return the id of a pipeline's newest snapshot on record, as far as the facts reach."""
    return next((snapshot.id for snapshot in _snapshots(facts) if snapshot.pipeline == pipeline), None)


def newer_inputs(facts: CockpitFacts, pipeline: Pipeline) -> tuple[str, ...]:
    """Return the inputs of a derived pipeline with a newer snapshot than its rows were derived from.

    Its DAG starts on a new snapshot of an input. A snapshot that was published while the DAG was paused, or before
    Airflow read its file, starts nothing. Empty as far as the facts do not reach.
    """
    if not isinstance(pipeline.source, DerivedSource):
        return ()
    derived = [
        record
        for record in (*facts.standing("extraction"), *facts.standing("snapshot"))
        if record.subject == pipeline.name and "derived_from" in record.body
    ]
    if not derived:
        return ()
    state = max(derived, key=lambda record: record.seq).body["derived_from"]
    now = {name: newest_snapshot(facts, name) for name in pipeline.source.inputs}
    return tuple(name for name, snapshot in now.items() if snapshot and snapshot != state.get(f"{INPUT}{name}"))


def quarantined(facts: CockpitFacts) -> Mapping[str, int]:
    """Return the rows that wait in quarantine now, by pipeline, as far as the facts reach. 0 for a pipeline with
    snapshots and no such rows.
    """
    return dict.fromkeys((snapshot.pipeline for snapshot in _snapshots(facts)), 0) | quarantine.rows(facts)


def _snapshots(facts: CockpitFacts) -> tuple[SnapshotEntry, ...]:
    return tuple(
        SnapshotEntry(
            record.seq,
            record.at,
            record.subject,
            str(record.body["snapshot"]),
            record.body.get("previous"),
            str(record.body["site"]),
            int(record.body.get("deliveries", 0)),
            int(record.body["rows"]),
            int(record.body.get("delivered", 0)),
            int(record.body.get("accepted", 0)),
            int(record.body.get("repeated", 0)),
            int(record.body.get("quarantined", 0)),
        )
        for record in facts.standing("snapshot")
        if "snapshot" in record.body
    )
