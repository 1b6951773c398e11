"""What a removal does to the feature store and to MLflow, on real servers: gone, and free for a new pipeline."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import psycopg
import pytest

from rempart.features import offline
from rempart.features import removal as features
from rempart.features.databases import FeatureDatabases
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import materialize_rows
from rempart.models import removal as models
from rempart.models.tracking import session
from tests.integration.test_features import arrow, row
from tests.unit.features.stays import stays

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def tables(databases: FeatureDatabases) -> set[str]:
    found = set()
    for database in (databases.offline, databases.online):
        with psycopg.connect(database.postgresql_url()) as opened:
            found |= {t for (t,) in opened.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    return found


@pytest.mark.stores
def test_the_feature_tables_of_one_pipeline_go_and_it_can_be_loaded_again(feature_databases: FeatureDatabases) -> None:
    gone, kept = stays(f"gone{secrets.token_hex(3)}"), stays(f"kept{secrets.token_hex(3)}")
    for pipeline in (gone, kept):
        materialize_rows(feature_databases, pipeline, arrow([row(1, 0), row(2, 3)]).to_reader(), "s1", NOW)
    mine = {table for table in tables(feature_databases) if table.startswith(gone.name)}
    assert features.remove(feature_databases, gone) == len(mine) > 2
    assert features.remove(feature_databases, gone) == 0
    left = tables(feature_databases)
    assert not mine & left and any(table.startswith(kept.name) for table in left)
    with psycopg.connect(feature_databases.registry.postgresql_url()) as opened:
        projects = {name for (name,) in opened.execute("SELECT project_id FROM projects")}
    assert gone.name not in projects and kept.name in projects
    assert offline.find_snapshot(feature_databases, gone.name) is None
    assert materialize_rows(feature_databases, gone, arrow([row(1, 0)]).to_reader(), "s2", NOW).rows_online > 0
    features.remove(feature_databases, gone)
    features.remove(feature_databases, kept)


@pytest.mark.tracking
def test_a_model_and_its_experiment_go_and_the_names_are_free(platform: Platform) -> None:
    tracking, name = platform.tracking(), f"gone_{secrets.token_hex(4)}"
    for removal in ("a1", "a2"):
        with session(tracking) as client:
            run = client.create_run(client.create_experiment(name))
            model = client.create_logged_model(run.info.experiment_id, name="m", source_run_id=run.info.run_id)
            client.finalize_logged_model(model.model_id, "READY")
            client.create_registered_model(name)
            client.create_model_version(name, f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id)
            client.set_registered_model_alias(name, "champion", "1")
        aliases = {"1": ("champion",)}
        found = models.Registered(("1",), model=True, experiment=True, aliases=aliases)
        assert models.registered(tracking, name) == found
        models.remove(tracking, name, removal)
        models.remove(tracking, name, removal)
        assert models.registered(tracking, name) == models.Registered()
