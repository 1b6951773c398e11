"""The kinds of sources that this version extracts from. `files` without a site needs no extraction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rempart.ingestion.sources.port import Source, Surroundings
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import Kind, is_extracted

Opener = Callable[[Pipeline, Surroundings], Source]
"""Opens a source, and asks the policy first: it records the decision, and raises PlacementDenied. It reads no row."""


def _sql(pipeline: Pipeline, around: Surroundings) -> Source:
    from rempart.ingestion.sources.sql import open_source

    return open_source(pipeline, around)


def _http(pipeline: Pipeline, around: Surroundings) -> Source:
    from rempart.ingestion.sources.web.source import open_http

    return open_http(pipeline, around)


def _bucket(pipeline: Pipeline, around: Surroundings) -> Source:
    from rempart.ingestion.sources.bucket import open_bucket

    return open_bucket(pipeline, around)


def _derived(pipeline: Pipeline, around: Surroundings) -> Source:
    from rempart.ingestion.sources.derived import open_derived

    return open_derived(pipeline, around)


SOURCES: Mapping[Kind, Opener] = {
    "sql": _sql,
    "http": _http,
    "site": _bucket,
    "files": _bucket,
    "derived": _derived,
}
"""How each kind is opened. A module of this room adds itself here, and its kind to tests/contract/test_sources.py."""


def opener_of(pipeline: Pipeline) -> Opener | None:
    """Return how the pipeline's source is opened; None where files arrive in the landing bucket by themselves."""
    return SOURCES[pipeline.source.kind] if is_extracted(pipeline.source) else None
