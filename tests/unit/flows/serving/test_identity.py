"""The scorer's own role and keys."""

from __future__ import annotations

import pytest

from rempart.errors import ConnectionMissing
from rempart.flows.serving.identity import reading
from rempart.settings.config import SCORER_READS, Connection, load
from tests.unit.training import stage

CONFIG = load(stage.project_file("rempart.yaml"))
KNOWN = ("pg_scorer", "s3_scorer_primary", "s3_primary", "s3_haven", "pg_ledger", "pg_mlflow")


def resolve(name: str) -> Connection:
    if name not in KNOWN:
        raise ConnectionMissing(f"Connection '{name}' is not defined", "Define it.")
    return Connection(name, "any", login=name, schema="own")


def test_it_reads_databases_as_its_own_role_and_a_site_with_its_own_key() -> None:
    of = reading(resolve, CONFIG)
    for database in SCORER_READS:
        assert (of(f"pg_{database}").login, of(f"pg_{database}").schema) == ("pg_scorer", database)
    assert of("s3_primary").login == "s3_scorer_primary"
    assert of("s3_haven").login == "s3_haven", "a site of the team's own without such a key"
    assert of("pg_mlflow").login == "pg_mlflow", "another database is not its business"
    with pytest.raises(ConnectionMissing):
        of("s3_other")
