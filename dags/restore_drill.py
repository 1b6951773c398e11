"""Restore a restore point into scratch space, and prove it.

**Input**: the newest restore point (or the one that the run names). **Output**: the list of checks, the measured RTO
and RPO, evidence in the ledger. Scratch databases and bucket are removed at the end, also after a failure.

Databases must come back with the row counts on record, online features with the same content, and each champion must
load from the restored MLflow and predict the same numbers.

**Run again** at will: a drill never touches what runs.

**When it fails**: the message lists the checks that did not hold. Treat it as the loss of that restore point:
docs/runbooks/restore-drill.md.
"""

from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from rempart.orchestration import runtime
from rempart.orchestration.dags import platform_settings

point = Param(
    None,
    type=["null", "string"],
    pattern=r"^[A-Za-z0-9_\-]{1,60}$",
    description="Id of the restore point; empty for the newest.",
)
weekly = CronTriggerTimetable("0 3 * * 6", timezone="UTC")

with DAG(
    "restore_drill",
    doc_md=__doc__,
    params={"point": point},
    **platform_settings("drill") | {"schedule": weekly},
):

    @task
    def drill(params: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill

        return runtime.as_json(drill(runtime.platform(), params["point"]))

    drill()
