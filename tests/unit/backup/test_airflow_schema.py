"""Airflow's schema revisions, as its migration files state them."""

from __future__ import annotations

import pytest

from rempart.backup import airflow_schema
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


def test_two_ends_are_refused() -> None:
    with pytest.raises(BackupError, match="end in 2 revisions"):
        airflow_schema.head({"a": None, "b": "a", "c": "a"})
