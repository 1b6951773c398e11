"""A registered model with artifacts at any address: the platform's own MLflow server refuses such a version."""

from __future__ import annotations

from dataclasses import replace

from rempart.deployment.servers import postgresql
from rempart.deployment.setup import credentials, paths

_INSERT = """
INSERT INTO model_versions
    (name, version, creation_time, last_updated_time, current_stage, source, storage_location, status)
VALUES (%(name)s, 1, 0, 0, 'None', %(source)s, %(source)s, 'READY')
"""


def insert_version(name: str, source: str) -> None:
    """Write version 1 of a registered model into the stack's tracking database, as its superuser could."""
    stack = paths.current()
    administrator = credentials.superuser(stack, credentials.ensure(stack))
    with postgresql.connect(replace(administrator, schema="mlflow")) as session:
        session.execute(_INSERT, {"name": name, "source": source})
