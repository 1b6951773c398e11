"""Secrets are created once and stay; ports may change; no secret is shown."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from rempart.deployment.setup import credentials, environment, paths
from rempart.errors import StackError
from rempart.ledger import keys
from rempart.settings import config
from rempart.settings.telemetry import TELEMETRY_OFF

ROOT = Path(__file__).resolve().parents[4]


def make(var: Path, offset: int = 0) -> paths.Stack:
    return paths.Stack(ROOT, var, config.load(ROOT / "rempart.yaml"), offset)


def test_secrets_are_kept_while_ports_move(tmp_path: Path) -> None:
    numbers = count()
    first = credentials.plan(make(tmp_path), {}, lambda: f"secret{next(numbers)}", lambda: "fernet")
    second = credentials.plan(make(tmp_path, 100), first, lambda: pytest.fail("made a new secret"), lambda: "other")  # type: ignore[arg-type]
    assert first.keys() == second.keys()
    for variable in first:
        if variable.startswith("AIRFLOW_CONN_"):
            before, after = json.loads(first[variable]), json.loads(second[variable])
            assert before["password"] == after["password"] and before["login"] == after["login"]
            assert before != after or variable.endswith(("LEDGER_KEY", "BACKUP_KEY")), "its port did not move"
        else:
            assert first[variable] == second[variable]


def test_every_connection_that_the_platform_needs_is_there(tmp_path: Path) -> None:
    stack = make(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    made = credentials.ensure(stack)
    names = [
        "s3_primary",
        "s3_haven",
        "mlflow",
        "airflow_api",
        "pg_backup",
        "pg_drill",
        "ledger_key",
        "backup_key",
        "s3_witness_haven",
        "s3_watch_haven",
        *(f"pg_{d}" for d in config.DATABASES),
    ]
    resolve = credentials.connections(stack, made)
    found = [resolve(name) for name in names]
    assert len({connection.password for connection in found}) == len(names), "a password is used twice"
    assert all(len(connection.password) >= 32 for connection in found)
    assert resolve("pg_ledger").schema == "ledger" and resolve("pg_drill").schema == "postgres"


def test_the_ledgers_key_is_replaced_in_two_steps_and_none_is_lost_between_them(tmp_path: Path) -> None:
    stack = make(tmp_path)
    first = keys.from_connection(credentials.connections(stack, credentials.ensure(stack))("ledger_key"))
    assert not credentials.adopt_ledger_key(stack)
    credentials.prepare_ledger_key(stack)
    between = credentials.connections(stack, credentials.ensure(stack))  # `rempart up`, in the middle of it
    new = keys.from_connection(between("ledger_key_next"))
    assert keys.from_connection(between("ledger_key")) == first != new
    credentials.prepare_ledger_key(stack)
    assert credentials.adopt_ledger_key(stack)
    after = credentials.connections(stack, credentials.ensure(stack))
    assert keys.from_connection(after("ledger_key")) == new
    text = stack.secrets.read_text(encoding="utf-8")
    assert first.id not in text and "LEDGER_KEY_NEXT" not in text and stack.secrets.stat().st_mode & 0o777 == 0o600


def test_the_file_is_private_and_an_open_one_is_refused(tmp_path: Path) -> None:
    stack = make(tmp_path)
    first = credentials.ensure(stack)
    assert stack.secrets.stat().st_mode & 0o777 == 0o600
    assert credentials.ensure(stack) == first == config.read_env_file(stack.secrets)
    stack.secrets.chmod(0o644)
    with pytest.raises(StackError, match="may be read by others"):
        credentials.ensure(stack)


def test_a_service_gets_the_stacks_settings_and_not_the_callers(tmp_path: Path) -> None:
    stack = make(tmp_path)
    secrets = credentials.ensure(stack)
    shell = {
        "PATH": "/bin",
        "AIRFLOW__CORE__EXECUTOR": "Celery",
        "PGHOST": "prod",
        "AWS_PROFILE": "prod",
        "AWS_CA_BUNDLE": "/ca.pem",
        "HTTPS_PROXY": "http://proxy:3128",
        "NO_PROXY": "intranet",
        "PROMETHEUS_MULTIPROCESS_DIR": "/tmp/of-another-user",
        "PROMETHEUS_MULTIPROC_DIR": "/tmp/of-another-user",
    }
    found = environment.of(stack, secrets, shell, "airflow-scheduler")
    assert found["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "/tmp/of-another-user" not in found.values()
    assert "PGHOST" not in found and "AWS_PROFILE" not in found and found["AWS_CA_BUNDLE"] == "/ca.pem"
    assert found["HTTPS_PROXY"] == "http://proxy:3128" and found["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert found["REMPART_SERVICE"] == f"{stack.id}:airflow-scheduler"
    for service in stack.services:
        assert TELEMETRY_OFF.items() <= environment.of(stack, secrets, shell, service).items()
    assert not any(v.startswith("AIRFLOW_CONN_") for v in environment.of(stack, secrets, shell, "mlflow"))


def test_tasks_know_mlflow_as_a_user_that_reads_and_other_components_do_not(tmp_path: Path) -> None:
    stack = make(tmp_path)
    secrets = credentials.ensure(stack)
    shell = {"PATH": "/bin", "MLFLOW_TRACKING_URI": "http://elsewhere"}
    found = environment.of(stack, secrets, shell, "airflow-scheduler")
    assert found["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{stack.ports['mlflow']}"
    assert found["MLFLOW_TRACKING_USERNAME"] == "rempart-reader"
    administrator = credentials.connections(stack, secrets)("mlflow").password
    assert found["MLFLOW_TRACKING_PASSWORD"] == secrets["REMPART_AIRFLOW_MLFLOW_PASSWORD"] != administrator
    for service in ("airflow-api-server", "airflow-triggerer", "airflow-dag-processor"):
        assert not any(name.startswith("MLFLOW_T") for name in environment.of(stack, secrets, shell, service))


def test_mlflow_works_at_a_site_with_a_key_of_its_own(tmp_path: Path) -> None:
    stack = make(tmp_path)
    secrets = credentials.ensure(stack)
    found = environment.mlflow(stack, secrets, {"PATH": "/bin"}, "primary")
    sites = credentials.connections(stack, secrets)
    assert found["AWS_ACCESS_KEY_ID"] == sites("s3_mlflow_primary").login
    assert sites("s3_primary").password not in found.values()
