"""Restore a restore point into a sandbox, by the code that restores the platform, and prove it.

**Input**: the newest restore point (or the one that the run names). **Output**: the list of checks, the measured RTO
and RPO, evidence in the ledger, and a report under lock beside it (docs/how-to/drill-report.md).

Task `restore` fills scratch databases and a scratch bucket. `prove` checks them: Airflow's database must migrate, and
what it encrypted be read; the ledger must verify, online features equal the offline ones, and each champion load from
the restored MLflow and predict the same numbers. `clean_up` removes the sandbox, and `report` writes the verdict: both
run whatever happened before. A missed objective (`backup.rpo_objective`, `backup.rto_objective`) is red as well. The
tasks share no data: each reads the evidence of the others in the ledger.

`scenario` **cyber-attack**: poisoned points are played in memory behind the stored ones; all are judged, and the last
clean one is restored. It is red, too, if the newest stored point is not a clean one.

**Run again** at will: a drill never touches what runs. To repeat a part of a run, clear `restore` and what follows it:
`prove` alone finds no sandbox any more and says so: the run is red, and the verdict on the restore stands. `report`
alone files the report of that verdict again.

**When it fails**: the task `report` lists the checks that did not hold. Treat it as the loss of that restore point:
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

        # a step of a run that somebody marks as failed ends some seconds after this task begins
        done = drill_sandbox.clean_up(runtime.platform(), runtime.drill_id(dag_run), params["point"], patience=180)
        return runtime.as_json(drill_steps.green(done))

    @task(trigger_rule="all_done")
    def report(dag_run: Any = None) -> dict[str, Any]:
        from rempart.flows.drill import drill_verdict

        return runtime.as_json(drill_verdict.report(runtime.platform(), runtime.drill_id(dag_run)))

    restored = linked(restore(), pages.POINT_RESTORED)
    # a teardown also runs where somebody marks the run as failed
    restored >> prove() >> clean_up().as_teardown() >> linked(report(), pages.POINT_DRILLED)

if __name__ == "__main__":
    dag_test.run(globals())
