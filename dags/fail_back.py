"""Return to the site that rempart.yaml names: update it while pipelines continue, then switch like fail_over.

**Input**: the active site, and the objects of the previous site that were never replicated. **Output**: the
generation, the outcome of each step, and `conflicts`: keys that both sites wrote. Both versions of such a key are
kept.

Starts by hand or by REST only. `dry_run` is on unless you switch it off: the first run compares both sites and shows
the plan.

**Run again** at any time: an interrupted run is resumed. If the platform is already back, the run changes nothing.

**When it fails**: the message names the step and the remedy. Both sites must answer. See
docs/runbooks/returning-home.md.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import BEFORE_ALL, highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
params = {"dry_run": Param(True, type="boolean", description="Only show the plan.")}

with DAG(
    "fail_back",
    doc_md=__doc__,
    schedule=None,
    params=params,
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "failover", tag_of(highest_classification())],
    default_args=BEFORE_ALL
    | task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def fail_back(params: Any = None) -> dict[str, Any]:
        from rempart.flows.failover.fail_over import fail_back, lines

        return runtime.as_json(runtime.logged(fail_back(runtime.platform(), dry_run=params["dry_run"]), lines))

    fail_back()

if __name__ == "__main__":
    dag_test.run(globals())
