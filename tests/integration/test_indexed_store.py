"""The point-in-time join on a real database, beside Feast's own."""

from __future__ import annotations

import itertools

import pytest

from rempart.features import repository
from rempart.features.databases import FeatureDatabases
from rempart.features.plan import view_tables
from rempart.flows.training.materialize import materialize_rows
from tests.integration.test_features import NOW, arrow, random_rows
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores


def test_the_join_gives_what_feasts_own_store_gives(
    feature_databases: FeatureDatabases,
) -> None:
    """Rows on the moment of a value, older than its view shows, of groups that nobody knows, and with NULL."""
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore

    pipeline = stays("joined")
    materialize_rows(feature_databases, pipeline, arrow(random_rows(7, 200)).to_reader(), "s1", NOW)
    asked = ", ".join(
        f"({stay}::bigint, {house}, {room}, timestamptz '2020-02-20 00:00:00+00' + interval '{hours} hours')"
        for stay, house, room, hours in itertools.product(
            (1, 17, 900), ("'a'", "'nobody'", "NULL::text"), ("'a|b'", "'ab|c'"), (0, 23, 24, 240, 241, 2000, 90_000)
        )
    )
    entities = f"SELECT * FROM (VALUES {asked}) AS v (stay, house, house__room, event_timestamp)"
    features = [f"{view.view}:{field.name}" for view in view_tables(pipeline) for field in view.fields]
    with repository.feature_store(feature_databases, pipeline) as store:
        ours = store.get_historical_features(entities, features, full_feature_names=True).to_arrow()
        views = [store.get_feature_view(view.view) for view in view_tables(pipeline)]
        own = PostgreSQLOfflineStore.get_historical_features(
            store.config, views, features, entities, store.registry, pipeline.name, full_feature_names=True
        ).to_arrow()
    assert ours.column_names == own.column_names
    order = [(name, "ascending") for name in ("stay", "house", "house__room", "event_timestamp")]
    assert ours.sort_by(order).to_pylist() == own.sort_by(order).to_pylist()
    assert any(ours[name].null_count < ours.num_rows for name in ours.column_names if name.startswith("trend__"))
