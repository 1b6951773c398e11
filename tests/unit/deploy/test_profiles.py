"""Profiles of docker-compose.yml: one setting selects the executor, workers reach the sites, no port is open."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from rempart.deployment.compose import containers, health_check
from rempart.deployment.setup import credentials, environment, paths, profiles, services
from rempart.deployment.setup.preflight import OPTIONAL_PORTS
from rempart.errors import StackError
from rempart.settings.config import read_env_file
from tests.certificates import certificates
from tests.unit.deploy.test_compose import COMPOSE, DOCKERFILE, IMAGES, ROOT, SERVICES, mounted, stack

EXECUTORS: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "executors.yaml").read_text("utf-8"))["services"]
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer", "worker")
CELERY = {profiles.EXECUTOR: "CeleryExecutor", profiles.CHOSEN: "celery,monitoring", "HOSTNAME": "4f2a"}
PAGE = (IMAGES / "monitoring.html").read_text("utf-8")


def made(tmp_path: Path) -> tuple[paths.Stack, dict[str, str]]:
    inside = containers.in_containers(stack(tmp_path))
    return inside, credentials.plan(inside, {}, credentials.new_token, credentials.new_fernet_key)


def of(tmp_path: Path, inherited: dict[str, str], service: str = "airflow-scheduler") -> dict[str, str]:
    inside, secrets = made(tmp_path)
    return environment.of(inside, secrets, inherited, service)


def test_nothing_of_a_profile_starts_unless_it_is_chosen() -> None:
    ours = set(profiles.PROFILES)
    chosen = {
        name: service["profiles"] for name, service in SERVICES.items() if set(service.get("profiles", [])) & ours
    }
    assert chosen == {
        "broker": ["celery"], "worker": ["celery"], "monitoring": ["monitoring"], "scorer": ["serving"],
    }  # fmt: skip
    needed = {
        name for service in SERVICES.values() if "profiles" not in service for name in service.get("depends_on", {})
    }
    assert not needed & set(chosen)


def test_init_chooses_profiles_and_the_executor_with_them_and_keeps_them(tmp_path: Path) -> None:
    settings, ours = tmp_path / ".env", stack(tmp_path)
    containers.initialise(ours, settings, {}, ["monitoring", "celery"])
    for chosen in (None, ["celery", "monitoring"]):
        containers.initialise(ours, settings, {}, chosen)
        found = read_env_file(settings)
        assert (found["COMPOSE_PROFILES"], found["REMPART_EXECUTOR"]) == ("celery,monitoring", "CeleryExecutor")
    containers.initialise(ours, settings, {}, [""])
    found = read_env_file(settings)
    assert (found["COMPOSE_PROFILES"], found["REMPART_EXECUTOR"]) == ("", "LocalExecutor")
    with pytest.raises(StackError, match="no profile flower") as refused:
        containers.initialise(ours, settings, {}, ["celery", "flower"])
    assert "celery, monitoring" in refused.value.hint


def test_all_of_airflow_is_told_the_same_executor() -> None:
    told = {name: SERVICES[name]["environment"] for name in AIRFLOW}
    assert len({json.dumps(settings) for settings in told.values()}) == 1
    assert SERVICES["scheduler"]["extends"]["service"] == told["scheduler"][profiles.EXECUTOR]
    assert set(EXECUTORS) == set(profiles.PARALLELISM) - {"KubernetesExecutor"}


def test_only_what_runs_tasks_reaches_the_sites() -> None:
    sites = {"primary", "haven"}
    running = {name for name in AIRFLOW if sites & set(SERVICES[name]["networks"])}
    assert running == {"worker"}
    assert set(EXECUTORS["LocalExecutor"]["networks"]) == {*sites, "outward"}
    assert EXECUTORS["CeleryExecutor"]["networks"] == ["queue"]
    assert {name for name, service in SERVICES.items() if "queue" in service.get("networks", [])} == {
        "broker",
        "worker",
    }
    assert SERVICES["broker"]["networks"] == ["queue"] and SERVICES["monitoring"]["networks"] == ["monitoring"]
    assert COMPOSE["networks"]["queue"]["internal"] and COMPOSE["networks"]["monitoring"]["internal"]


def test_a_worker_has_time_to_end_what_it_runs() -> None:
    assert SERVICES["worker"]["stop_grace_period"] == "10m"
    command = services.service(containers.in_containers(stack(Path("/nowhere"))), paths.WORKER).command
    assert command[-3:] == ("celery", "worker", "--skip-serve-logs")


def test_a_worker_that_would_get_nothing_to_do_says_so(tmp_path: Path) -> None:
    inside, _ = made(tmp_path)
    profiles.check_worker(inside, CELERY)
    with pytest.raises(StackError, match="LocalExecutor") as refused:
        profiles.check_worker(inside, {})
    assert "--profiles celery" in refused.value.hint
    with pytest.raises(StackError, match="'Celery'"):
        profiles.executor(inside, {profiles.EXECUTOR: "Celery"})


def test_the_embedded_stack_runs_its_own_tasks_whatever_the_shell_says(tmp_path: Path) -> None:
    ours = stack(tmp_path)
    secrets = credentials.plan(ours, {}, credentials.new_token, credentials.new_fernet_key)
    found = environment.of(ours, secrets, CELERY, "airflow-scheduler")
    assert found["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor" and "AIRFLOW__METRICS__OTEL_ON" not in found
    assert profiles.BROKER_PASSWORD not in secrets and paths.WORKER not in ours.services


def test_scheduler_and_workers_meet_at_the_broker_with_a_password_that_it_knows_by_its_hash(tmp_path: Path) -> None:
    inside, secrets = made(tmp_path)
    found = environment.of(inside, secrets, CELERY, paths.WORKER)
    address = re.fullmatch(r"redis://airflow:(.+)@broker:(\d+)/0", found["AIRFLOW__CELERY__BROKER_URL"])
    assert address and int(address[2]) == OPTIONAL_PORTS["broker"]
    given = containers.files(inside, secrets, certificates(inside))
    lines = given["broker.conf"].splitlines()
    assert unquote(address[1]) == secrets[profiles.BROKER_PASSWORD] not in given["broker.conf"]
    (user,) = [line for line in lines if line.startswith("user airflow ")]
    assert f"#{hashlib.sha256(address[1].encode()).hexdigest()}" in user and "-@dangerous" in user
    assert "user default reset" in lines
    assert {'save ""', "appendonly no", "maxmemory-policy noeviction"} <= set(lines), "nothing on disk, nothing dropped"
    knowing = {name for name in SERVICES if any(address[1] in given.get(file, "") for file in mounted(name))}
    assert {"scheduler", "worker"} <= knowing and not {"broker", "gate", "mlflow", "postgres"} & knowing
    assert found["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+postgresql+psycopg://airflow:")


def test_metrics_are_pushed_with_a_password_and_only_if_there_is_a_server(tmp_path: Path) -> None:
    assert not [name for name in of(tmp_path, {profiles.CHOSEN: "celery"}) if name.startswith("OTEL_")]
    inside, secrets = made(tmp_path)
    found = environment.of(inside, secrets, CELERY, paths.WORKER)
    name, _, value = found["OTEL_EXPORTER_OTLP_METRICS_HEADERS"].partition("=")
    kind, _, login = unquote(value).partition(" ")
    password = containers.files(inside, secrets, certificates(inside))["monitoring.password"]
    assert (name, kind, base64.b64decode(login).decode()) == ("Authorization", "Basic", f"admin:{password}")
    assert found["OTEL_RESOURCE_ATTRIBUTES"] == "service.instance.id=worker@4f2a"
    port = OPTIONAL_PORTS["monitoring"]
    assert found["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] == f"http://monitoring:{port}/opentelemetry/v1/metrics"


def test_children_that_repeat_their_parents_metrics_are_left_out() -> None:
    rules = yaml.safe_load((IMAGES / "relabel.yml").read_text("utf-8"))
    (kept,) = [rule["regex"] for rule in rules if rule["action"] == "keep"]
    assert re.fullmatch(kept, "scheduler@4f2a") and not re.fullmatch(kept, "2f0c7d3e-8a51-4a0e-9f57-0d8c0e9c5a11")


def test_what_the_server_of_metrics_keeps_is_bounded_and_behind_a_password() -> None:
    (command,) = [line for line in re.findall(r"(?s)CMD (\[.*?\])", DOCKERFILE) if "victoria-metrics" in line]
    words = json.loads(command.replace("\\\n", ""))
    for option in ("-retentionPeriod", "-storage.maxDailySeries", "-storage.minFreeDiskSpaceBytes"):
        assert any(word.startswith(f"{option}=") for word in words), option
    assert "-httpAuth.password=file:///run/secrets/monitoring.password" in words
    assert f"-httpListenAddr=:{OPTIONAL_PORTS['monitoring']}" in words


def test_the_page_loads_nothing_and_cannot_be_given_markup() -> None:
    assert not re.search(r"\bsrc=|<link|@import|url\(|\bimport\b", PAGE)
    assert set(re.findall(r"https?://[^\"'` ]+", PAGE)) == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", PAGE)
    gate = (IMAGES / "gate.cfg").read_text("utf-8")
    assert "default-src 'none'" in gate and "{ req.hdr(authorization) -m found }" in gate
    assert len(PAGE) < 15_000, "haproxy answers out of one buffer of 16 KiB"


@contextmanager
def broker(*lines: bytes) -> Iterator[tuple[str, int]]:
    """Answers each who comes with these lines."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"".join(line + b"\r\n" for line in lines))

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()


def beat(worker: str) -> bytes:
    body = base64.b64encode(json.dumps({"hostname": worker, "active": 0}).encode()).decode()
    return json.dumps({"body": body, "headers": {}}).encode()


@pytest.mark.parametrize(("worker", "found"), [("celery@4f2a", True), ("celery@0b11", False)])
def test_a_worker_is_healthy_by_its_own_heartbeat(worker: str, found: bool) -> None:
    with broker(b"+OK", b"*3", b"$9", b"subscribe", b":1", b"$7", b"message", beat(worker)) as place:
        assert health_check.beats(place, "secret", "4f2a", patience=2) is found


def test_a_refusal_of_the_broker_is_told() -> None:
    with broker(b"-WRONGPASS invalid") as place, pytest.raises(OSError, match="WRONGPASS"):
        health_check.beats(place, "wrong", "4f2a", patience=2)
