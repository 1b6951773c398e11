"""The scorer's reads of an online store that is slow, was restarted, or is away."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from rempart.errors import DatabaseUnavailable
from rempart.features.databases import FeatureDatabases
from rempart.features.prediction.plan import plan
from rempart.flows.serving import stored_features
from rempart.flows.serving.stored_features import StoredFeatures
from tests.integration.test_features import NOW, random_rows
from tests.integration.test_online_store import refresh
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores


def test_the_scorer_does_not_wait_for_a_store_that_is_slow_or_was_restarted(
    feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = stays("online_slow")
    monkeypatch.setattr(stored_features, "PATIENCE", 60)
    refresh(feature_databases, pipeline, random_rows(3, 10))
    (stored,) = plan(pipeline, [name for name in pipeline.model_inputs() if name.startswith("trend__")]).stored
    server, single = [feature_databases.online], StoredFeatures(lambda: server[0], pipeline)
    assert single.of(stored, ["a"], NOW) is not None
    with psycopg.connect(feature_databases.online.postgresql_url()) as other, monkeypatch.context() as impatient:
        impatient.setattr(stored_features, "PATIENCE", 5)
        hurried = StoredFeatures(lambda: server[0], pipeline)
        other.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(stored.table.online.name)))
        with pytest.raises(DatabaseUnavailable, match="it took longer than 5 s"):
            hurried.of(stored, ["a"], NOW)
        hurried.close()
    with psycopg.connect(feature_databases.online.postgresql_url()) as other:
        ours = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user AND pid <> %s"
        )
        other.execute(ours, (other.info.backend_pid,))
    assert single.of(stored, ["a"], NOW) is not None, "it is opened again"
    single.close()
    server[0] = replace(feature_databases.online, port=1)
    with pytest.raises(DatabaseUnavailable, match="no answer"):
        single.of(stored, ["a"], NOW)
