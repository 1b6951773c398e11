"""Restore a restore point into a sandbox, with the code that restores the platform, and prove it.

**Input**: the newest restore point, or the point that the run names. **Output**: the list of checks, the measured RTO
and RPO, evidence in the ledger, and a locked report beside it (docs/how-to/drill-report.md).

- `restore` fills scratch databases and a scratch bucket: the sandbox.
- `prove` checks the sandbox. Airflow's database must migrate, and its encrypted values must be readable. The ledger
  must verify. Online features must equal the offline ones. Each champion must load from the restored MLflow and
  predict the same numbers.
- `clean_up` removes the sandbox. It runs whatever happened before.
- `report` writes the verdict. It runs whatever happened before. A missed objective (`backup.rpo_objective`,
  `backup.rto_objective`) fails the drill.

The tasks share no data: each reads the evidence of the others in the ledger.

`scenario` **cyber-attack** simulates poisoned points in memory behind the stored ones, judges all points, and restores
the last clean one. The drill also fails if the newest stored point is not clean.

**Run again** at any time: a drill never touches running services. To repeat a part of a run, clear `restore` with its
downstream tasks. `prove` alone finds no sandbox and fails; the verdict on the restore stands. `report` alone files the
report of that verdict again.

**When it fails**: the task `report` lists the failed checks. Treat the restore point as lost, and follow
docs/runbooks/restore-drill.md.
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, pages, runtime
from rempart.orchestration.dags import at, highest_classification, parameter, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
point = parameter(
    None,
    type=["null", "string"],
    pattern=r"^[A-Za-z0-9_\-]{1,60}\Z",
    description="Id of the restore point; empty for the newest.",
)
scenario = parameter(
    "routine",
    type="string",
    enum=["routine", "cyber-attack"],
    description="Simulated event. The scenario cyber-attack chooses the restore point itself.",
)

with DAG(
    "restore_drill",
    doc_md=__doc__,
    schedule=at("0 3 * * 6"),
    params={"point": point, "scenario": scenario},
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "drill", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def restore(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill_restore, drill_steps

        point, scenario = params["point"], params["scenario"]
        done = drill_restore.restore(runtime.platform(), runtime.drill_id(dag_run), point, scenario=scenario)
        return runtime.as_json(drill_steps.green(done))

    @task(trigger_rule="all_done")
    def prove(dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill_prove, drill_steps

        return runtime.as_json(drill_steps.green(drill_prove.prove(runtime.platform(), runtime.drill_id(dag_run))))

    @task
    def clean_up(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill_sandbox, drill_steps

        # if somebody marks the run as failed, a running step ends some seconds after this task begins
        done = drill_sandbox.clean_up(runtime.platform(), runtime.drill_id(dag_run), params["point"], patience=180)
        return runtime.as_json(drill_steps.green(done))

    @task(trigger_rule="all_done")
    def report(dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill_verdict

        return runtime.as_json(drill_verdict.report(runtime.platform(), runtime.drill_id(dag_run)))

    restored = linked(restore(), pages.POINT_RESTORED)
    # a teardown also runs if somebody marks the run as failed
    restored >> prove() >> clean_up().as_teardown() >> linked(report(), pages.POINT_DRILLED)

if __name__ == "__main__":
    dag_test.run(globals())
