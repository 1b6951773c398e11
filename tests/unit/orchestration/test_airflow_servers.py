"""The servers in Airflow's own configuration are reachable; errors in it are reported without its passwords."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIST = """
import json, os, sys
import airflow  # with its defaults: what is set below may need providers that are not installed
os.environ.update(json.loads(sys.argv[1]))
from rempart.errors import ConfigError
from rempart.orchestration.airflow_servers import airflow_destinations
try:
    print(json.dumps({one.why: [one.host, one.port] for one in airflow_destinations()}))
except ConfigError as error:
    print(json.dumps({"error": str(error)}))
"""


def listed(tmp_path: Path, **variables: str) -> dict[str, list[object]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "REMPART", "KUBERNETES", "OTEL"))}
    env |= {"REMPART_HOME": str(ROOT), "REMPART_VAR": str(tmp_path / "var"), "AIRFLOW_HOME": str(tmp_path / "airflow")}
    done = subprocess.run(
        [sys.executable, "-c", LIST, json.dumps(variables)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_server_of_airflows_configuration_is_listed(tmp_path: Path) -> None:
    found = listed(
        tmp_path,
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql+psycopg://airflow:hunter2@db.team.eu/airflow",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL="https://airflow.team.eu/execution/",
        AIRFLOW__API__BASE_URL="https://airflow.team.eu:8443",
        AIRFLOW__CORE__EXECUTOR="CeleryExecutor",
        AIRFLOW__CELERY__BROKER_URL="redis://:hunter2@queue.team.eu/0",
        AIRFLOW__CELERY__RESULT_BACKEND="db+postgresql://airflow:hunter2@db.team.eu:6432/airflow",
        AIRFLOW__METRICS__STATSD_ON="True",
        AIRFLOW__METRICS__STATSD_HOST="statsd.team.eu",
        AIRFLOW__SMTP__SMTP_HOST="mail.team.eu",
        AIRFLOW__SMTP__SMTP_PORT="587",
        AIRFLOW__LOGGING__REMOTE_LOGGING="True",
        AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID="s3_logs",
        AIRFLOW_CONN_S3_LOGS='{"conn_type": "aws", "extra": {"endpoint_url": "https://s3.team.eu"}}',
        OTEL_EXPORTER_OTLP_ENDPOINT="http://otel.team.eu:4318",
        KUBERNETES_SERVICE_HOST="10.96.0.1",
        KUBERNETES_SERVICE_PORT="443",
    )
    found.pop("this machine")
    assert {why.removeprefix("Airflow's "): place for why, place in found.items()} == {
        "[database] sql_alchemy_conn": ["db.team.eu", 5432],
        "[core] execution_api_server_url": ["airflow.team.eu", 443],
        "[api] base_url": ["airflow.team.eu", 8443],
        "[celery] broker_url": ["queue.team.eu", 6379],
        "[celery] result_backend": ["db.team.eu", 6432],
        "[metrics] statsd_host": ["statsd.team.eu", 8125],
        "[smtp] smtp_host": ["mail.team.eu", 587],
        "[logging] remote_log_conn_id": ["s3.team.eu", 443],
        "OTEL_EXPORTER_OTLP_ENDPOINT": ["otel.team.eu", 4318],
        "Kubernetes API server": ["10.96.0.1", 443],
    }


@pytest.mark.parametrize(
    "variables",
    [
        {"AIRFLOW__CELERY__BROKER_URL": "redis://:hunter2@queue.team.eu:port/0"},
        {"AIRFLOW__SECRETS__BACKEND_KWARGS": '{"token": "hunter2"'},
    ],
)
def test_a_broken_setting_is_named_without_its_value(variables: dict[str, str], tmp_path: Path) -> None:
    (name,) = variables
    celery = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW__SECRETS__BACKEND": ""}
    told = str(listed(tmp_path, **celery, **variables)["error"])
    assert name.rpartition("__")[2].lower() in told
    assert "hunter2" not in told


def test_without_celery_its_provider_s_default_server_is_not_listed(tmp_path: Path) -> None:
    found = listed(tmp_path, AIRFLOW__CORE__EXECUTOR="LocalExecutor")
    assert not [why for why in found if "celery" in why]


def test_the_way_out_is_listed_in_containers_and_no_other_proxy_is(tmp_path: Path) -> None:
    proxy = {"HTTPS_PROXY": "http://proxy.team.eu:3128"}
    assert "the egress proxy" not in listed(tmp_path, **proxy)
    assert listed(tmp_path, REMPART_CONTAINERS="1", **proxy)["the egress proxy"] == ["egress", 13128]
