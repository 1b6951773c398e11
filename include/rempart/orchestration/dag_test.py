"""`python dags/FILE.py [DAG_ID] [--conf JSON] [--mark PATTERN]`: runs a DAG once in this process, by `dag.test()`.

docs/how-to/run-a-dag-by-hand.md says what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from airflow.sdk import DAG


def run(names: Mapping[str, Any]) -> NoReturn:
    """Run the DAG that the command line names, and exit: 0 if the run succeeded, 1 if not, 2 for wrong arguments.

    `names`: the DAG file's `globals()`. The DAG's name may be omitted if the file has only one DAG.
    """
    import argparse
    import json

    from airflow.plugins_manager import get_timetables_plugins

    from rempart.orchestration.dags import Periodic

    dags = {value.dag_id: value for value in names.values() if isinstance(value, DAG)}
    parser = argparse.ArgumentParser(description="Run a DAG of this file once, in this process.")
    parser.add_argument("dag_id", nargs="?", choices=sorted(dags), default=min(dags) if len(dags) == 1 else None)
    parser.add_argument("--conf", type=json.loads, default={}, help="parameters of the run, as JSON")
    parser.add_argument("--mark", metavar="PATTERN", help="tasks that are marked as succeeded instead of run")
    asked = parser.parse_args()
    if asked.dag_id is None:
        parser.error(f"name a DAG: {', '.join(sorted(dags)) or 'with this rempart.yaml, the file defines none'}")
    dag = dags[asked.dag_id]
    dag.deadline = None  # no scheduler watches it here, and Airflow 3.3.2 fails a good run of a DAG that has one
    # as the plugin does, which is not loaded without the project's settings of Airflow
    get_timetables_plugins()[f"{Periodic.__module__}.{Periodic.__qualname__}"] = Periodic
    dag_run = dag.test(run_conf=asked.conf, mark_success_pattern=asked.mark)
    sys.stdout.write(f"{asked.dag_id}: {dag_run.state}\n")
    sys.exit(0 if dag_run.state == "success" else 1)
