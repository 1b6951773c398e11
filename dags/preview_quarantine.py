"""Read the quarantined rows of one delivery, encrypted for the person who asked.

The cockpit's page of the pipeline starts this DAG.

**Input**: the quarantine of a delivery at the active site. **Output**: the first 200 rows with their reasons,
encrypted with age for the recipient, as the XCom of `preview`; evidence of kind `look`, with the user and the
delivery.

The web server cannot reach a site, so a task reads the rows. The cockpit makes a key for one look and keeps it for 30
minutes in the browser that asked. No other person can read the XCom, and after that time nobody can. A script makes
its own key (`age-keygen`), triggers the DAG with its recipient, and decrypts `sealed` of the XCom with `base64 -d |
age -d -i KEYFILE`.

**Run again** at any time: each run is a look, and is recorded as evidence.

**When it fails**: the message names the missing rows, or the site or database that did not answer. Rows that were
erased, or whose retention has ended, cannot be shown.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import pipeline_dags, task_defaults
from rempart.settings import config
from rempart.settings.pipeline import Pipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: Pipeline) -> DAG:
    name = pipeline.name
    params = {
        "delivery": Param(
            type="string",
            pattern=r"^[0-9a-f]{64}\Z",
            description="SHA-256 of a delivery. The cockpit's page of the pipeline lists them.",
        ),
        "recipient": Param(
            type="string",
            pattern=r"^age1[02-9ac-hj-np-z]{58}\Z",
            description="Public half of the age key for which the rows are encrypted.",
        ),
    }
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=None,
        params=params,
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "quarantine", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def preview(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from rempart.flows.ingestion.quarantine import look

            key, by = params["recipient"], dag_run.triggering_user_name
            found = look(runtime.platform(), runtime.pipeline(name), params["delivery"], key, by=by)
            return runtime.as_json(found)

        preview()
    return dag


globals().update(pipeline_dags("preview_quarantine", build))

if __name__ == "__main__":
    dag_test.run(globals())
