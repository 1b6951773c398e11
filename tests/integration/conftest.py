"""Fixtures on real servers, built from the running stack's connections."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.features.databases import FeatureDatabases
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.models.tracking import session
from rempart.settings import sections
from rempart.settings.config import environment_connections
from rempart.settings.pipeline import ModelPipeline
from tests.unit.training import stage


@pytest.fixture(scope="session")
def feature_databases() -> Iterator[FeatureDatabases]:
    """A feature store in three scratch databases, made and dropped by the role that drills restores."""
    owner = environment_connections("pg_drill")
    names = [f"scratch_{secrets.token_hex(4)}_{part}" for part in ("registry", "offline", "online")]

    def each(act: Callable[[postgresql.Session, str], object]) -> None:
        # a connection for each use: tests that kill PostgreSQL run within this session
        with psycopg.connect(owner.postgresql_url(), autocommit=True, connect_timeout=60) as server:
            for name in names:
                act(server, name)

    def create(server: postgresql.Session, name: str) -> None:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))

    each(create)
    yield FeatureDatabases(*(replace(owner, schema=name) for name in names))
    each(postgresql.drop_database)


@pytest.fixture
def scratch(platform: Platform) -> Iterator[tuple[Platform, ModelPipeline]]:
    """The stack's MLflow; a pipeline name, buckets and a ledger of the test's own. (platform, pipeline)"""
    mark = f"train-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts")
    settings = platform.config.model_copy(update={"buckets": buckets})
    site = platform.active_site("personal")
    for bucket in (buckets.lake, buckets.artifacts):
        site.ensure_bucket(bucket, versioned=True)
    pipeline = stage.pipeline(mark.replace("-", "_"))
    yield replace(platform, config=settings, ledger_=MemoryLedger()), pipeline
    for bucket in (buckets.lake, buckets.artifacts):
        site.drop_bucket(bucket)
    with session(platform.tracking()) as client:
        if client.search_registered_models(filter_string=f"name = '{pipeline.name}'"):
            client.delete_registered_model(pipeline.name)
        if experiment := client.get_experiment_by_name(pipeline.name):
            client.delete_experiment(experiment.experiment_id)
