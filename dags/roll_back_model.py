"""Return the alias `champion` to the version that had it before.

**Input**: the ledger's promotions. **Output**: the alias `champion` on the previous version; evidence of the change.

Starts by hand or by REST only. `dry_run` is on unless you switch it off: the first run shows the plan.

`replaces` is the version that the plan showed as champion. If another version is champion by then, the run changes
nothing.

**Run again**: each run without `dry_run` goes back one more promotion. With `replaces`, a second run changes nothing.

**When it fails**: there is no earlier champion, or its files differ from the recorded ones. The alias did not move.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, pages, runtime
from rempart.orchestration.dags import model_dags, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name = pipeline.name
    dry_run = Param(True, type="boolean", description="Only show the plan.")
    replaces = Param(
        None,
        type=["null", "string"],
        pattern=r"^[0-9]{1,9}\Z",
        description="Change the alias only if this version is champion. Empty: any version.",
    )
    params = {"dry_run": dry_run, "replaces": replaces}
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=None,
        params=params,
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "roll-back", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def roll_back(params: Any = None) -> dict[str, Any]:
            from rempart.flows.training.validate import roll_back

            asked = {"dry_run": params["dry_run"], "replaces": params["replaces"]}
            return runtime.as_json(roll_back(runtime.platform(), runtime.model_pipeline(name), **asked))

        linked(roll_back(), pages.MODEL_GATE)
    return dag


globals().update(model_dags("roll_back_model", build))

if __name__ == "__main__":
    dag_test.run(globals())
