"""The chart's probes, run as commands on a running stack, in the environment of each component's pod."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rempart.deployment.setup import environment, paths
from rempart.settings import config
from tests.unit.deploy.platform_files import VALUES

pytestmark = pytest.mark.stack


def variables(stack: paths.Stack, folder: Path, process: str, **more: str) -> dict[str, str]:
    """The environment of a pod's process, but for the addresses, which are the stack's."""
    secrets = config.read_env_file(stack.secrets)
    folder.mkdir()
    made = environment.of(replace(stack, cluster=True), secrets, {"PATH": os.environ["PATH"]}, process)
    assert made["AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS"] == "rempart.orchestration.task_logs.LOGGING_CONFIG"
    return made | {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs")} | more


@pytest.mark.parametrize("component", ["scheduler", "dag-processor", "triggerer"])
def test_a_probe_finds_its_component_at_work(stack: paths.Stack, tmp_path: Path, component: str) -> None:
    """The command of the chart's probe, in the environment of that component's pod."""
    names = {"scheduler": "scheduler", "dag-processor": "dagProcessor", "triggerer": "triggerer"}
    command = VALUES[names[component]]["livenessProbe"]["command"]
    env = variables(stack, tmp_path / "pod", f"airflow-{component}")
    asked = command[command.index("airflow") + 1 :]
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *asked], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "Found one alive job" in done.stdout, done.stdout + done.stderr
