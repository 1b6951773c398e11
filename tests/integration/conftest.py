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
from rempart.settings.config import environment_connections


@pytest.fixture(scope="session")
def feature_databases() -> Iterator[FeatureDatabases]:
    """A feature store in three scratch databases, made and dropped by the role that drills restores."""
    owner = environment_connections("pg_drill")
    names = [f"scratch_{secrets.token_hex(4)}_{part}" for part in ("registry", "offline", "online")]

    def each(act: Callable[[postgresql.Session, str], object]) -> None:
        # a connection for each use: tests that kill PostgreSQL run within this session
        with psycopg.connect(owner.postgresql_url(), autocommit=True, connect_timeout=10) as server:
            for name in names:
                act(server, name)

    def create(server: postgresql.Session, name: str) -> None:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))

    each(create)
    yield FeatureDatabases(*(replace(owner, schema=name) for name in names))
    each(postgresql.drop_database)
