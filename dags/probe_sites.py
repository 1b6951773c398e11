"""Try what every declared site can do, on the site itself, and keep the outcome as evidence.

**Input**: the sites of rempart.yaml. **Output**: for each a record of kind `capabilities` in the ledger, which is
signed; the findings in the task's log, each with what Rempart does where something was not proven.

Replication, restore points and the export of evidence refuse a site whose record is missing what they need, or older
than 30 days. Only the bucket `doctor` is touched; what is locked there goes with a later run.

Runs each week. **Run again** at will, and after an operator has changed something.

**When it fails**: the message names the site and what it cannot do, or claims and does not do. docs/runbooks/site.md.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, DeltaTriggerTimetable, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "probe_sites",
    doc_md=__doc__,
    schedule=DeltaTriggerTimetable(timedelta(days=7)),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "sites", tag_of("internal")],
    default_args=task_defaults(owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def probe() -> dict[str, Any]:
        from rempart.flows.doctor.doctor_site import probe_all

        return probe_all(runtime.platform())

    probe()

if __name__ == "__main__":
    dag_test.run(globals())
