"""Erase labels: an erasure in a label pipeline reaches the training sets and feature stores of the pipelines it labels.

A training set has the key of its rows, which is the key of their labels. So the row is cut out of it, and the set
stays without it. The rows of the other pipeline are not erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rempart.errors import FeatureError, PipelineError
from rempart.features import offline, removal
from rempart.features.databases import FeatureDatabases
from rempart.features.label_feed import feed_of
from rempart.flows.erasure import erase_listing
from rempart.flows.erasure.erase_objects import Search
from rempart.flows.erasure.erase_stores import ErasureStores
from rempart.flows.training import labelled
from rempart.ingestion.erasing import IsErased
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import named_or_removed


@dataclass(frozen=True)
class LabelledPipeline:
    """A pipeline whose labels another one delivers, or once delivered, and which of its rows are erased."""

    pipeline: ModelPipeline
    gone: IsErased

    def search(self, stores: ErasureStores, folder: Path) -> Search:
        """Return a search of its training sets."""
        known = partial(erase_listing.known, stores.config, stores.continuity, self.pipeline.name)
        return Search(self.pipeline, stores.lake, self.gone, stores.home, known, folder, only="training set")

    def labels(self, databases: FeatureDatabases) -> int:
        """Return the number of erased labels in the feature store."""
        return sum(self.gone(key) for key in offline.label_keys(databases, self.pipeline))


def readers(stores: ErasureStores, source: Pipeline, gone: IsErased) -> list[LabelledPipeline]:
    """Return every pipeline to which the labels of `source` go, or ever went. Raises PipelineError, FeatureError."""
    return [
        LabelledPipeline(_with_model(named_or_removed(name)), partial(_any_gone, source.key, sorted(keys), gone))
        for name, keys in sorted(labelled.readers(stores.ledger, source.name).items())
    ]


def _with_model(pipeline: Pipeline) -> ModelPipeline:
    if isinstance(pipeline, ModelPipeline):
        return pipeline
    raise FeatureError(
        f"Training sets of '{pipeline.name}' may have erased labels, but its file declares no model any more",
        f"Put features, prediction, holdout and gate back into include/pipelines/{pipeline.name}.yaml, then run "
        "`rempart pipeline erase --again`.",
    )


def _any_gone(key: Sequence[str], orders: Iterable[Sequence[str]], gone: IsErased, row: Sequence[object]) -> bool:
    """Return whether a row's label was erased. `orders`: columns of the label's key in the order of the row's key."""
    return any(gone(tuple(_ordered(key, order, row))) for order in orders if len(order) == len(row))


def _ordered(key: Sequence[str], order: Sequence[str], row: Sequence[object]) -> Iterator[object]:
    named = dict(zip(order, row, strict=True))
    return (named.get(column) for column in key)


def strike(
    stores: ErasureStores, databases: FeatureDatabases, source: Pipeline, found: Iterable[LabelledPipeline]
) -> None:
    """Load the current labels into the feature stores of their readers. Call it inside `committing`.

    A reader that takes its labels elsewhere by now has none of these. Raises FeatureError, SiteError.
    """
    for reader in found:
        try:
            feed = feed_of(reader.pipeline)
        except PipelineError:
            if not reader.labels(databases):
                continue
            raise
        if feed is None or feed.source.name != source.name:
            continue
        if next(offline.label_keys(databases, reader.pipeline), None) is None:
            continue
        site, current = stores.sites[stores.home], stores.current(source.name)
        given = labelled.of_snapshot(site, stores.lake, feed, current, 0, stores.clock())
        offline.load_labels(databases, reader.pipeline, given.as_received(), stores.clock())
        removal.forget_deleted(databases, reader.pipeline.name)
