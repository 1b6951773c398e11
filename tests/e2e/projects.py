"""A copy of the project in which a test works as its user would: own files, own stack, the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rempart.airflow_api import AirflowApi
from rempart.flows.shared.platform import Platform, open_platform
from rempart.settings import config
from rempart.settings.config import Connection, parse_connection, project_root
from tests.dag_files import DROPPED

_NOT_COPIED = shutil.ignore_patterns("var", ".venv*", ".git", ".*_cache", DROPPED)
"""Compiled modules are copied with their sources: else each process of the copy's stack compiles what it imports."""


class Project:
    """A copy of the project, in which a reader works."""

    def __init__(self, root: Path, var: Path, offset: int) -> None:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "SSL_CERT_FILE", "VIRTUAL_ENV")
        self.root, self.var = root, var
        self.mlflow = f"127.0.0.1:{15000 + offset}"
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "include"),
            "REMPART_HOME": str(root),
            "REMPART_VAR": str(var),
            "REMPART_PORT_OFFSET": str(offset),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def copy(self) -> None:
        """Copy the project, without what it wrote."""
        shutil.copytree(project_root(), self.root, ignore=_NOT_COPIED, symlinks=True)

    def run(self, command: list[str], text: str, seconds: float = 900) -> tuple[int, str]:
        """Run a program on a text and return its exit code and everything that it wrote."""
        done = subprocess.run(
            [*command],
            input=text,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        return done.returncode, done.stdout

    def typed(self, command: str, code: int = 0) -> str:
        """The output of a command that must end with this exit code."""
        ended, output = self.run(["rempart", *command.split()], "")
        assert ended == code, f"rempart {command}: exit code {ended}\n{output}"
        return output

    def connection(self, name: str) -> Connection:
        """A connection of this project's stack."""
        return parse_connection(name, config.read_env_file(self.var / "secrets.env")[f"AIRFLOW_CONN_{name.upper()}"])

    def api(self) -> AirflowApi:
        return AirflowApi(self.connection("airflow_api"))

    def platform(self) -> Platform:
        """The platform of this project, with its shipped rempart.yaml."""
        return open_platform(self.connection)
