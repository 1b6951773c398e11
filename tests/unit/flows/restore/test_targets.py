"""A sandbox has only names of its own; the live platform is a target of another type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import BackupError, ConnectionMissing
from rempart.flows.restore.targets import LiveTarget, Sandbox, live_names
from rempart.settings import config
from rempart.settings.config import DATABASES, Connection
from tests.memory_site import MemorySite

LOADED = config.load()
SITE = MemorySite("haven")
DRILL = Connection("pg_drill", "postgres", "db", 5432, "drill", "p", "postgres")


def resolve(name: str) -> Connection:
    """The connections of a platform whose MLflow database has another name on its server."""
    schema = "tracking_prod" if name == "pg_mlflow" else name.removeprefix("pg_")
    return Connection(name, "postgres", "db", 5432, name.removeprefix("pg_"), "p", schema)


LIVE = live_names(LOADED, resolve)


def sandbox(
    databases: Mapping[str, str] | None = None,
    buckets: Mapping[str, str] | None = None,
    administrator: Connection = DRILL,
) -> Sandbox:
    return Sandbox(administrator, SITE, databases or {}, buckets or {}, LIVE)


@pytest.mark.parametrize("name", [*DATABASES, "tracking_prod", "postgres", "template1"])
def test_a_sandbox_has_no_live_database(name: str) -> None:
    with pytest.raises(BackupError, match=f"Database '{name}' belongs to the running platform"):
        sandbox({"mlflow": name})


@pytest.mark.parametrize("name", sorted(map(str, LOADED.buckets.model_dump().values())))
def test_a_sandbox_has_no_live_bucket(name: str) -> None:
    with pytest.raises(BackupError, match=f"Bucket '{name}' belongs to the running platform"):
        sandbox(buckets={"artifacts": name})


@pytest.mark.parametrize("name", DATABASES)
def test_a_sandbox_is_not_built_on_a_live_connection(name: str) -> None:
    with pytest.raises(BackupError, match=f"'pg_{name}' of a sandbox leads to database"):
        sandbox({"airflow": "drill_x_airflow"}, administrator=resolve(f"pg_{name}"))


def test_a_sandbox_gives_two_parts_no_common_name_and_none_that_it_was_not_given() -> None:
    with pytest.raises(BackupError, match="share the database 'drill_x'"):
        sandbox({"mlflow": "drill_x", "airflow": "drill_x"})
    made = sandbox({"mlflow": "drill_x_mlflow"}, {"artifacts": "drill-x"})
    assert made.connection("mlflow") == dataclasses.replace(DRILL, schema="drill_x_mlflow")
    assert made.bucket("artifacts") == "drill-x" and made.owner("mlflow") is None
    for wrong in (lambda: made.bucket("lake"), lambda: made.connection("airflow")):
        with pytest.raises(BackupError, match="The sandbox has no"):
            wrong()


@given(st.text(max_size=70))
def test_every_name_of_a_sandbox_is_its_own_or_refused(name: str) -> None:
    try:
        made = sandbox({"mlflow": name})
    except BackupError:
        return
    assert made.connection("mlflow").schema == name not in LIVE.databases


def test_a_connection_that_is_missing_here_hides_no_other_live_name() -> None:
    def some(name: str) -> Connection:
        if name == "pg_airflow":
            raise ConnectionMissing("no", "none")
        return resolve(name)

    assert live_names(LOADED, some) == LIVE


def test_the_live_platform_fills_each_database_as_its_owner() -> None:
    opened = []

    def open_site() -> MemorySite:
        opened.append(SITE)
        return SITE

    live = LiveTarget(DRILL, resolve, {"lake": "lake-of-ours"}, open_site)
    assert live.connection("mlflow") == dataclasses.replace(resolve("pg_mlflow"), schema="mlflow")
    assert live.connection("ledger") == dataclasses.replace(DRILL, schema="ledger")
    assert (live.owner("ledger"), live.acts_as("ledger"), live.acts_as("mlflow")) == ("ledger_owner",) * 2 + (None,)
    assert live.bucket("lake") == "lake-of-ours" and not opened
    assert live.site is SITE and live.site is SITE and len(opened) == 1
