"""`python -m rempart.orchestration.policies.import_dags FOLDER`: read every DAG file as the dag-processor does,
policies on.

The last line of its output is JSON: `dags`, their ids, and `errors`, by file.
"""

from __future__ import annotations

import json
import sys

from rempart.airflow_api import last_words


def main(arguments: list[str]) -> int:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=arguments[0])
    errors = {str(file): last_words(str(trace))[:2000] for file, trace in bag.import_errors.items()}
    sys.stdout.write(json.dumps({"dags": sorted(bag.dags), "errors": errors}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
