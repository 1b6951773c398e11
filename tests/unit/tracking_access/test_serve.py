"""MLflow's server in one process has every setting that MLflow's own command hands to the process that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rempart.tracking_access import serve

DATABASE = "postgresql+psycopg://mlflow@127.0.0.1:1/mlflow"
HANDED_ON = """
import json, os, sys
from types import SimpleNamespace
import mlflow.server
from mlflow.server import handlers
from mlflow.tracing import trace_rollup_service

def heard(command, *, extra_env, **_):
    changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    print(json.dumps({"command": command, "settings": changed | extra_env}))
    return SimpleNamespace(wait=lambda: 0)

mlflow.server._exec_cmd = heard
handlers.initialize_backend_stores = lambda *_, **__: None
trace_rollup_service.validate_sql_trace_rollup_startup = lambda _: None
from mlflow.cli import cli
before = dict(os.environ)
cli(sys.argv[1:])
"""


def test_it_has_the_settings_and_options_of_mlflows_own_command() -> None:
    command = ["server", "--host", "127.0.0.1", "--port", "7", "--workers", "1", "--allowed-hosts", "127.0.0.1:7"]
    command += ["--artifacts-destination", "s3://artifacts/mlflow"]
    own = {"MLFLOW_BACKEND_STORE_URI": DATABASE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    own["MLFLOW_DISABLE_TELEMETRY"] = "true"
    done = subprocess.run(
        [sys.executable, "-c", HANDED_ON, *command], env=os.environ | own, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    ours = serve.settings(DATABASE, "s3://artifacts/mlflow", "127.0.0.1:7")
    boot = "_MLFLOW_SERVER_BOOT_ID"  # of this start
    assert len(told["settings"].pop(boot)) == len(ours.pop(boot))
    assert ours == told["settings"]
    options = ["--log-config", serve.log_configuration(), "--host", "127.0.0.1", "--port", "7", "--workers", "1"]
    assert told["command"][1:-1] == ["-m", "uvicorn", *options]


def test_without_a_database_it_says_so_and_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)
    with pytest.raises(SystemExit):
        serve.main(["--port", "7", "--artifacts", "s3://artifacts/mlflow"])
    assert "MLFLOW_BACKEND_STORE_URI is not set" in capsys.readouterr().err


def test_one_process_answers_whatever_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    asked = dict[str, object]()
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: asked.update(options, app=app))
    monkeypatch.setattr(os, "environ", os.environ | {"MLFLOW_BACKEND_STORE_URI": DATABASE, "WEB_CONCURRENCY": "4"})
    serve.main(["--port", "7", "--artifacts", "s3://artifacts/mlflow"])
    assert (asked["app"], asked["workers"], asked["host"]) == (serve.APP, 1, "127.0.0.1")
