"""Promote a candidate that passed the gate, because you approve it.

For pipelines with `gate: {approval: person}`. **Input**: a version that waits for an approval, the gate's judgement in
the ledger. **Output**: the alias `champion` on the version and the asset `champion_<pipeline>`; evidence that names
your number and the judgement.

Starts by hand or by REST only, by an operator or an admin. `dry_run` is on unless you switch it off: the first run
shows what would happen.

The version's files are compared with the record again. If another version became champion since the judgement, or the
gate's rules changed, the version is judged anew and nothing is promoted.

**Run again** at any time: a version that is already champion stays champion.

**When it fails**: the version does not wait, or its files differ from the recorded ones. The alias did not move.
"""

from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.dags import model_dags, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, champion = pipeline.name, assets.champion(pipeline.name)
    dry_run = Param(True, type="boolean", description="Only show what would happen.")
    version = Param(
        type="string", pattern=r"^[0-9]{1,9}\Z", description="Version of the registered model that you approve."
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=None,
        params={"dry_run": dry_run, "version": version},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "approve", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def approve(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from rempart.flows.approval.approve import approve
            from rempart.flows.training.explained.keep import keep

            platform, spec = runtime.platform(), runtime.model_pipeline(name)
            by, asked = runtime.person(platform, dag_run), dag_run.run_after
            done = approve(platform, spec, params["version"], by=by, dry_run=params["dry_run"], asked=asked)
            if not params["dry_run"]:
                keep(platform, spec, params["version"])
            return runtime.as_json(done)

        @task(outlets=[champion])
        def publish_champion(result: Any, outlet_events: Any = None) -> None:
            if not result["promoted"]:
                raise AirflowSkipException(result["told"])
            outlet_events[champion].extra = {"version": result["version"]}

        publish_champion(linked(approve(), pages.MODEL_GATE))
    return dag


globals().update(model_dags("approve_model", build, lambda pipeline: pipeline.gate.approval == "person"))

if __name__ == "__main__":
    dag_test.run(globals())
