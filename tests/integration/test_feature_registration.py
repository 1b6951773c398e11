"""Definitions of features: in Feast's registry, and in both stores, where another definition is another feature."""

from __future__ import annotations

import psycopg
import pytest

from rempart.errors import FeatureError
from rempart.features import offline, repository, training_set
from rempart.features.databases import FeatureDatabases
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import row
from tests.integration.test_online_store import STAYS, names, online_tables, refresh, with_column
from tests.online_rows import online_rows
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores


def test_a_pipeline_is_registered_again_only_if_it_or_the_registry_changed(
    feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: ModelPipeline = stays("registered")
    applied: list[str] = []
    apply = repository.apply
    monkeypatch.setattr(repository, "apply", lambda store, of: applied.append(of.name) or apply(store, of))
    for _ in range(2):
        refresh(feature_databases, pipeline, [row(1, 0)])
    assert len(applied) == 1
    with psycopg.connect(feature_databases.registry.postgresql_url()) as opened:
        of_projects = opened.execute(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'project_id'"
        )
        for (table,) in of_projects.fetchall():
            opened.execute(f'DELETE FROM "{table}" WHERE project_id = %s', (pipeline.name,))
    refresh(feature_databases, pipeline, [row(1, 0)])
    with repository.feature_store(feature_databases, pipeline) as store:
        assert len(store.list_feature_views()) == 3
    refresh(feature_databases, with_column(pipeline, ["nights"]), [row(1, 0)])
    assert len(applied) == 3


def test_a_feature_that_changes_its_definition_under_its_name_is_another_feature(
    feature_databases: FeatureDatabases,
) -> None:
    pipeline: ModelPipeline = stays("defined")

    def of(expression: str) -> ModelPipeline:
        own = {"kind": "row", "at": "booking", "columns": ["room"], "expressions": {"part": expression}}
        return stays(pipeline.name, features=pipeline.model_dump()["features"] | {"stay": own})

    old, new, rows = of("lead / 2"), of("lead / 4"), [row(1, 3, lead=8), row(2, 4, lead=8)]
    refresh(feature_databases, old, rows)
    assert training_set.point_in_time(feature_databases, old).table["stay__part"].to_pylist() == [4.0, 4.0]
    for read in (offline.loaded_ids, training_set.point_in_time):
        with pytest.raises(FeatureError, match="its definition changed after the load"):
            read(feature_databases, new)
    with pytest.raises(FeatureError, match="no table with its columns and definitions"):
        online_rows(feature_databases, new, "stay", STAYS)

    refresh(feature_databases, new, rows)
    (former,), (current,) = (online_rows(feature_databases, file, "stay", [{"stay": 1}]) for file in (old, new))
    assert (former["part"], current["part"]) == (4.0, 2.0), "a reader of the former definition gets what it means"
    with repository.feature_store(feature_databases, new) as store:
        assert store.get_online_features(["stay:part"], [{"stay": 1}]).to_dict()["part"] == [2.0]
    assert training_set.point_in_time(feature_databases, new).table["stay__part"].to_pylist() == [2.0, 2.0]
    assert offline.loaded_ids(feature_databases, new)[1] is None
    with pytest.raises(FeatureError, match="its definition changed after the load"):
        offline.loaded_ids(feature_databases, old)
    refresh(feature_databases, of("(lead)\n/ 4"), rows)
    assert online_tables(feature_databases, new) == set(names(new).values()), "the layout is no definition"
