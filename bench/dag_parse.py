"""Time to parse every DAG file, beside one DAG file that only imports airflow.sdk; a fresh process for each reading.

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
from rempart import config

READINGS = 9
PARSE = """
import sys, time, runpy
started = time.perf_counter()
for file in sys.argv[1:]:
    runpy.run_path(file)
print(time.perf_counter() - started)
"""


def parse_seconds(files: list[Path], home: str) -> float:
    env = os.environ | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "REMPART_HOME": str(config.project_root()),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *map(str, files)], env=env, capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    ours = sorted((config.project_root() / "dags").glob("*.py"))
    with tempfile.TemporaryDirectory() as home:
        bare = Path(home) / "bare.py"
        bare.write_text("import airflow.sdk\n", encoding="utf-8")
        readings: list[tuple[float, float]] = []
        for i in range(READINGS + 1):
            pair = parse_seconds(ours, home), parse_seconds([bare], home)
            if i:  # the first pair warms the file cache and writes bytecode
                readings.append(pair)
    write(
        "dag_parse",
        [
            Row(
                f"{len(ours)} DAG files",
                "s",
                statistics.median(r[0] for r in readings),
                statistics.median(r[1] for r in readings),
                "one file that imports airflow.sdk",
                "lower",
            )
        ],
    )


if __name__ == "__main__":
    main()
