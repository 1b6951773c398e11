"""Ask a person about a candidate that passed the gate, and promote it if the answer is yes.

For pipelines with `gate: {approval: {by: operator, four_eyes: true, within: 48h}}`. **Input**: a version that waits for
an approval, the gate's judgement in the ledger. **Output**: the alias `champion` on the version and the asset
`champion_<pipeline>`, or the version rejected; evidence of who decided, when and why; the version's model card with the
decision.

`validate_model_<pipeline>` starts it when a candidate passed. It waits under *Required Actions* until somebody chooses
*Approve* or *Reject* and gives a reason. An answer of somebody who may not decide, such as the author, does not count:
it is evidence, and the next run of this DAG asks again. Without an answer in time the version is rejected.

The version's files are compared with the record again. If another version became champion since the judgement, or the
gate's rules changed, the version is judged anew and asked about again.

**Run again** with the version to ask again, for example after a run failed. The time goes on: it counts from the
judgement.

**When it fails**: the version's files differ from the recorded ones, another decision was made meanwhile, or a note
could not be sent (task `notify`; the question waits all the same). The alias did not move. If a service did not answer
when the decision was to be recorded, the task asks again.
"""

from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.approval.operators import MOST_OPEN, AskPerson, StartApproval, notified
from rempart.orchestration.dags import model_dags, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, champion, rule = pipeline.name, assets.champion(pipeline.name), pipeline.gate.approval
    assert rule is not None  # noqa: S101 - only such pipelines have this DAG
    version = Param(
        type="string", pattern=r"^[0-9]{1,9}\Z", description="Version of the registered model to ask about."
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=None,
        params={"version": version},
        catchup=False,
        max_active_runs=MOST_OPEN + 1,
        tags=["rempart", "approve", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def notify(params: Any = None, dag_run: Any = None) -> list[str]:
            return notified(name, params["version"], dag_run.dag_id, dag_run.run_id)

        @task(outlets=[champion])
        def publish_champion(result: Any, outlet_events: Any = None) -> None:
            if not result["promoted"]:
                raise AirflowSkipException(result["told"])
            outlet_events[champion].extra = {"version": result["version"]}

        @task
        def keep_card(result: Any) -> None:
            from rempart.flows.training.explained.keep import keep

            if result["awaits"] and result["became"] != "judged anew":
                raise AirflowSkipException(result["told"])
            keep(runtime.platform(), runtime.model_pipeline(name), result["version"])

        decide = linked(AskPerson(task_id="decide", pipeline=name, within=rule.within), pages.MODEL_GATE)
        publish_champion(decide.output)
        keep_card(decide.output)
        StartApproval(task_id="ask_again", trigger_dag_id=dag_id, result=decide.output)
        if rule.notify:
            notify()
    return dag


globals().update(model_dags("approve_model", build, lambda pipeline: pipeline.gate.approval is not None))

if __name__ == "__main__":
    dag_test.run(globals())
