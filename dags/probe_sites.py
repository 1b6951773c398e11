"""Probe the capabilities of every declared site, on the site itself, and record the outcome as evidence.

**Input**: the sites of rempart.yaml. **Output**: a signed ledger record of kind `capabilities` for each site; the
findings in the task's log. For each unproven capability the log says what Rempart does without it.

Replication, restore points and the export of evidence refuse a site if its record lacks a capability that they need,
or is older than 30 days. The probe writes only to the bucket `doctor`. A later run removes objects that are still
locked there.

Runs each week. **Run again** at any time, and after an operator changed something.

**When it fails**: the message names the site and the capability that it lacks, or that it claims without having it.
See docs/runbooks/site.md.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import Periodic, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "probe_sites",
    doc_md=__doc__,
    schedule=Periodic(timedelta(days=7)),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "sites", tag_of("internal")],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def probe() -> dict[str, Any]:
        from rempart.flows.doctor.doctor_site import probe_all

        return probe_all(runtime.platform())

    probe()

if __name__ == "__main__":
    dag_test.run(globals())
