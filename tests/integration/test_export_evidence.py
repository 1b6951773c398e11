"""The DAG export_evidence on the running stack: an auditor verifies its locked objects with the first public key."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi
from rempart.cli import app
from rempart.flows.governance.evidence import record_configuration
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from tests.levels import unpaused

pytestmark = pytest.mark.stack


def test_a_run_of_the_dag_exports_what_an_auditor_can_verify(platform: Platform, tmp_path: Path) -> None:
    record_configuration(platform.config, platform.ledger)  # a ledger that has begun
    oldest = platform.ledger.find("key")[-1].at
    api = AirflowApi(config.environment_connections("airflow_api"))
    with unpaused(api, "export_evidence"):
        run_id = api.trigger("export_evidence")
        api.follow("export_evidence", run_id, lambda line: None)
    result = api.result("export_evidence", run_id, "export")
    age = (platform.clock() - oldest).total_seconds()
    assert result["last"] >= 2 and (result["records"] == 0 or result["window_seconds"] <= age)
    folder = tmp_path / "audit"
    done = CliRunner().invoke(app, ["ledger", "export", str(folder)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["ledger", "verify", str(folder), "--key", platform.signer().public.hex()])
    assert done.exit_code == 0 and "every record verifies" in done.output, done.output
    assert any((folder / "checkpoints").iterdir())
