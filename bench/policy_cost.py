"""Measure the time in which a dag-processor reads DAG files, with and without the cluster policies.

make bench BENCH=policy_cost

One process imports Airflow with our `airflow.policy` entry point, another without it. Each then forks a child for each
reading, as a dag-processor does for each file; one child reads all files of the platform. The bench measures CPU time,
which other programs disturb less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.report import Row, write
from rempart.settings import config

READINGS = 81
BAR = 0.91
USER_TASKS = (10, 100)
FORKING_PARSER = """
import gc, os, sys, time
if sys.argv[1] == "without":
    import pluggy
    pluggy.PluginManager.load_setuptools_entrypoints = lambda *args, **kwargs: 0
from airflow import settings
from airflow.dag_processing.dagbag import DagBag
from rempart.settings import config

config.load()  # importing Airflow with the entry point has read it, too
assert ("rempart" in dict(settings.get_policy_plugin_manager().list_name_plugin())) == (sys.argv[1] == "with")
gc.collect()
gc.freeze()  # as Airflow's dag-processor does before it forks
for line in sys.stdin:
    child = os.fork()
    if not child:
        folder, dags = line.split()
        started = time.process_time()
        bag = DagBag(dag_folder=folder)
        took = time.process_time() - started
        good = not bag.import_errors and len(bag.dags) >= int(dags)
        print(took if good else f"{len(bag.dags)} DAGs, {bag.import_errors}", file=sys.stderr, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
USER_DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

args = {{"owner": "sales", "execution_timeout": timedelta(minutes=5)}}
with DAG("of_{tasks}_tasks", tags=["classification:internal"], default_args=args):
    @task
    def read(site_conn_id, day): ...
    last = read("s3_primary", "today")
    for number in range({tasks} - 1):
        step = BashOperator(task_id=f"step_{{number}}", bash_command="true")
        last >> step
        last = step
"""


def start(mode: str, home: str) -> subprocess.Popen[str]:
    """Start a process that has imported Airflow and forks a child for each folder whose name it gets."""
    env = os.environ | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "REMPART_HOME": str(config.project_root()),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", FORKING_PARSER, mode]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)


def seconds(parser: subprocess.Popen[str], folder: Path, dags: int) -> float:
    """Return the CPU seconds of one reading of a folder, in a child process."""
    assert parser.stdin and parser.stderr
    print(folder, dags, file=parser.stdin, flush=True)
    for line in parser.stderr:
        if line.strip().replace(".", "").replace("e-", "").isdigit():
            return float(line)
        raise RuntimeError(f"the parser said: {line}")
    raise RuntimeError(f"the parser ended with {parser.wait()}")


def main() -> int:
    ours = config.project_root() / "dags"
    with tempfile.TemporaryDirectory() as home:
        files = len(list(ours.glob("*.py")))
        cases = {f"{files} DAG files of the platform": (ours, 1)}  # some hold no DAG in some configurations
        for tasks in USER_TASKS:
            folder = Path(home) / f"user-{tasks}"
            folder.mkdir()
            (folder / "dag.py").write_text(USER_DAG.format(tasks=tasks), encoding="utf-8")
            cases[f"a user's DAG file of {tasks} tasks"] = folder, 1
        readings: dict[str, dict[str, list[float]]] = {case: {"with": [], "without": []} for case in cases}
        parsers = {mode: start(mode, home) for mode in ("with", "without")}
        try:
            for i in range(READINGS + 1):
                for case, (folder, dags) in cases.items():
                    for mode in ("with", "without") if i % 2 else ("without", "with"):
                        took = seconds(parsers[mode], folder, dags)
                        if i:  # the first round warms the file cache and writes bytecode
                            readings[case][mode].append(took)
        finally:
            for parser in parsers.values():
                parser.kill()
                parser.wait()
    rows = [
        Row(
            f"{case}, median of {READINGS} forked processes",
            "s",
            statistics.median(found["with"]),
            statistics.median(found["without"]),
            "without the cluster policies",
            "lower",
        )
        for case, found in readings.items()
    ]
    write("policy_cost", rows, bar=BAR)
    missed = [row.case for row in rows if row.ratio < BAR]
    for case in missed:
        print(f"below the bar of {BAR}: {case}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
