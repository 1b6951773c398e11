"""Restore a restore point into scratch space, and prove it.

**Input**: the newest restore point (or the one that the run names). **Output**: the list of checks, the measured RTO
and RPO, evidence in the ledger, and a report under lock beside it (docs/how-to/drill-report.md). Scratch databases and
bucket are removed at the end, also after a failure.

Databases must come back with the row counts on record; Airflow's must migrate, and what it encrypted be read; the
ledger must verify, online features equal the offline ones, and each champion load from the restored MLflow and predict
the same numbers. A missed objective (`backup.rpo_objective`, `backup.rto_objective`) is red as well.

`scenario` **cyber-attack**: poisoned points are played in memory behind the stored ones; all are judged, and the last
clean one is restored. It is red, too, if the newest stored point is not a clean one.

**Run again** at will: a drill never touches what runs.

**When it fails**: the message lists the checks that did not hold. Treat it as the loss of that restore point:
docs/runbooks/restore-drill.md.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, pages, runtime
from rempart.orchestration.dags import at, highest_classification, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
point = Param(
    None,
    type=["null", "string"],
    pattern=r"^[A-Za-z0-9_\-]{1,60}\Z",
    description="Id of the restore point; empty for the newest.",
)
scenario = Param(
    "routine",
    type="string",
    enum=["routine", "cyber-attack"],
    description="What is supposed to have happened; an attack finds its point by itself.",
)

with DAG(
    "restore_drill",
    doc_md=__doc__,
    schedule=at("0 3 * * 6"),
    params={"point": point, "scenario": scenario},
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "drill", tag_of(highest_classification())],
    default_args=task_defaults(owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def drill(params: Any = None) -> dict[str, Any]:
        from rempart.flows.drill.drill import drill

        return runtime.as_json(drill(runtime.platform(), params["point"], scenario=params["scenario"]))

    linked(drill(), pages.POINT_DRILLED)

if __name__ == "__main__":
    dag_test.run(globals())
