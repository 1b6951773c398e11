"""Airflow's schema revisions, as its migration files state them."""

from __future__ import annotations

import pytest

from rempart.backup.drill import airflow_schema
from rempart.errors import BackupError


def test_the_installed_airflow_has_one_chain_of_revisions() -> None:
    known = airflow_schema.revisions()
    assert len(known) > 50 and sum(before is None for before in known.values()) == 1
    assert all(before in known for before in known.values() if before)
    step: str | None = airflow_schema.head(known)
    seen = 0
    while step:
        step, seen = known[step], seen + 1
    assert seen == len(known)


@pytest.mark.parametrize("versions", ["store/db_migrations/versions", "server/auth/db/migrations/versions"])
def test_mlflow_has_one_chain_of_revisions_for_each_of_its_schemas(versions: str) -> None:
    known = airflow_schema.revisions("mlflow", versions)
    assert airflow_schema.head(known) in known and sum(before is None for before in known.values()) == 1
    with pytest.raises(BackupError, match="package mlflow were not found"):
        airflow_schema.revisions("mlflow", "nowhere")


def test_the_tables_of_people_have_one_chain_of_revisions() -> None:
    known = airflow_schema.revisions("airflow", airflow_schema.PEOPLE[1])
    assert airflow_schema.head(known) in known and sum(before is None for before in known.values()) == 1


def test_two_ends_are_refused() -> None:
    with pytest.raises(BackupError, match="end in 2 revisions"):
        airflow_schema.head({"a": None, "b": "a", "c": "a"})
