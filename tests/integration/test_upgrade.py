"""`rempart stack upgrade --check` on a real stack: its findings, and that it changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psycopg
import pytest

from rempart.cli import upgrade
from rempart.deployment.embedded import release
from rempart.deployment.servers import schemas
from rempart.deployment.setup import paths
from rempart.errors import UpgradeError
from rempart.flows.shared.platform import Platform
from rempart.flows.upgrade import upgrade_facts
from rempart.settings import config
from tests import switchovers

pytestmark = pytest.mark.stack


def test_the_release_that_runs_finds_nothing_to_do(stack: paths.Stack, capsys: pytest.CaptureFixture[str]) -> None:
    upgrade.take_over(stack, check=True, yes=False)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "This release already runs: nothing to do."
    assert {line.split()[0] for line in told[:-1]} == {"ok"}
    assert any("schema of MLflow's users" in line for line in told) and any("records verify" in line for line in told)
    assert not (stack.var / "upgrade.json").exists()


@pytest.mark.full
def test_a_platform_whose_code_was_replaced_in_its_folder_is_not_upgraded(
    stack: paths.Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    real = release.recorded(stack)
    assert real
    release.record(stack, dataclasses.replace(real, packages={**real.packages, "mlflow": "3.16.1"}))
    try:
        with pytest.raises(UpgradeError, match="cannot take over"):
            upgrade.take_over(stack, check=False, yes=True)
    finally:
        release.record(stack, real)
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("refuses   release") for line in told)
    assert any("3.16.1 to" in line for line in told)


def test_a_continuity_database_that_another_release_made_is_named(stack: paths.Stack) -> None:
    with switchovers.generations(config.environment_connections("pg_drill")) as connection:
        assert upgrade_facts.other_tables(stack.root, connection) == ()
        with psycopg.connect(connection.postgresql_url(), autocommit=True) as session:
            session.execute("ALTER TABLE active_site RENAME COLUMN switchover TO journey")
        (table,) = upgrade_facts.other_tables(stack.root, connection)
        assert (table.name, table.lacks, table.has) == ("active_site", ("switchover",), ("journey",))


def test_every_schema_of_a_new_stack_is_at_the_newest_revision(stack: paths.Stack, platform: Platform) -> None:
    found = list(schemas.read(platform.connections, ("airflow", "mlflow")))
    assert [schema.name for schema in found] == ["Airflow", "Airflow's users", "MLflow", "MLflow's users"]
    assert all(schema.revision == schema.head for schema in found)
    assert release.recorded(stack) == release.of_checkout(Path(stack.root), stack.python)
