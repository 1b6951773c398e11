"""Retire versions of models that nothing needs any more: delete their files and training sets at every site.

**Input**: the evidence of each model, MLflow's versions and aliases, the restore points of every site, the rule
`retention.*.models` and `newest_models`. **Output**: the versions deleted in MLflow, their files deleted, evidence of
kind `retirement` with the SHA-256 of what went; the runs of MLflow stay. The models of trials of old searches go, too,
with evidence of kind `trial-retirement`.

Never retired: the champion, the version to which a rollback returns, what a restore point needs, a version with an
alias, a version whose use is unknown. `dry_run` only reports.

Runs each week. **Run again** at any time: a second run completes an interrupted one, and deletes nothing more.

**When it fails**: the message names the site or server that did not answer. Nothing was deleted for that model, or the
next run completes it. See docs/how-to/retire-models.md.
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, pages, runtime
from rempart.orchestration.dags import at, highest_classification, parameter, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
dry_run = parameter(False, type="boolean", description="Only report what would be retired.")

with DAG(
    "retire_models",
    doc_md=__doc__,
    schedule=at("30 4 * * 0"),
    params={"dry_run": dry_run},
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "models", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def retire(params: Any = None) -> dict[str, Any]:
        from rempart.flows.retirement.execute import retire_all

        return retire_all(runtime.platform(), dry_run=params["dry_run"])

    linked(retire(), pages.MODEL_GATE)

if __name__ == "__main__":
    dag_test.run(globals())
