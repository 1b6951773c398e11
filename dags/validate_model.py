"""Compare a candidate with the gate's rules, and promote it if it passes.

**Input**: the newest candidate (or the version that the run names), its frozen held-out rows, the champion.
**Output**: the alias `champion` on the candidate and the asset `champion_<pipeline>`, or the unchanged candidate with
the gate's reasons; evidence and the version's model card in both cases. With `gate: {approval: ...}` a candidate that
passes waits, and the task `ask_person` starts `approve_model_<pipeline>`, which asks for a decision.

Candidate, champion and naive baseline are measured on the same held-out rows. A model is opened only if each of its
files has the recorded SHA-256. Loaders that the model's files name are never used.

**Run again** at any time: a version that is already champion stays champion.

**When it fails**: a refused candidate is no failure (read `reasons` in the XCom of `validate`, or `gate_reasons` in
MLflow). A failure means that the model could not be checked: it was altered, or a service did not answer. If only
`keep_card` failed, the decision holds, and the version lacks its newest model card: clear that task.
"""

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.dags import model_dags, parameter, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, champion = pipeline.name, assets.champion(pipeline.name)
    version = parameter(
        None,
        type=["null", "string"],
        pattern=r"^[0-9]{1,9}\Z",
        description="Version of the registered model; empty for the newest candidate.",
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=assets.candidate(name),
        params={"version": version},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "validate", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def validate(params: Any = None) -> dict[str, Any]:
            from rempart.flows.training.validate import validate

            return runtime.as_json(validate(runtime.platform(), runtime.model_pipeline(name), params["version"]))

        @task
        def keep_card(result: Any) -> None:
            from rempart.flows.training.explained.keep import keep

            keep(runtime.platform(), runtime.model_pipeline(name), result["version"])

        @task(outlets=[champion])
        def publish_champion(result: Any, outlet_events: Any = None) -> None:
            if not result["promoted"]:
                verdict = "Awaits approval" if result["awaits"] else "Refused by the gate"
                raise AirflowSkipException(f"{verdict}: " + "; ".join(result["reasons"]))
            outlet_events[champion].extra = {"version": result["version"]}

        result = linked(validate(), pages.MODEL_GATE)
        publish_champion(result)
        keep_card(result)
        if pipeline.gate.approval:
            from rempart.orchestration.approval.operators import StartApproval

            StartApproval(task_id="ask_person", trigger_dag_id=f"approve_model_{name}", result=result)
    return dag


globals().update(model_dags("validate_model", build))

if __name__ == "__main__":
    dag_test.run(globals())
