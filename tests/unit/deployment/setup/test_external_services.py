"""D7: an external service is tried and removed again. The secrets of the existing stores never change."""

from __future__ import annotations

import dataclasses
import json
from itertools import count
from pathlib import Path

import pytest

from rempart.deployment.compose import containers
from rempart.deployment.kubernetes import cluster
from rempart.deployment.setup import credentials, environment, paths
from rempart.errors import ConnectionMissing, StackError
from rempart.settings import config
from rempart.settings.sections import External, StackService

ROOT = Path(__file__).resolve().parents[4]
CONNECTIONS = {
    "postgresql": "pg_admin",
    "primary": "s3_primary",
    "haven": "s3_haven",
    "mlflow": "mlflow",
    "airflow": "airflow_api",
}


def stack_of(var: Path, *external: str) -> paths.Stack:
    """The project's stack, with these services external."""
    found = config.load(ROOT / "rempart.yaml")
    there = {
        name: StackService(external=External(url=f"https://{name}.example.eu", connection=CONNECTIONS[name]))
        for name in external
    }
    return paths.Stack(ROOT, var, found.model_copy(update={"services": {**found.services, **there}}), 0)


def secrets_of(made: dict[str, str]) -> dict[str, object]:
    """Login and password of every connection, and every other secret: not where a connection leads to."""
    return {name: credentials._secret(value) for name, value in made.items()}


@pytest.mark.parametrize("service", CONNECTIONS)
def test_d7_a_service_that_comes_back_has_the_secrets_of_its_store(tmp_path: Path, service: str) -> None:
    before = credentials.ensure(stack_of(tmp_path))
    tried = credentials.ensure(stack_of(tmp_path, service))
    assert credentials.ensure(stack_of(tmp_path, service)) == tried
    back = credentials.ensure(stack_of(tmp_path))
    assert secrets_of(back) == secrets_of(before)
    assert not any(name.startswith(credentials.KEPT) for name in back)


def test_while_a_service_is_external_its_own_connection_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials.ensure(stack_of(tmp_path))
    made = credentials.ensure(tried := stack_of(tmp_path, "mlflow"))
    monkeypatch.delenv("AIRFLOW_CONN_MLFLOW", raising=False)
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))  # else the secrets of another stack are found
    with pytest.raises(ConnectionMissing):
        credentials.connections(tried, made)("mlflow")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW", json.dumps({"conn_type": "http", "host": "mlflow.example.eu"}))
    assert credentials.connections(tried, made)("mlflow").host == "mlflow.example.eu"
    kept = [value for name, value in made.items() if name.startswith(credentials.KEPT)]
    held = environment.of(tried, made, {"PATH": "/bin"}, "airflow-scheduler")
    assert kept and not any(json.loads(value)["password"] in str(held) for value in kept if value.startswith("{"))


def test_d7_secrets_that_are_gone_are_not_made_anew_for_a_database_that_is_there(tmp_path: Path) -> None:
    stack = stack_of(tmp_path)
    before = credentials.ensure(stack)
    stack.postgresql_data.mkdir(parents=True)
    (stack.postgresql_data / "PG_VERSION").write_text("18")
    assert credentials.ensure(stack) == before
    stack.secrets.unlink()
    with pytest.raises(StackError, match="REMPART_POSTGRESQL_PASSWORD"):
        credentials.ensure(stack)
    assert not stack.secrets.exists()


def test_containers_have_their_own_database_back_and_not_the_team_s(tmp_path: Path) -> None:
    """In containers, connections that were given stand in the file of secrets beside those that were made."""
    numbers = count()

    def plan(existing: dict[str, str], *external: str) -> dict[str, str]:
        inside = containers.in_containers(stack_of(tmp_path, *external))
        return credentials.plan(inside, existing, lambda: f"secret{next(numbers)}", lambda: f"fernet{next(numbers)}")

    team = {"conn_type": "postgres", "host": "pg.example.eu", "login": "tenant", "password": "theirs", "schema": "m"}
    given = {"AIRFLOW_CONN_PG_MLFLOW": json.dumps(team), "AIRFLOW_CONN_PG_LEDGER": "postgresql://a:b@pg.example.eu/x"}
    before = plan({})
    tried = plan(plan(before, "postgresql") | given, "postgresql") | given
    assert secrets_of(plan(tried)) == secrets_of(before)
    assert not any(name.startswith(credentials.KEPT) for name in plan(plan({}, "postgresql") | given, "postgresql"))


def test_a_cluster_has_its_own_mlflow_back(tmp_path: Path) -> None:
    from tests.unit.deploy.platform_files import given
    from tests.unit.deploy.platform_files import stack as declared

    inside = cluster.in_cluster(declared(tmp_path))
    before = cluster.plan(inside, {}, given())
    theirs = {"conn_type": "http", "host": "mlflow.example.eu", "login": "tenant", "password": "theirs"}
    tried = before
    for _ in range(2):
        tried = cluster.plan(inside, tried, given() | {"AIRFLOW_CONN_MLFLOW": json.dumps(theirs)})
        assert json.loads(tried["AIRFLOW_CONN_MLFLOW"])["password"] == "theirs"
    assert secrets_of(cluster.plan(inside, tried, given())) == secrets_of(before)
    there = StackService(external=External(url="https://mlflow.example.eu", connection="mlflow"))
    services = {**inside.config.services, "mlflow": there}
    outside = dataclasses.replace(inside, config=inside.config.model_copy(update={"services": services}))
    for _ in range(2):
        tried = cluster.plan(outside, tried, given() | {"AIRFLOW_CONN_MLFLOW": json.dumps(theirs)})
        assert cluster.files(outside, tried)["mlflow.env"]
    assert secrets_of(cluster.plan(inside, tried, given())) == secrets_of(before)
