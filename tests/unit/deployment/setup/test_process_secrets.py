"""The table of processes and secrets: every secret has a kind, and each process gets only its own kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rempart.deployment.compose import containers
from rempart.deployment.setup import credentials, environment, paths, process_secrets, profiles
from rempart.deployment.setup.process_secrets import HOLDS, KINDS, held, kind
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]
EXPORTED = {"AIRFLOW_CONN_CRM": "http://u:exported@crm", "AIRFLOW_CONN_LEDGER_KEY": "ledger://u:exported@x"}


@pytest.fixture
def stack(tmp_path: Path) -> paths.Stack:
    return paths.Stack(ROOT, tmp_path, config.load(ROOT / "rempart.yaml"))


def secrets_of(stack: paths.Stack) -> dict[str, str]:
    numbers = iter(range(10_000))
    return credentials.plan(stack, {}, lambda: f"secret-{next(numbers)}-", lambda: "secret-fernet-")


def kinds_in(text: str, secrets: dict[str, str], stack: paths.Stack) -> set[str | None]:
    passwords = {
        name: json.loads(secret)["password"] if secret.startswith("{") else secret for name, secret in secrets.items()
    }
    return {kind(name, stack.config) for name, password in passwords.items() if password in text}


def test_every_secret_has_a_kind_and_every_kind_a_process(stack: paths.Stack) -> None:
    for settings in (stack, containers.in_containers(stack)):
        assert [name for name in secrets_of(settings) if kind(name, stack.config) is None] == []
    names = {secret.name for secret in KINDS}
    assert set().union(*HOLDS.values()) == names
    assert {kind(name, stack.config) for name in ("PATH", "REMPART_HOME", "AIRFLOW_HOME")} == {None}


@pytest.mark.parametrize("executor", profiles.PARALLELISM)
@pytest.mark.parametrize("service", [*paths.AIRFLOW_COMPONENTS, paths.WORKER, "airflow-workload", "site-primary"])
def test_the_environment_of_a_process_holds_its_own_kinds_alone(
    stack: paths.Stack, service: str, executor: str
) -> None:
    inside = containers.in_containers(stack)
    secrets = secrets_of(inside)
    chosen = {profiles.EXECUTOR: executor, profiles.CHOSEN: "monitoring"}
    made = environment.of(inside, secrets, EXPORTED | chosen, service)
    found = kinds_in(json.dumps(made), secrets, inside)
    wanted = held(service, inside.config, executor)
    assert found <= wanted
    missing = wanted & {kind(name, inside.config) for name in secrets} - found
    assert missing <= ({"broker"} if executor == "LocalExecutor" else set()), missing
    assert ("AIRFLOW_CONN_CRM" in made) == ("team connections" in wanted), "what somebody exported is held, too"


def test_who_needs_no_signature_holds_no_signing_key(stack: paths.Stack) -> None:
    keys = {"signing key", "backup key", "site keys", "backup databases", "checkpoint key"}
    for process in ("airflow-api-server", "airflow-dag-processor", "airflow-triggerer"):
        assert not held(process, stack.config) & keys, process
    assert not held("mlflow", stack.config) & keys and "MLflow site keys" in held("mlflow", stack.config)
    assert keys <= held("airflow-scheduler", stack.config)
    assert not held("airflow-scheduler", stack.config, "CeleryExecutor") & keys
    assert not {"Airflow tokens", "Airflow sessions"} & held("airflow-worker", stack.config, "CeleryExecutor")


def test_the_scorer_reads_with_keys_of_its_own_and_holds_nothing_else(stack: paths.Stack) -> None:
    assert held("scorer", stack.config) == {"scorer keys", "scorer database"}
    assert not held("scorer", stack.config) & held("airflow-scheduler", stack.config)
    secrets = secrets_of(stack)
    given = process_secrets.given(secrets, held("scorer", stack.config), stack.config)
    assert set(given) == {f"AIRFLOW_CONN_{name}" for name in ("PG_SCORER", "S3_SCORER_PRIMARY", "S3_SCORER_HAVEN")}
    assert json.loads(given["AIRFLOW_CONN_PG_SCORER"])["login"] == "scorer"


def test_the_admins_password_is_with_the_api_server_only_where_that_checks_it(stack: paths.Stack) -> None:
    simple = stack.config.access.model_copy(update={"auth_manager": "simple"})
    other = replace(stack, config=stack.config.model_copy(update={"access": simple}))
    for deployed, holds in ((stack, False), (other, True)):
        assert ("Airflow admin" in held("airflow-api-server", deployed.config)) is holds
    assert process_secrets.given({"REMPART_NEW_SECRET": "x"}, frozenset(HOLDS["watchdog"]), stack.config) == {}
