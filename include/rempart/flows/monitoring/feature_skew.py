"""Compare a sample of each online feature store with its snapshot, measure its age, and write both as evidence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rempart.counts import counted
from rempart.errors import FeatureError, LoadedMeanwhile
from rempart.features import offline
from rempart.features.databases import FeatureDatabases
from rempart.features.freshness import records
from rempart.features.freshness.content import read_content
from rempart.features.freshness.sampling import EntitySample
from rempart.features.freshness.skew import PipelineSkew, compare_stores
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import feature_databases
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)

SIZE = 1_000
"""Entities of each view that are compared, of each of the two stores."""


@dataclass(frozen=True)
class FeatureComparison:
    """Result of one comparison of all pipelines: pipelines, views and entities compared, and entities that differ."""

    pipelines: int
    views: int
    compared: int
    different: int


def compare_all(platform: Platform, seed: int, size: int = SIZE) -> FeatureComparison:
    """Compare the online store of every pipeline with a model that was materialized.

    Each pipeline gets a record of kind `skew` with `seed`, so that the sample can be drawn again. A pipeline that
    failed does not stop the others. Raises FeatureError afterwards if values differ, LoadedMeanwhile if a pipeline
    could not be compared; DatabaseUnavailable, PlacementDenied.
    """
    databases, sample = feature_databases(platform), EntitySample(seed, size)
    found: list[PipelineSkew] = []
    faults: list[FeatureError] = []
    for pipeline in load_all().values():
        if not isinstance(pipeline, ModelPipeline):
            continue
        try:
            result = compare_one(platform, databases, pipeline, sample)
        except FeatureError as fault:
            faults.append(fault)
            continue
        if result is not None:
            found.append(result)
            faults += _faults(pipeline.name, result)
    if faults:
        raise _worst(faults)
    views = [view for result in found for view in result.views]
    return FeatureComparison(
        len(found), len(views), sum(view.compared for view in views), sum(view.entities for view in views)
    )


def compare_one(
    platform: Platform, databases: FeatureDatabases, pipeline: ModelPipeline, sample: EntitySample
) -> PipelineSkew | None:
    """Compare one pipeline and record the result; None, without a record, if it was never loaded.

    After a difference, the next materialization computes and writes everything.
    Raises FeatureError and LoadedMeanwhile if it could not be compared, which is recorded as unknown;
    DatabaseUnavailable.
    """
    body: dict[str, Any] = {"seed": sample.seed, "size": sample.size}
    try:
        result = compare_stores(databases, pipeline, sample, platform.clock())
    except FeatureError as fault:
        platform.ledger.append("skew", pipeline.name, body | {"outcome": "unknown", "why": fault.what, "views": {}})
        raise
    if result is None:
        return None
    state, content = read_content(databases, pipeline)
    body |= {
        "outcome": "different" if any(view.entities for view in result.views) else "equal",
        "snapshot": result.snapshot,
        "compared": records.differences(result.views),
        "views": records.contents(content) if state else {},
    }
    platform.ledger.append("skew", pipeline.name, body)
    if body["outcome"] == "different":
        offline.distrust(databases, pipeline)
    for view in result.views:
        logger.info(
            "compared view '%s' of '%s': %s entities, %s differ",
            view.view,
            pipeline.name,
            f"{view.compared:,}",
            f"{view.entities:,}",
        )
    return result


def _faults(pipeline: str, result: PipelineSkew) -> Iterator[FeatureError]:
    """Yield the error for views whose online values differ, if any."""
    if told := "; ".join(_differences(result)):
        yield FeatureError(
            f"compare the online store of '{pipeline}' with snapshot {result.snapshot}: {told}",
            "Do not use predictions of this pipeline until it is clear why "
            f"(docs/how-to/compare-online-with-offline.md). Run materialize_features_{pipeline}, which corrects the "
            "online store, then compare again.",
        )


def _differences(result: PipelineSkew) -> Iterator[str]:
    for view in result.views:
        if view.entities:
            yield (
                f"view '{view.view}' differs for {counted(view.entities, 'entity', 'entities')} "
                f"({view.differing} with other values, {view.missing} not online, {view.extra} only online)"
            )


def _worst(faults: list[FeatureError]) -> FeatureError:
    """Return one error for all: a difference counts before a comparison that was not possible."""
    fault = next((fault for fault in faults if not isinstance(fault, LoadedMeanwhile)), faults[0])
    others = len(faults) - 1
    if not others:
        return fault
    return type(fault)(
        f"{fault.what} (and {counted(others, 'other pipeline')}: see the ledger's records `skew`)", fault.hint
    )
