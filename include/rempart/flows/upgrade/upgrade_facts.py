"""Collect facts about the running release and this checkout, without changes; `upgrade_plan` judges them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from rempart.airflow_api import AirflowApi
from rempart.audit import lock
from rempart.audit.packages import installed
from rempart.backup.databases import postgresql
from rempart.deployment.embedded import lifecycle, release
from rempart.deployment.servers import postgresql as embedded
from rempart.deployment.servers import schemas, tables
from rempart.deployment.setup import environment
from rempart.deployment.setup.paths import AIRFLOW_COMPONENTS, Stack
from rempart.errors import PipelineError, RempartError, UpgradeError
from rempart.flows.shared.platform import Platform
from rempart.flows.upgrade.upgrade_plan import UpgradeFacts
from rempart.ledger.keys import from_base64
from rempart.ledger.port import Ledger
from rempart.ledger.verification import LedgerVerdict, verify
from rempart.settings import config as configuration
from rempart.settings.config import Connection
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)

IMPORT_SECONDS = 600.0
_Fact = TypeVar("_Fact")


def gather(stack: Stack, platform: Platform) -> UpgradeFacts:
    """Return every fact. A fact that could not be read is logged, and unknown."""

    def known(read: Callable[[], _Fact]) -> _Fact | None:
        try:
            return read()
        except RempartError as error:
            logger.warning("not known: %s", error.what)
            return None

    before, ours = release.recorded(stack), release.of_checkout(stack.root, stack.python)
    working = [name for name in ("mlflow", *AIRFLOW_COMPONENTS) if name in stack.services]
    idle = tuple(name for name in working if name not in lifecycle.works(stack))
    own_server = not stack.external("postgresql")
    read = known(lambda: import_dags(stack))
    pipelines = load_all()
    return UpgradeFacts(
        before,
        ours,
        idle,
        known(lambda: _server(stack, partial(platform.database, "ledger"))),
        own_server,
        known(lambda: _installed_otherwise(stack.root)),
        None if idle else known(lambda: tuple(schemas.read(platform.connections, ("airflow", "mlflow")))),
        None if idle else known(lambda: frozenset(AirflowApi(platform.connections("airflow_api")).dag_ids())),
        read[0] if read else None,
        read[1] if read else None,
        None if idle else known(lambda: ledger_state(platform.ledger)),
        {name: str(pipeline) for name, pipeline in pipelines.items() if isinstance(pipeline, PipelineError)},
        tuple(sorted(_pipelines(before.root) - pipelines.keys())) if before else (),
        before is not None and _differ(before.root / "rempart.yaml", ours.root / "rempart.yaml"),
        None if idle else known(lambda: other_tables(stack.root, platform.database("continuity"))),
    )


def other_tables(root: Path, connection: Connection) -> tuple[tables.OtherTable, ...]:
    """Return the tables of `continuity` that another release made. Raises BackupError, DatabaseUnavailable."""
    return tables.compare(connection.schema, tables.of_script(root, "continuity"), tables.read(connection))


def verified(ledger: Ledger) -> LedgerVerdict:
    """Verify the whole chain with this release and the keys that the chain introduces."""
    introduced = [from_base64(record.body.get("public")) for record in ledger.find("key")]
    return verify((entry.line for entry in ledger.entries()), [key for key in introduced if key], {})


def ledger_state(ledger: Ledger) -> tuple[int, str]:
    """Return the number of records that verify, and the first fault. An empty ledger is valid."""
    if next(iter(ledger.entries()), None) is None:
        return 0, ""
    ledger_verdict = verified(ledger)
    return ledger_verdict.records, ledger_verdict.broken.what if ledger_verdict.broken else ""


def import_dags(stack: Stack) -> tuple[frozenset[str], Mapping[str, str]]:
    """Import this checkout's DAG files in a process without a database. Return the DAG ids, and errors by file."""
    secrets = configuration.read_env_file(stack.secrets)
    with tempfile.TemporaryDirectory(prefix="rempart-import-") as home:
        variables = environment.airflow(stack, secrets, os.environ, "airflow-dag-processor") | {
            "AIRFLOW_HOME": home,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/none.db",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{home}/none.db",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": f"{home}/passwords.json",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{home}/logs",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        }
        command = [stack.python, "-m", "rempart.orchestration.policies.import_dags", str(stack.root / "dags")]
        try:
            done = subprocess.run(
                command, env=variables, cwd=home, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
            )
            found = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, IndexError, ValueError):  # its output may hold a secret
            raise UpgradeError(
                f"The DAG files in {stack.root / 'dags'} could not be imported with this release's packages",
                "Run `make setup`, then `rempart config check`.",
            ) from None
    return frozenset(found["dags"]), {Path(file).name: why for file, why in found["errors"].items()}


def _server(stack: Stack, ledger: Callable[[], Connection]) -> int | None:
    """Return the major version of the server that holds the data."""
    if not stack.external("postgresql"):
        there = (stack.postgresql_data / "PG_VERSION").is_file()
        return embedded.data_version(stack.postgresql_data) if there else None
    with postgresql.session(ledger(), "read its version") as opened:
        row = opened.execute("SHOW server_version_num").fetchone()
    return int(str(row[0])) // 10_000 if row else None


def _installed_otherwise(root: Path) -> Mapping[str, str]:
    locked = lock.read((root / "requirements.txt").read_text(encoding="utf-8"))
    return lock.differences({name: distribution.version for name, distribution in installed.by_name().items()}, locked)[
        0
    ]


def _pipelines(root: Path) -> set[str]:
    return {file.stem for file in (root / "include" / "pipelines").glob("*.yaml")}


def _differ(path: Path, other: Path) -> bool:
    return not path.is_file() or path.read_bytes() != other.read_bytes()
