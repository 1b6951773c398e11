"""Make another site the active one: fence the writers, drain, verify, switch, resume.

**Input**: the site. **Output**: the generation and the outcome of each step, each also evidence of kind `failover`.
Pipelines, MLflow and restore points switch to the active site. Stored URIs stay valid.

Starts by hand or by REST only. `dry_run` is on unless you switch it off: the first run shows the plan. While the site
is fenced, tasks that would commit fail and are retried.

**Run again** at any time: an interrupted run is resumed at its step. A finished run changes nothing.

**When it fails**: the message names the step and the remedy. Waiting loses nothing. If the source does not answer and
will not return in time, set `accept_loss` to switch without it. See docs/runbooks/primary-is-gone.md.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import BEFORE_ALL, highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
sites = list(config.load().sites)
params = {
    "to": Param(sites[-1], type="string", enum=sites, description="Site that becomes the active one."),
    "dry_run": Param(True, type="boolean", description="Only show the plan."),
    "accept_loss": Param(False, type="boolean", description="Continue although the source does not answer."),
}

with DAG(
    "fail_over",
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
    def fail_over(params: Any = None) -> dict[str, Any]:
        from rempart.flows.failover.fail_over import fail_over, lines

        wanted = {"dry_run": params["dry_run"], "accept_loss": params["accept_loss"]}
        return runtime.as_json(runtime.logged(fail_over(runtime.platform(), params["to"], **wanted), lines))

    fail_over()

if __name__ == "__main__":
    dag_test.run(globals())
