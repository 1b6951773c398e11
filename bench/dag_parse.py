"""Time to parse every DAG file, beside one that only imports airflow.sdk, and where jobs run in pods, beside one that
holds a bare KubernetesPodOperator; a fresh process for each reading.

make bench BENCH=dag_parse
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Row, write
from rempart.settings import config
from tests import pods

READINGS = 9
PARSE = """
import sys, time, runpy
started = time.perf_counter()
for file in sys.argv[1:]:
    runpy.run_path(file)
print(time.perf_counter() - started)
"""


BARE = """
from airflow.sdk import DAG
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

with DAG("bare"):
    KubernetesPodOperator(task_id="run", image="registry.trial/any")
"""


def parse_seconds(files: list[Path], home: str, project: Path) -> float:
    env = os.environ | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "REMPART_HOME": str(project),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *map(str, files)], env=env, capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        sdk, operator = Path(home) / "sdk.py", Path(home) / "operator.py"
        sdk.write_text("import airflow.sdk\n", encoding="utf-8")
        operator.write_text(BARE, encoding="utf-8")
        here, in_pods = config.project_root(), pods.project(Path(home) / "in-pods")
        count = len(list((here / "dags").glob("*.py")))
        cases = {
            f"{count} DAG files": (here, sdk, "one file that imports airflow.sdk"),
            f"{count} DAG files, jobs in pods": (in_pods, operator, "one file with a KubernetesPodOperator"),
        }
        readings: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
        for i in range(READINGS + 1):
            for case, (project, peer, _) in cases.items():
                ours = sorted((project / "dags").glob("*.py"))
                pair = parse_seconds(ours, home, project), parse_seconds([peer], home, project)
                if i:  # the first pair warms the file cache and writes bytecode
                    readings[case].append(pair)
    rows = [
        Row(
            f"{case}, median of {READINGS} fresh processes",
            "s",
            statistics.median(one[0] for one in readings[case]),
            statistics.median(one[1] for one in readings[case]),
            peer_name,
            "lower",
        )
        for case, (_, _, peer_name) in cases.items()
    ]
    write("dag_parse", rows)


if __name__ == "__main__":
    main()
