"""Measure the parse time of all DAG files with 1 and with 50 pipelines, and of the one file that a task parses.

Each reading runs in a fresh process, beside a plain Airflow file. `cpu` in the figures is the same ratio in CPU time of
the processes, which a busy machine changes less.

    make bench BENCH=dag_parse [ARGS="--readings 5"]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.report import Row, write
from rempart.settings import config
from tests import pods

READINGS = 9
PIPELINES = 50
PARSE = """
import sys, time, runpy
wall, cpu = time.perf_counter(), time.process_time()
kept = [runpy.run_path(file) for file in sys.argv[1:]]  # as Airflow keeps the DAGs of a file until it has stored them
print(time.perf_counter() - wall, time.process_time() - cpu)
"""

BARE = """
from airflow.sdk import DAG
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

with DAG("bare"):
    KubernetesPodOperator(task_id="run", image="registry.trial/any")
"""
PLAIN = f"""
from datetime import timedelta
from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param, task

OWNED = {{"owner": "mlops", "retries": 2, "execution_timeout": timedelta(hours=1)}}
SHAPES = [(3, 4), (1, 1), (1, 1), (2, 1), (1, 2), (1, 2)]
SCHEDULES = [CronTriggerTimetable("0 2 * * *", timezone="UTC"), [Asset("a")], [Asset("b")], [Asset("c")], None, None]

for pipeline in range({PIPELINES}):
    for stage, (tasks, params) in enumerate(SHAPES):
        given = {{
            f"param_{{n}}": Param(None, type=["null", "string"], pattern="^[0-9a-f]{{{{16}}}}$", description="An id.")
            for n in range(params)
        }}
        times = SCHEDULES[stage]
        dag_id = f"stage_{{stage}}_{{pipeline}}"
        with DAG(dag_id, schedule=times, params=given, tags=["plain"], default_args=OWNED) as globals()[dag_id]:
            for n in range(tasks):
                task(task_id=f"task_{{n}}")(lambda: None)()
"""
"""As many DAGs, tasks and parameters as the DAG files make for so many pipelines, on schedules of the same kinds.

Airflow checks the parameters of a DAG only if it has a schedule.
"""


@dataclass(frozen=True)
class Case:
    """DAG files of a project (one of them in a task of `dag_id`), and the plain file that they are compared with."""

    name: str
    project: Path
    files: list[Path]
    peer: Path
    peer_name: str
    dag_id: str = ""


@dataclass(frozen=True)
class Reading:
    """Seconds of one process."""

    wall: float
    cpu: float


def parse(files: list[Path], home: str, project: Path, dag_id: str = "") -> Reading:
    """Execute the files in a fresh process."""
    env = os.environ | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "REMPART_HOME": str(project),
    }
    if dag_id:
        env["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = dag_id
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *map(str, files)], env=env, capture_output=True, text=True, check=True
    )
    wall, cpu = done.stdout.strip().splitlines()[-1].split()
    return Reading(float(wall), float(cpu))


def with_pipelines(home: Path, count: int) -> Path:
    """A copy of this project whose only pipelines are copies of the sample's."""
    here = config.project_root()
    shutil.copytree(here / "dags", home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(here / "include" / "operators", home / "include" / "operators")
    shutil.copy(here / "rempart.yaml", home)
    (home / "include" / "pipelines").mkdir()
    sample = (here / "include" / "pipelines" / "hotel_bookings.yaml").read_text(encoding="utf-8")
    for n in range(count):
        text = sample.replace("hotel_bookings", f"hotel_{n:02}")
        (home / "include" / "pipelines" / f"hotel_{n:02}.yaml").write_text(text, encoding="utf-8")
    return home


def cases(folder: Path) -> list[Case]:
    """Return the cases to measure; write their files to `folder`."""
    peers = {"sdk": "import airflow.sdk\n", "operator": BARE, "plain": PLAIN}
    for name, text in peers.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    sdk, operator, plain = (folder / f"{name}.py" for name in peers)
    here, in_pods, many = (
        config.project_root(),
        pods.project(folder / "in-pods"),
        with_pipelines(folder / "many", PIPELINES),
    )
    files = sorted((here / "dags").glob("*.py"))
    all_files = f"{len(files)} DAG files"
    imports = "one file that imports airflow.sdk"
    train = f"train_hotel_{PIPELINES // 2}"
    return [
        Case(f"{all_files}, 1 pipeline", here, files, sdk, imports),
        Case(f"{all_files}, jobs in pods", in_pods, files, operator, "one file with a KubernetesPodOperator"),
        Case(f"{all_files}, {PIPELINES} pipelines", many, files, plain, "a plain file with as many DAGs and tasks"),
        Case(f"a task's own file, {PIPELINES} pipelines", many, [here / "dags" / "train.py"], sdk, imports, train),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--readings", type=int, default=READINGS)
    count = parser.parse_args().readings
    with tempfile.TemporaryDirectory() as home:
        measured = cases(Path(home))
        readings: dict[str, list[tuple[Reading, Reading]]] = {case.name: [] for case in measured}
        for i in range(count + 1):
            for case in measured:
                ours = parse(case.files, home, case.project, case.dag_id)
                pair = ours, parse([case.peer], home, case.project)
                if i:  # the first pair warms the file cache and writes bytecode
                    readings[case.name].append(pair)

    def median(case: Case, side: int, kind: str) -> float:
        return statistics.median(getattr(pair[side], kind) for pair in readings[case.name])

    rows = [
        Row(
            f"{case.name}, median of {count} fresh processes",
            "s",
            median(case, 0, "wall"),
            median(case, 1, "wall"),
            case.peer_name,
            "lower",
        )
        for case in measured
    ]
    cpu = {case.name: round(median(case, 1, "cpu") / median(case, 0, "cpu"), 2) for case in measured}
    write("dag_parse", rows, cpu=cpu, load_average=[round(load, 1) for load in os.getloadavg()])


if __name__ == "__main__":
    main()
