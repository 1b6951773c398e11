"""A task's log outlives its pod: the task process stores it at the active site, and an API server reads it there.

Pods share no volume, so the task and the API server here have folders of their own, and the settings of pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from rempart.airflow_api import AirflowApi
from rempart.deployment.compose import containers
from rempart.deployment.setup import paths, preflight, services
from rempart.flows.governance.evidence import record_configuration
from rempart.flows.governance.task_logs import PREFIX
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_pem
from rempart.settings import config
from tests.integration.test_probes_of_pods import variables

pytestmark = [pytest.mark.stack, pytest.mark.full]

DAG_ID, TASK = "probe_sites", "probe"
MAKE_WORKLOAD = """
import sys
from sqlalchemy import select
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstance import TaskInstance
from airflow.utils import timezone
from airflow.utils.session import create_session
with create_session() as session:
    ti = session.scalars(select(TaskInstance).where(TaskInstance.run_id == sys.argv[1])).one()
    ti.state, ti.try_number, ti.queued_dttm = "queued", 1, timezone.utcnow()
    session.flush()
    print(ExecuteTask.make(ti, generator=LocalExecutor(parallelism=1).jwt_generator).model_dump_json())
"""
"""What the scheduler does for its executor: the arguments of a task's pod."""


@pytest.fixture
def run_id(stack: paths.Stack) -> Iterator[str]:
    """A run that the stack's own scheduler does not begin, for it is due tomorrow."""
    api = AirflowApi(config.environment_connections("airflow_api"))
    due = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"logical_date": None, "run_after": due}
    made = str(api._call("POST", f"/api/v2/dags/{DAG_ID}/dagRuns", json=body)["dag_run_id"])
    yield made
    answer = api._http.request("DELETE", f"/api/v2/dags/{DAG_ID}/dagRuns/{made}", timeout=180)
    assert answer.status_code == 204, answer.text


def test_a_tasks_log_is_read_from_the_site_when_its_pod_is_gone(
    stack: paths.Stack, platform: Platform, tmp_path: Path, run_id: str
) -> None:
    scheduler = variables(stack, tmp_path / "scheduler", "airflow-scheduler")
    command = [sys.executable, "-c", MAKE_WORKLOAD, run_id]
    workload = subprocess.run(command, env=scheduler, capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]
    image = "airflow.sdk.execution_time.execute_workload"
    pod = variables(stack, tmp_path / "pod", "airflow-workload", AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT="120")
    done = subprocess.run(
        [sys.executable, "-m", image, "--json-string", workload], env=pod, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    name = json.loads(workload)["log_path"]
    assert not [file for file in (tmp_path / "pod").rglob("*") if file.is_file()], "the file is gone, as a pod's is"
    site, bucket = platform.site(platform.active().site, "internal"), platform.config.buckets.artifacts
    body = site.read(bucket, f"{PREFIX}/{name}").decode()
    secrets = config.read_env_file(stack.secrets)
    for variable in ("AIRFLOW_CONN_S3_PRIMARY", "AIRFLOW_CONN_LEDGER_KEY", "REMPART_AIRFLOW_FERNET_KEY"):
        value = secrets[variable]
        assert (json.loads(value)["password"] if value.startswith("{") else value) not in body, variable

    port = next(port for port in range(stack.ports["airflow"] + 50, 60000) if preflight.port_is_free(port))
    server = variables(stack, tmp_path / "api", "airflow-api-server", AIRFLOW__API__PORT=str(port))
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{TASK}/logs/1"
    told, place = served(stack, server, port, path), f"{bucket}/{PREFIX}/{name} at site '{site.name}'"
    assert place in told
    assert json.dumps(json.loads(body.strip().splitlines()[-1])["event"])[1:-1] in told
    # the stack's own API server, which reads this machine's disk, has none of it
    assert place not in served(stack, None, stack.ports["airflow"], path)


def test_the_ledgers_public_key_is_had_from_the_api_servers_pod(
    stack: paths.Stack, platform: Platform, tmp_path: Path
) -> None:
    """The how-to takes it from there: a restore believes no point without it."""
    record_configuration(platform.config, platform.ledger)  # a ledger that has begun
    pod = tmp_path / "pod"
    pod.mkdir()
    held = containers.secrets_of(replace(stack, cluster=True), config.read_env_file(stack.secrets), "api-server")
    (pod / "secrets.env").write_text(held)
    command = [sys.executable, "-m", "rempart.cli", "ledger", "export", str(tmp_path / "export")]
    env = {"PATH": os.environ["PATH"], "REMPART_HOME": str(stack.root), "REMPART_VAR": str(pod)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "export" / "public.pem").read_text() in {to_pem(key) for key in platform.trusted_keys().values()}


def served(stack: paths.Stack, server: dict[str, str] | None, port: int, path: str) -> str:
    """What an API server answers; one of the test's own is started for it."""
    process = None
    if server is not None:
        log = Path(server["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]).with_name("server.log").open("wb")
        command = services.service(stack, "airflow-api-server").command
        process = subprocess.Popen(command, env=server, cwd=stack.var, stdout=log, stderr=log)
    try:
        connection = replace(config.environment_connections("airflow_api"), port=port)
        deadline = time.monotonic() + 180
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5, trust_env=False)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the API server did not start"
                time.sleep(0.5)
        return json.dumps(AirflowApi(connection)._call("GET", path))
    finally:
        if process is not None:
            process.terminate()
            process.wait(120)
