"""Proof: this checkout replaces the previous release on its state, proves itself, and goes back again.

    make prove-upgrade      needs git and the project's history, and disk for a second environment

The previous release is a fixed earlier commit of this project, in its own folder and environment. Its lock gets the
previous MLflow, so that a schema is really migrated. Its demo runs. Then `rempart stack upgrade` of this checkout
shows its plan and carries it out. The proof requests the platform's data as a user would, and the chain runs. Then
`rempart stack upgrade --back` runs: the previous release works again with the old runs and the champion, and its chain
runs, too. Finally the upgrade runs once more, as after a repair of the fault that caused the way back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.prove_failover import Check, check
from bench.prove_pods import write
from bench.prove_restore import working
from rempart.airflow_api import AirflowApi
from rempart.backup.drill import airflow_schema
from rempart.cli.demo import demo_run as demo
from rempart.flows.shared.platform import open_platform
from rempart.flows.upgrade import upgrade_facts
from rempart.ledger.port import Evidence
from rempart.models import registry
from rempart.settings import config

COMMIT = "7a52df69"
"""Commit of the previous release, whose keys, tables and snapshots have the formats of today; there are no tags yet."""
MLFLOW = "3.16.1"
OFFSET = "8000"
PIPELINE = demo.PIPELINE
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_CHAIN = """
import json, sys
from rempart.settings import config, pipelines
from rempart.airflow_api import AirflowApi
from rempart.cli.demo import demo_run as demo
from rempart.flows.shared.platform import open_platform
run = demo.Demo(open_platform(), AirflowApi(config.environment_connections("airflow_api")), print)
run.deliver()
run.run("ingest", "ingest_hotel_bookings", "ingest")
since = demo.datetime.now(demo.UTC)
count = "num_iterations" if pipelines.named("hotel_bookings").trainer.use == "lightgbm" else "max_iter"
trained = run.run("train", "train_hotel_bookings", "train", conf={"trainer_params": {count: int(sys.argv[1])}})
judged = run.run("gate", "validate_model_hotel_bookings", "validate", since=since)
print(json.dumps({"trained": trained["version"], "judged": judged["version"]}))
"""


@dataclass(frozen=True)
class House:
    """One checkout, and the state on which both work."""

    root: Path
    var: Path

    def environment(self) -> dict[str, str]:
        environment = {
            name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(("PIP_", "UV_"))
        }
        return environment | {
            "REMPART_HOME": str(self.root),
            "REMPART_VAR": str(self.var),
            "REMPART_PORT_OFFSET": OFFSET,
        }

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command, print its output as it comes, and return its exit code and output."""
        lines = []
        with subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
            return process.wait(), "".join(lines)

    def rempart(self, *words: str) -> tuple[int, str]:
        return self.run(str(self.root / ".venv" / "bin" / "python"), "-u", "-m", "rempart.cli", *words)

    def chain(self, iterations: int) -> bool:
        """Start the chain by REST with this checkout's own code. Return whether the gate judged the trained version."""
        code, out = self.run(str(self.root / ".venv" / "bin" / "python"), "-u", "-c", _CHAIN, str(iterations))
        if code:
            return False
        told = json.loads(out.strip().splitlines()[-1])
        return bool(told["trained"] == told["judged"])


def release_before(root: Path, var: Path) -> House | None:
    """Set up the earlier commit from its own lock, except for MLflow; None if the history lacks it."""
    here = config.project_root()
    if subprocess.run(["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=here, check=False).returncode:
        return None
    root.mkdir(parents=True)
    packed = subprocess.run(["git", "archive", COMMIT], cwd=here, capture_output=True, check=True).stdout
    subprocess.run(["tar", "x"], cwd=root, input=packed, check=True)
    house = House(root, var)
    code, _ = house.run("make", "setup", f"PYTHON={sys.base_prefix}/bin/python3")
    if code:
        raise SystemExit("the release before could not be set up")
    wanted = [f"{name}=={MLFLOW}" for name in ("mlflow", "mlflow-skinny", "mlflow-tracing")]
    code, _ = house.run(
        str(root / ".venv/tools/bin/uv"),
        "pip",
        "install",
        "-q",
        "--no-deps",
        "-p",
        str(root / ".venv/bin/python"),
        *wanted,
    )
    if code:
        raise SystemExit("the MLflow before ours could not be installed")
    lock = root / "requirements.txt"
    text = re.sub(
        r"^(mlflow(?:-skinny|-tracing)?)==\S+", rf"\g<1>=={MLFLOW}", lock.read_text(encoding="utf-8"), flags=re.M
    )
    lock.write_text(text, encoding="utf-8")
    return house


@dataclass(frozen=True)
class Seen:
    """The users' view: ended DAG runs, the champion, how far the ledger verifies, MLflow's schema."""

    runs: dict[tuple[str, str], str]
    champion: str | None
    records: int
    broken: str
    mlflow: str
    upgrades: list[Evidence]


def look() -> Seen:
    platform, api = open_platform(), AirflowApi(config.environment_connections("airflow_api"))
    listed = api.every("/api/v2/dags/~/dagRuns", "dag_runs")
    runs = {(run["dag_id"], run["dag_run_id"]): run["state"] for run in listed if run["state"] in ("success", "failed")}
    chain = upgrade_facts.verified(platform.ledger)
    return Seen(
        runs,
        registry.champion(platform.tracking(), PIPELINE),
        chain.records,
        chain.broken.what if chain.broken else "",
        airflow_schema.revision(platform.database("mlflow")),
        platform.ledger.find("upgrade"),
    )


def unchanged(what: str, was: Seen, now: Seen) -> list[Check]:
    lost = [run for run, state in was.runs.items() if now.runs.get(run) != state]
    return [
        check(f"{what}: the old DAG runs are there", bool(was.runs) and not lost, f"{len(was.runs)}, {len(lost)} lost"),
        check(f"{what}: the champion is the same", was.champion == now.champion is not None, f"version {now.champion}"),
        check(f"{what}: the ledger goes on", not now.broken and now.records >= was.records, f"{now.records} records"),
    ]


def prove(before: House, ours: House) -> tuple[list[Check], dict[str, Any]]:
    checks: list[Check] = []
    seconds: dict[str, float] = {}

    def timed(name: str, house: House, *words: str) -> tuple[int, str]:
        began = time.monotonic()
        code, out = house.rempart(*words)
        seconds[name] = round(time.monotonic() - began, 1)
        return code, out

    with working(ours.environment()):
        code, _ = timed("demo of the release before", before, "demo")
        checks.append(check("the release before: its demo", code == 0, f"commit {COMMIT}, MLflow {MLFLOW}"))
        if code:
            return checks, seconds
        was = look()
        code, out = ours.rempart("up")
        checks.append(check("`rempart up` of this release refuses to migrate", code == 1, out.strip()[:110]))
        checks.append(check("and leaves what runs alone", look().champion == was.champion, "the platform runs on"))
        code, out = timed("check", ours, "stack", "upgrade", "--check")
        told = [line for line in out.splitlines() if line.startswith("changes")]
        checks.append(
            check("upgrade --check: changes, and no refusal", code == 0 and bool(told), f"{len(told)} changes")
        )
        checks.append(check("it names the migration", "schema of MLflow" in "".join(told), "MLflow's schema"))
        code, out = timed("upgrade", ours, "stack", "upgrade", "--yes")
        checks.append(check("upgrade --yes", code == 0, out.strip().splitlines()[-1]))
        if code:
            return checks, seconds
        now = look()
        checks += unchanged("upgraded", was, now)
        checks.append(check("MLflow's schema was migrated", was.mlflow != now.mlflow, f"{was.mlflow} to {now.mlflow}"))
        checks.append(
            check("evidence of it", [upgrade.body["outcome"] for upgrade in now.upgrades] == ["upgraded"], "1 record")
        )
        checks.append(check("upgraded: the chain runs", ours.chain(61), "trained, judged"))
        since = look()
        code, out = timed("back", ours, "stack", "upgrade", "--back", "--yes")
        checks.append(check("upgrade --back --yes", code == 0, out.strip().splitlines()[-1]))
        if code:
            return checks, seconds
        back = look()
        checks += unchanged("back", was, back)
        checks.append(check("MLflow's schema is the old one", back.mlflow == was.mlflow, back.mlflow))
        checks.append(check("the ledger lost nothing", back.records >= since.records, f"{since.records} before"))
        code, out = before.rempart("status")
        checks.append(check("back: every service runs", code == 0, f"exit {code}"))
        checks.append(check("back: the chain of the release before runs", before.chain(62), "trained, judged"))
        again = look()
        code, out = timed("upgrade again", ours, "stack", "upgrade", "--yes")
        checks.append(check("and it is upgraded once more", code == 0, out.strip().splitlines()[-1]))
        checks += unchanged("upgraded again", again, look()) if code == 0 else []
    return checks, seconds


def main() -> int:
    started, folder = time.monotonic(), config.var_dir() / "prove-upgrade"
    shutil.rmtree(folder, ignore_errors=True)
    before = release_before(folder / "before", folder / "var")
    if before is None:
        print(f"not run: this folder has no git history with commit {COMMIT}")
        return 1
    setup = round(time.monotonic() - started, 1)
    checks, seconds = prove(before, House(config.project_root().resolve(), before.var))
    figures = {"seconds": {"set up the release before": setup, **seconds}, "commit": COMMIT, "cores": os.cpu_count()}
    return 0 if write("upgrade", checks, round(time.monotonic() - started, 1), figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
