"""Each DAG file is run as a program, by Airflow's `dag.test()`, as docs/how-to/run-a-dag-by-hand.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pods
from tests.dag_files import NOT_COPIED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "run-a-dag-by-hand.md").read_text(encoding="utf-8")
FILES = sorted(file.name for file in (ROOT / "dags").glob("*.py"))
CONF = {
    "restore_to_sandbox.py": {"aside": "trial"},
    "preview_quarantine.py": {"delivery": "0" * 64, "recipient": f"age1{'q' * 58}"},
}
"""Parameters without a default."""
CODES = {"replicate_sites.py": 1, "clean_up_pods.py": 2, "approve_model.py": 2, "search.py": 2}
"""A run whose tasks find no connection fails; without a DAG it is told: no pods run, no one approves or searches."""
DEADLINE = "a good run of the DAG that has a deadline"

RUN_EACH = """
import json, runpy, sys
codes = {}
for name, (file, *arguments) in json.loads(sys.argv[1]).items():
    sys.argv = [file, *arguments]
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as ended:
        codes[name] = ended.code
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=NOT_COPIED)
    shutil.copytree(ROOT / "include" / "pipelines", folder / "include" / "pipelines")
    shutil.copytree(ROOT / "include" / "operators", folder / "include" / "operators")
    shutil.copy(ROOT / "rempart.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The page's block, with the interpreter of these tests."""
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block).replace(".venv/bin/", f"{Path(sys.executable).parent}/").strip().splitlines()


def run(script: list[str], project: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=project,
        env=clean,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def by_the_page(project: Path, lines: list[str]) -> subprocess.CompletedProcess[str]:
    return run(lines, project)


def test_the_commands_of_the_page_run_a_dag(by_the_page: subprocess.CompletedProcess[str]) -> None:
    assert by_the_page.returncode == 0, by_the_page.stderr[-2000:]
    assert "train_hotel_bookings: success" in by_the_page.stdout


@pytest.fixture(scope="module")
def codes(project: Path, lines: list[str], by_the_page: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The exit code of each file: one process runs them one after the other, on the page's database."""
    asked = {
        file: [
            f"dags/{file}",
            *(["--conf", json.dumps(CONF[file])] if file in CONF else []),
            *(["--mark", ".*"] if CODES.get(file) != 1 else []),
        ]
        for file in FILES
    }
    asked[DEADLINE] = ["dags/replicate_sites.py", "--mark", ".*"]
    (project / "run_each.py").write_text(RUN_EACH, encoding="utf-8")
    exports = [line for line in lines if line.startswith("export ")]
    done = run([*exports, f"{sys.executable} run_each.py '{json.dumps(asked)}'"], project)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_dag_file_runs_as_a_program(codes: dict[str, int], file: str) -> None:
    assert codes.get(file) == CODES.get(file, 0)


def test_a_run_of_a_dag_with_a_deadline_ends_well(codes: dict[str, int]) -> None:
    """Airflow 3.3.2 looks such a DAG's alerts up in its database at the end of a good run, by what is no id."""
    assert codes[DEADLINE] == 0


def test_the_dag_of_pods_runs_its_task_and_looks_into_each_pool(
    project: Path, lines: list[str], by_the_page: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """On the page's database, with two doubles of clusters. No pod is there, so neither Airflow nor a site is asked."""
    home = pods.project(tmp_path / "home")
    nobody = {"AIRFLOW_CONN_AIRFLOW_API": json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": 9})}
    exports = [line for line in lines if line.startswith("export ")]
    with pods.clusters(home) as pools:
        given = {"REMPART_HOME": str(home)} | nobody | pods.connections(pools)
        exports += [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
        done = run([*exports, f"{sys.executable} dags/clean_up_pods.py"], project)
        looked = {name: [request.path for request in pool.requests] for name, pool in pools.items()}
    assert done.returncode == 0, done.stderr[-2000:]
    assert "clean_up_pods: success" in done.stdout
    for name, paths in looked.items():
        assert any(f"/namespaces/training-{name}/pods" in path for path in paths), paths
