"""Open the places from which rows are erased: every site, the feature store, and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from rempart.coordination.active import Active, ActiveSites
from rempart.errors import FeatureError, InputMissing, RempartError
from rempart.features import offline, removal
from rempart.features.databases import FeatureDatabases
from rempart.features.used import sources
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.training.materialize import feature_databases, materialize_rows
from rempart.ingestion import snapshots
from rempart.ledger.port import Ledger
from rempart.replication.continuity import Continuity
from rempart.settings.config import Config, Connections
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site


@dataclass(frozen=True)
class ErasureStores:
    """Places that hold rows. Pipelines work at the site `home`; `active` returns the active site at the time of the
    call.

    `sites` are the open sites, `home` first; `shut` has the reasons why other sites could not be opened.
    """

    home: str
    active: Active
    sites: Mapping[str, Site]
    shut: Mapping[str, str]
    config: Config
    ledger: Ledger
    continuity: Continuity
    features: Callable[[], FeatureDatabases]
    clock: Callable[[], datetime]
    connections: Connections

    @property
    def lake(self) -> str:
        return self.config.buckets.lake

    @property
    def active_sites(self) -> ActiveSites:
        return self.continuity.active_sites(self.config.active_site)


def open_stores(platform: Platform, home: str | None = None) -> ErasureStores:
    """Open every configured site. `home` is the active site unless named. Raises PlacementDenied, ConnectionMissing."""
    active, config = platform.active(), platform.config
    home, classification = home or active.site, classification_of(load_all())
    found, shut = dict[str, Site](), dict[str, str]()
    for name in sorted(config.sites, key=lambda site: site != home):
        try:
            found[name] = platform.site(name, classification)
        except RempartError as error:
            if name == home:
                raise
            shut[name] = error.what
    features = partial(feature_databases, platform)
    return ErasureStores(
        home,
        active,
        found,
        shut,
        config,
        platform.ledger,
        platform.continuity,
        features,
        platform.clock,
        platform.connections,
    )


def with_features(pipeline: Pipeline) -> ModelPipeline:
    """Return the pipeline, whose rows the feature store holds, as one that declares features. Raises FeatureError."""
    if isinstance(pipeline, ModelPipeline):
        return pipeline
    raise FeatureError(
        f"The feature store has rows of '{pipeline.name}', but its file declares no features any more",
        f"Put features, prediction, holdout and gate back into include/pipelines/{pipeline.name}.yaml, then run "
        "`rempart pipeline erase --again`.",
    )


def reload_features(databases: FeatureDatabases, pipeline: Pipeline, site: Site, bucket: str, now: datetime) -> None:
    """Load the current snapshot into both feature stores; do nothing if no snapshot was ever loaded.

    Views of other pipelines are loaded as these stand. If the definition of one changed after its load, its pipeline is
    loaded first: an erasure does not wait for the next run. Raises FeatureError, SiteError, DatabaseUnavailable;
    InputMissing if another pipeline is not loaded at all.
    """
    if offline.find_snapshot(databases, pipeline.name) is None:
        return
    current = snapshots.current(site, bucket, pipeline.name)
    if current is None:
        raise FeatureError(
            f"The feature store has rows of '{pipeline.name}', but its lake has no snapshot to load instead",
            f"Restore dataset:{pipeline.name} first, then run `rempart pipeline erase --again`.",
        )
    model = with_features(pipeline)
    try:
        materialize_rows(databases, model, snapshots.rows(site, bucket, current), current.id, now, keep_former=False)
    except InputMissing:
        for source in sources.sources(model).values():
            reload_features(databases, source, site, bucket, now)
        materialize_rows(databases, model, snapshots.rows(site, bucket, current), current.id, now, keep_former=False)
    removal.forget_deleted(databases, pipeline.name)
