"""Return to the site that rempart.yaml names: bring it up to date while pipelines go on, then switch as fail_over does.

**Input**: the active site, and what its predecessor has that nobody replicated. **Output**: the generation, the outcome
of each step, and `conflicts`: keys that both sites wrote, of which both versions are kept.

Starts by hand or by REST only. `dry_run` is on unless you switch it off: the first run compares both sites and shows
the plan.

**Run again** at will: a run that was cut off is resumed, and at home there is nothing to do.

**When it fails**: the message says which step, and what to do. Both sites must answer. docs/runbooks/returning-home.md.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
params = {"dry_run": Param(True, type="boolean", description="Only show what would be done.")}

with DAG(
    "fail_back",
    doc_md=__doc__,
    schedule=None,
    params=params,
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "failover", tag_of(highest_classification())],
    default_args=task_defaults(owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def fail_back(params: Any = None) -> dict[str, Any]:
        from rempart.flows.failover.fail_over import fail_back, lines

        return runtime.as_json(runtime.logged(fail_back(runtime.platform(), dry_run=params["dry_run"]), lines))

    fail_back()

if __name__ == "__main__":
    dag_test.run(globals())
