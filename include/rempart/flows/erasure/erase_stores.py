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
from rempart.flows.ingestion import current_snapshot
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.training.materialize import feature_databases, materialize_rows
from rempart.ingestion import snapshots
from rempart.ingestion.snapshots import Snapshot
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

    `sites` are the open sites, `home` first; `shut` has the reasons why other sites could not be opened. `restored`:
    a restore brought the objects of `home` back, so that it may show an older snapshot than evidence names.
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
    restored: bool = False

    def current(self, pipeline: str) -> Snapshot | None:
        """Return the current snapshot of a pipeline at `home`, or None before the first.

        Raises IngestError if evidence names a newer one, SiteError, IntegrityError.
        """
        site = self.sites[self.home]
        if self.restored:
            return snapshots.current(site, self.lake, pipeline)
        return current_snapshot.checked(self.ledger, self.active, site, self.lake, pipeline)

    @property
    def lake(self) -> str:
        return self.config.buckets.lake

    @property
    def active_sites(self) -> ActiveSites:
        return self.continuity.active_sites(self.config.active_site)


def open_stores(platform: Platform, restored: str | None = None) -> ErasureStores:
    """Open every configured site. `home` is the active site, or the one that a restore filled (`restored`).

    Raises PlacementDenied, ConnectionMissing.
    """
    active, config = platform.active(), platform.config
    home, classification = restored or active.site, classification_of(load_all())
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
        restored is not None,
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


def reload_features(stores: ErasureStores, databases: FeatureDatabases, pipeline: Pipeline) -> None:
    """Load the current snapshot into both feature stores; do nothing if no snapshot was ever loaded.

    Views of other pipelines are loaded as these stand. If the definition of one changed after its load, its pipeline is
    loaded first: an erasure does not wait for the next run. Raises FeatureError, SiteError, DatabaseUnavailable;
    IngestError if evidence names a newer snapshot; InputMissing if another pipeline is not loaded at all.
    """
    if offline.find_snapshot(databases, pipeline.name) is None:
        return
    site, bucket, now = stores.sites[stores.home], stores.lake, stores.clock()
    current = stores.current(pipeline.name)
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
            reload_features(stores, databases, source)
        materialize_rows(databases, model, snapshots.rows(site, bucket, current), current.id, now, keep_former=False)
    removal.forget_deleted(databases, pipeline.name)
