"""Delete the pods of jobs that no task waits for.

**Input**: the pods and TrainJobs of every pool that carry a job's labels, the jobs' records at the site, the state of
the Airflow task that began each attempt. **Output**: orphaned pods deleted, their attempts ended on the record; a log
line for each.

A pod is orphaned if its attempt has ended or was never recorded, or if the task that began it neither runs nor waits.
If the state of a pod is unknown (the record cannot be read, Airflow's API does not answer), the pod is reported and
left. Pods without credentials cannot run. An orphaned pod therefore occupies a place, but never trains a second time.

Runs every 15 minutes if `training.backend` is `kubernetes`. `dry_run` only reports.

**Run again** at any time: a second run deletes nothing more.

**When it fails**: the message names the pools that did not answer; the others were checked. Run `rempart pool doctor`.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test
from rempart.orchestration.dags import Periodic, highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

if config.load().training.backend == "kubernetes":
    dry_run = Param(False, type="boolean", description="Only report what would be deleted.")
    with DAG(
        "clean_up_pods",
        doc_md=__doc__,
        schedule=Periodic(timedelta(minutes=15)),
        params={"dry_run": dry_run},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "training", tag_of(highest_classification())],
        default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
    ) as dag:

        @task
        def clean_up(params: Any = None) -> dict[str, Any]:
            from rempart.orchestration.training.pool_janitor import clean_up

            return clean_up(dry_run=params["dry_run"])

        clean_up()

if __name__ == "__main__":
    dag_test.run(globals())
